"""Drawings of the miniature world -> small colour images with an effect, in random poses and colours.

All randomness comes from one generator, so that the same seed gives the same bytes on one machine.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .demo_render import blur, contour, uniform

ART, SIZE = 64, 48  # side of a drawing and of an image, in pixels
EFFECTS = (
    *("plain", "negative", "framed", "striped", "upside down"),
    *("outline", "grey", "pixelated", "blurry", "noisy", "faded"),
)
INSIDE = 0.72  # size of a drawing within its frame


def place(art: Tensor, scale: Tensor, angle: Tensor, shift: Tensor, bend: Tensor | None) -> Tensor:
    """Put drawings on the canvas: scaled, turned, shifted, and bent like a drawing on rubber.

    Args:
        art: colours times coverage, and coverage, [B, 4, ART, ART].
        scale: size on the canvas, 1 = full, [B, 2] (x, y).
        angle: radians, [B].
        shift: of the centre, in half canvases, [B, 2] (x, y).
        bend: coarse field of displacements in half canvases, [B, 2, h, w], or None.

    Returns:
        [B, 4, SIZE, SIZE].
    """
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([cos, sin, -sin, cos], 1).view(-1, 2, 2) / scale[:, :, None]
    offset = -(matrix @ shift[:, :, None])
    grid = F.affine_grid(torch.cat([matrix, offset], 2), [len(art), 4, SIZE, SIZE], align_corners=False)
    if bend is not None:
        grid = grid + F.interpolate(bend, (SIZE, SIZE), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    return F.grid_sample(art, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def frames(count: int, generator: Generator) -> Tensor:
    """Boxes with round corners near the border of the canvas, as coverage [B, 1, SIZE, SIZE]."""
    axis = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    power = uniform(generator, 4, 9, count, 1, 1)
    reach = (axis.abs()[None, :, None] ** power + axis.abs()[None, None, :] ** power) ** (1 / power)
    outer = uniform(generator, 0.86, 0.96, count, 1, 1)
    width = uniform(generator, 0.08, 0.14, count, 1, 1)
    edge = SIZE / 2  # one pixel from bare to covered
    return (((outer - reach) * edge).clamp(0, 1) - ((outer - width - reach) * edge).clamp(0, 1))[:, None]


def stripes(count: int, generator: Generator) -> Tensor:
    """How dark striped paper is, in [0, 1], [B, 1, SIZE, SIZE]: bars of any direction, 5 to 9 pixels apart."""
    axis = torch.arange(SIZE).float()
    angle, start = (uniform(generator, 0, end, count, 1, 1) for end in (math.pi, 2 * math.pi))
    wave = 2 * math.pi / uniform(generator, 5, 9, count, 1, 1)
    along = angle.cos() * axis[None, None, :] + angle.sin() * axis[None, :, None]
    return (0.5 + 1.5 * (wave * along + start).sin()).clamp(0, 1)[:, None]


def paint(art: Tensor, mono: Tensor, generator: Generator, striped: Tensor | None = None) -> Tensor:
    """Lay drawings on light paper; those of one colour are drawn with a dark pen of any hue.

    Args:
        art: [B, 4, SIZE, SIZE], as `place` returns.
        mono: which drawings have one colour, bool [B].
        generator: of pens, papers and stripes.
        striped: which lie on striped paper, bool [B].

    Returns:
        images in [0, 1], [B, 3, SIZE, SIZE].
    """
    count = len(art)
    pen = uniform(generator, 0, 0.25, count, 1) + uniform(generator, 0, 0.3, count, 3)
    paper = (uniform(generator, 0.85, 1, count, 1) - uniform(generator, 0, 0.12, count, 3)).clamp(0, 1)
    ink = art[:, 3:]
    colour = torch.where(mono[:, None, None, None], pen[:, :, None, None] * ink, art[:, :3])
    paper = paper[:, :, None, None].expand(-1, -1, SIZE, SIZE)
    if striped is not None and striped.any():
        rows = striped.nonzero()[:, 0]
        paper = paper.clone()
        paper[rows] *= 1 - uniform(generator, 0.3, 0.45, len(rows), 1, 1, 1) * stripes(len(rows), generator)
    return (colour + (1 - ink) * paper).clamp(0, 1)


def apply_effects(images: Tensor, effect: Tensor, generator: Generator) -> Tensor:
    """The effects that work on the finished image.

    Args:
        images: in [0, 1], [B, 3, SIZE, SIZE].
        effect: index into `EFFECTS`, [B].
    """
    images = images.clone()

    def picked(name: str) -> Tensor:
        return (effect == EFFECTS.index(name)).nonzero()[:, 0]

    images[picked("negative")] = 1 - images[picked("negative")]
    images[picked("grey")] = images[picked("grey")].mean(1, keepdim=True).expand(-1, 3, -1, -1)
    images[picked("faded")] = 0.7 + 0.25 * (images[picked("faded")] - 0.7)
    if len(rows := picked("pixelated")):
        images[rows] = F.interpolate(F.avg_pool2d(images[rows], 4), scale_factor=4, mode="nearest")
    if len(rows := picked("blurry")):
        images[rows] = blur(images[rows], uniform(generator, 1.2, 2.0, len(rows)))
    if len(rows := picked("noisy")):
        grain = torch.randn(len(rows), 1, SIZE, SIZE, generator=generator)
        images[rows] = images[rows] + uniform(generator, 0.15, 0.35, len(rows), 1, 1, 1) * grain
    return images.clamp(0, 1)


def render(
    art: Tensor,
    mono: Tensor,
    effect: Tensor,
    generator: Generator,
    variety: float = 1.0,
    bend: float = 0.0,
    turn: float = 0.0,
) -> Tensor:
    """Draw small colour images in random poses and colours.

    Args:
        art: drawings, RGBA, uint8 [B, ART, ART, 4].
        mono: which drawings have one colour, bool [B].
        effect: index into `EFFECTS`, [B].
        generator: source of all randomness.
        variety: how much size, proportions, angle and position vary.
        bend: strength of the rubber-like bending, 0 for none.
        turn: further range of the angle, in radians.

    Returns:
        images in [0, 1], [B, 3, SIZE, SIZE].
    """
    count = len(art)
    ink = art.permute(0, 3, 1, 2).float() / 255
    ink = torch.cat([ink[:, :3] * ink[:, 3:], ink[:, 3:]], 1)
    flipped = effect == EFFECTS.index("upside down")
    ink[flipped] = ink[flipped].flip(2, 3)
    size = uniform(generator, 0.85 - 0.25 * variety, 0.92, count, 1)
    framed = (effect == EFFECTS.index("framed")).nonzero()[:, 0]
    size[framed] *= INSIDE
    scale = size * (1 + uniform(generator, -0.1, 0.1, count, 2) * variety)
    angle = uniform(generator, -0.15, 0.15, count) * variety + uniform(generator, -turn, turn, count)
    shift = uniform(generator, -1, 1, count, 2) * (1.0 - size).clamp(min=0) * variety
    shift[framed] *= 0.1
    field = bend * torch.randn(count, 2, 4, 4, generator=generator) if bend else None
    ink = place(ink, scale, angle, shift, field)
    traced = ((effect == EFFECTS.index("outline")) & mono).nonzero()[:, 0]
    if len(traced):
        ink[traced, 3:] = contour(ink[traced, 3:], 1)
    if len(framed):
        boxes = frames(len(framed), generator)
        ink[framed] = ink[framed] * (1 - boxes)
        ink[framed, 3:] += boxes  # black, which the pen colours where drawings have one colour
    images = paint(ink, mono, generator, effect == EFFECTS.index("striped"))
    return apply_effects(images, effect, generator)
