"""Drawings for the demo world: icon fonts -> glyph masks -> small colour images with styles and effects.

The fonts come with the PyPI package QtAwesome (their licences are in `clip/demo/MODEL_CARD.md`); they are read from its
folder without importing it, since importing it would need Qt. All randomness comes from one generator, so that the same
seed gives the same bytes on one machine. (Another Pillow/FreeType or torch build may round a pixel differently.)
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

# Designer -> (file stem in QtAwesome's folder up to the version, font file ending).
FONTS = {
    "material": "materialdesignicons6-webfont",
    "codicon": "codicon",
    "elusive": "elusiveicons-webfont",
    "phosphor": "phosphor",
    "remix": "remixicon",
    "awesome": "fontawesome6-solid-webfont",
}
MASK, SIZE = 96, 48  # side of a glyph mask and of an image, in pixels
EFFECTS = ("none", "pixelated", "blurry", "noisy", "dark", "bright", "sketch")


@cache
def font_files(designer: str) -> tuple[Path, Path]:
    """The font file and the name map (JSON) of a designer.

    Args:
        designer: a key of `FONTS`.

    Raises:
        FileNotFoundError: QtAwesome is not installed, or has no such font.
    """
    spec = importlib.util.find_spec("qtawesome")  # finds the folder without running the package, which would need Qt
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "the demo world draws icons from the package QtAwesome, which is not installed: pip install QtAwesome"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "fonts"
    stem = re.escape(FONTS[designer])
    for font in sorted(folder.glob("*.ttf")):
        found = re.fullmatch(rf"{stem}-(\d[\d.]*)\.ttf", font.name)
        charmap = folder / f"{FONTS[designer]}-charmap-{found[1]}.json" if found else None
        if charmap and charmap.is_file():
            return font, charmap
    raise FileNotFoundError(
        f"no {FONTS[designer]}-<version>.ttf with its charmap in {folder}; QtAwesome 1.3 or later has them"
    )


@cache
def glyph_names(designer: str) -> dict[str, str]:
    """Name -> character for every icon of a designer, in the order of the name map."""
    return {name: chr(int(code, 16)) for name, code in json.loads(font_files(designer)[1].read_text()).items()}


def glyph_masks(designer: str, names: Sequence[str]) -> np.ndarray:
    """Glyphs as coverage masks, each fitted to the mask by the longer side of its box and centred.

    The box is Pillow's: as wide as the advance, from the top of the ink down to the baseline. So an icon keeps the
    margins at its sides, and a flat one (a minus) lies above the centre.

    Args:
        designer: a key of `FONTS`.
        names: N icon names of this designer.

    Returns:
        uint8 [N, MASK, MASK], 255 where there is ink.
    """
    font, characters = ImageFont.truetype(str(font_files(designer)[0]), 2 * MASK), glyph_names(designer)
    masks = np.zeros((len(names), MASK, MASK), np.uint8)
    for mask, name in zip(masks, names, strict=True):
        left, top, right, bottom = font.getbbox(characters[name])
        if right <= left or bottom <= top:
            continue  # an empty glyph (some fonts hold a blank)
        glyph = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(glyph).text((-left, -top), characters[name], fill=255, font=font)
        ratio = MASK / max(glyph.size)
        width, height = (max(1, round(side * ratio)) for side in glyph.size)
        x, y = (MASK - width) // 2, (MASK - height) // 2
        mask[y : y + height, x : x + width] = np.asarray(glyph.resize((width, height), Image.Resampling.BOX))
    return masks


def uniform(generator: Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform random numbers between `low` and `high`."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def thicken(ink: Tensor, steps: Tensor) -> Tensor:
    """Grow (positive) or shrink (negative) what is drawn, pixel by pixel.

    Args:
        ink: [B, 1, H, W] in [0, 1].
        steps: pixels on every side, integer [B].
    """
    ink = ink.clone()
    for step in range(1, int(steps.abs().max()) + 1 if len(steps) else 1):
        grow, shrink = (steps >= step).nonzero()[:, 0], (steps <= -step).nonzero()[:, 0]
        if len(grow):
            ink[grow] = F.max_pool2d(ink[grow], 3, 1, 1)
        if len(shrink):
            ink[shrink] = 1 - F.max_pool2d(1 - ink[shrink], 3, 1, 1)
    return ink


def contour(ink: Tensor, width: int) -> Tensor:
    """The edge of what is drawn, about 2 x `width` pixels wide: [B, 1, H, W] -> the same."""
    steps = torch.full((len(ink),), width)
    return thicken(ink, steps) - thicken(ink, -steps)


def place(ink: Tensor, scale: Tensor, angle: Tensor, shift: Tensor, bend: Tensor | None = None) -> Tensor:
    """Put glyphs on the canvas: scaled, turned, shifted, and bent like a drawing on rubber.

    Args:
        ink: glyphs filling their masks, [B, 1, H, W].
        scale: size on the canvas, 1 = full, [B, 2] (x, y).
        angle: radians, [B].
        shift: of the centre, in half canvases, [B, 2] (x, y).
        bend: coarse field of displacements in half canvases, [B, 2, h, w], or None.

    Returns:
        [B, 1, H, W].
    """
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, sin, -sin, cos], 1).view(-1, 2, 2)
    matrix = turn / scale[:, :, None]
    offset = -(matrix @ shift[:, :, None])
    grid = F.affine_grid(torch.cat([matrix, offset], 2), list(ink.shape), align_corners=False)
    if bend is not None:
        field = F.interpolate(bend, ink.shape[-2:], mode="bilinear", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1)
    return F.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def sketch(ink: Tensor, generator: Generator) -> Tensor:
    """As if drawn by hand: two wobbly contours and a hatching, [B, 1, H, W] -> the same."""
    count, _, height, width = ink.shape
    edge = contour(ink, 1)
    ones, zeros = torch.ones(count, 2), torch.zeros(count)
    lines = [
        place(edge, ones, zeros, zeros[:, None].expand(-1, 2), 0.03 * torch.randn(count, 2, 9, 9, generator=generator))
        for _ in range(2)
    ]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    period = torch.randint(6, 12, (count, 1, 1, 1), generator=generator)
    hatch = ((x + y) % period < 2).float() * ink
    return torch.maximum(torch.maximum(0.9 * lines[0], 0.8 * lines[1]), 0.6 * hatch)


def paint(ink: Tensor, effect: Tensor, generator: Generator) -> Tensor:
    """Colour the drawings: a dark pen on light paper, except where the effect is dark or bright.

    Args:
        ink: [B, 1, H, W] in [0, 1].
        effect: index into `EFFECTS`, [B].

    Returns:
        images in [0, 1], [B, 3, H, W].
    """
    count, _, height, width = ink.shape
    pen_range = torch.tensor([[0.0, 0.35]] * len(EFFECTS))
    paper_range = torch.tensor([[0.75, 1.0]] * len(EFFECTS))
    pen_range[EFFECTS.index("dark")], paper_range[EFFECTS.index("dark")] = (
        torch.tensor([0.3, 0.6]),
        torch.tensor([0.0, 0.15]),
    )
    pen_range[EFFECTS.index("bright")], paper_range[EFFECTS.index("bright")] = (
        torch.tensor([0.6, 0.85]),
        torch.tensor([0.95, 1.0]),
    )
    colours = []
    for ranges in (pen_range[effect], paper_range[effect]):
        grey = ranges[:, :1] + (ranges[:, 1:] - ranges[:, :1]) * torch.rand(count, 1, generator=generator)
        tint = uniform(generator, -1, 1, count, 3) * (ranges[:, 1:] - ranges[:, :1]) * 0.5
        colours.append((grey + tint).clamp(0, 1)[:, :, None, None])
    slope = uniform(generator, -0.08, 0.08, count, 2, 1, 1)
    ramp = slope[:, :1] * torch.linspace(-1, 1, width) + slope[:, 1:] * torch.linspace(-1, 1, height)[:, None]
    pen, paper = colours[0], (colours[1] + ramp).clamp(0, 1)
    return paper + (pen - paper) * ink


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, each image with its own width.

    Args:
        images: [B, 3, H, W].
        sigma: in pixels, at most about 2, [B].
    """
    taps = torch.arange(-4, 5)
    weights = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True))[:, :, None, None, None]
    padded, (height, width) = F.pad(images, (4, 4, 4, 4), mode="replicate"), images.shape[-2:]
    rows = sum(weights[:, k] * padded[:, :, k : k + height] for k in range(9))
    return sum(weights[:, k] * rows[..., k : k + width] for k in range(9))


def degrade(images: Tensor, effect: Tensor, generator: Generator) -> Tensor:
    """Image effects: pixelated, blurry, noisy; sketches get grainy paper.

    Args:
        images: in [0, 1], [B, 3, H, W] with H and W divisible by 12.
        effect: index into `EFFECTS`, [B].
    """
    images = images.clone()
    for cell in (3, 4):
        chosen = (effect == EFFECTS.index("pixelated")) & (
            torch.rand(len(images), generator=generator) < (0.5 if cell == 3 else 2)
        )
        picked = chosen.nonzero()[:, 0]
        if cell == 3:
            first = picked
        else:
            picked = picked[~torch.isin(picked, first)]
        if len(picked):
            images[picked] = F.interpolate(F.avg_pool2d(images[picked], cell), scale_factor=cell, mode="nearest")
    picked = (effect == EFFECTS.index("blurry")).nonzero()[:, 0]
    if len(picked):
        images[picked] = blur(images[picked], uniform(generator, 1.0, 2.0, len(picked)))
    for name, low, high in (("noisy", 0.15, 0.35), ("sketch", 0.03, 0.08)):
        picked = (effect == EFFECTS.index(name)).nonzero()[:, 0]
        if len(picked):
            grain = torch.randn(len(picked), 1, *images.shape[-2:], generator=generator)
            images[picked] = images[picked] + uniform(generator, low, high, len(picked), 1, 1, 1) * grain
    return images.clamp(0, 1)


def render(
    masks: Tensor, effect: Tensor, generator: Generator, variety: float = 1.0, bend: float = 0.0, turn: float = 0.0
) -> Tensor:
    """Draw glyphs as small colour images in random poses and colours.

    Args:
        masks: glyphs from `glyph_masks` divided by 255, [B, MASK, MASK].
        effect: index into `EFFECTS`, [B].
        generator: source of all randomness.
        variety: how much size, proportions, angle and position vary.
        bend: strength of the rubber-like bending, 0 for none.
        turn: further range of the angle, in radians.

    Returns:
        images in [0, 1], [B, 3, SIZE, SIZE].
    """
    count = len(masks)
    size = uniform(generator, 0.85 - 0.25 * variety, 0.9, count, 1)
    scale = size * (1 + uniform(generator, -0.1, 0.1, count, 2) * variety)
    angle = uniform(generator, -0.2, 0.2, count) * variety + uniform(generator, -turn, turn, count)
    shift = uniform(generator, -1, 1, count, 2) * (1.02 - size).clamp(min=0) * variety
    field = bend * torch.randn(count, 2, 4, 4, generator=generator) if bend else None
    ink = place(masks[:, None], scale, angle, shift, field)
    drawn = (effect == EFFECTS.index("sketch")).nonzero()[:, 0]
    if len(drawn):
        ink[drawn] = sketch(ink[drawn], generator)
    images = paint(F.avg_pool2d(ink, MASK // SIZE), effect, generator)
    return degrade(images, effect, generator)
