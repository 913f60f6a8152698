"""The demo world: data sets of icons that draw themselves on first use, so that every protocol runs offline.

`DemoIcons` is the main set (100 everyday things, base 50 / new 50), `DemoSymbols` and `DemoObjects` hold other concepts
(cross-dataset), `DemoIconsSketch`, `DemoIconsPixel` and `DemoIconsTilted` are test-only copies of the main set with
other drawings' looks (domain generalization, like ImageNetV2 and its kin). All are drawn by designers that the demo
backbone never saw: Phosphor, Remix and Font Awesome. Nothing is downloaded; the fonts come with QtAwesome.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from . import splits
from .base import ImageNetShift
from .drawn import DrawnSet, draw_once
from .splits import Item, Split

VERSION, SEED = 1, 1
CHUNK = 256  # pictures rendered together
WEIGHTS = ("", "-thin", "-light", "-bold")  # Phosphor's line weights; they share one shape
PARTS = ("train", "val", "test")
MAIN = (
    "alarm anchor atom baby bank barcode baseball basketball bed bell bicycle book bookmark brain briefcase brush "
    "bug bus cake calculator calendar camera car cat clipboard clock cloud compass cookie crown cube database "
    "diamond dog door eraser eye file fingerprint fire fish flag flashlight flask folder football ghost gift "
    "hammer handshake headphones headset heart horse image key keyboard knife laptop leaf lifebuoy lightbulb lock "
    "magnet map medal microphone microscope mouse newspaper palette paperclip passport pen pencil phone printer "
    "radio receipt robot rocket ruler shield skull snowflake star stethoscope sword table tag thermometer ticket "
    "train tree trophy truck umbrella virus wallet wheelchair"
).split()
SYMBOLS = (
    "arrow down, arrow left, arrow right, arrow up, asterisk, at, bluetooth, chart bar, chart line, chart pie, "
    "check, circle, copyright, crop, download, eject, hexagon, infinity, link, minus, pause, peace, percent, "
    "play, plus, prescription, recycle, repeat, rewind, rss, share, shuffle, square, star half, stop, trademark, "
    "triangle, upload, voicemail, wifi"
).split(", ")
OBJECTS = (
    "airplane, archive, battery, bird, book open, cactus, caravan, coffee, credit card, door open, factory, film, "
    "filter, flower, folder open, fridge, gamepad, hospital, inbox, lamp, lungs, meteor, monitor, music, "
    "notebook, pizza, server, shower, speaker, store, tablet, taxi, television, tennis ball, test tube, traffic "
    "light, video, volleyball, watch, wrench"
).split(", ")


@dataclass(frozen=True)
class Recipe:
    """How a data set is drawn.

    Attributes:
        folder: below the data root.
        names: class names; labels follow their alphabetical order.
        counts: images a class in train, val and test.
        effects: weight of each effect (others do not occur).
        turn: angle range in radians, added to what every drawing varies.
    """

    folder: str
    names: Sequence[str]
    counts: tuple[int, int, int]
    effects: dict[str, float]
    turn: float = 0.0


MIXED = {"none": 3.0, "pixelated": 1.0, "blurry": 1.0, "noisy": 1.0, "dark": 1.0, "bright": 1.0}
RECIPES = {
    "DemoIcons": Recipe("demo_icons", MAIN, (20, 4, 12), MIXED),
    "DemoSymbols": Recipe("demo_symbols", SYMBOLS, (20, 4, 12), MIXED),
    "DemoObjects": Recipe("demo_objects", OBJECTS, (20, 4, 12), MIXED),
    "DemoIconsSketch": Recipe("demo_icons_sketch", MAIN, (0, 0, 10), {"sketch": 1.0}),
    "DemoIconsPixel": Recipe("demo_icons_pixel", MAIN, (0, 0, 10), {"pixelated": 1.0}),
    "DemoIconsTilted": Recipe("demo_icons_tilted", MAIN, (0, 0, 10), {"none": 1.0}, turn=0.8),
}


@dataclass(frozen=True)
class Picture:
    """One image to be drawn."""

    part: str
    label: int
    classname: str
    designer: str
    glyph: str
    effect: str
    number: int

    @property
    def path(self) -> str:
        """Relative path; it tells part, designer, icon and effect."""
        folder = self.classname.replace(" ", "_")
        return f"{folder}/{self.part}_{self.number:02d}_{self.designer}_{self.glyph}_{self.effect}.png"


def shapes(name: str) -> list[list[tuple[str, str]]]:
    """All drawings of a concept by the three designers, as (designer, glyph), grouped by shape.

    Drawings of one shape (the line weights of one Phosphor icon) look nearly alike, so they never fall on both sides of
    the train/test split. Numbered and "simple" versions of an icon are drawings of the same thing.
    """
    from .demo_render import glyph_names

    known = {designer: glyph_names(designer) for designer in ("phosphor", "remix", "awesome")}
    stem = name.replace(" ", "-")
    groups = []
    for version in (stem, f"{stem}-simple"):
        groups.append([("phosphor", version + weight) for weight in WEIGHTS])
        groups.append([("phosphor", f"{version}-fill")])
    for version in (stem, *(f"{stem}-{number}" for number in range(2, 7))):
        groups += [[("remix", f"{version}-line")], [("remix", f"{version}-fill")]]
    groups.append([("awesome", stem)])
    present = [[(designer, glyph) for designer, glyph in group if glyph in known[designer]] for group in groups]
    return [group for group in present if group]


def divide(name: str, rng: random.Random) -> dict[str, list[tuple[str, str]]]:
    """Drawings of a concept for training (and validation) and, two fifths of the shapes but at least one, for testing.

    Raises:
        DataError: fewer than two shapes, which happens if the icon fonts are of another version.
    """
    groups = shapes(name)
    if len(groups) < 2:
        raise splits.DataError(
            f"the icon fonts hold {len(groups)} shapes of {name!r}, expected two or more; use QtAwesome 1.4"
        )
    rng.shuffle(groups)
    cut = max(1, round(0.4 * len(groups)))
    test, train = ([drawing for group in part for drawing in group] for part in (groups[:cut], groups[cut:]))
    return {"train": train, "val": train, "test": test}


def plan(recipe: Recipe, seed: int = SEED) -> list[Picture]:
    """Which images a data set has. The split of shapes depends on the concept and the seed only.

    So the test-only copies of the main set use exactly the drawings that its test images use.
    """
    effects, weights = list(recipe.effects), list(recipe.effects.values())
    pictures = []
    for label, name in enumerate(sorted(recipe.names)):
        drawings = divide(name, random.Random(f"{seed} {name}"))
        rng = random.Random(f"{seed} {recipe.folder} {name}")
        for part, count in zip(PARTS, recipe.counts, strict=True):
            for number in range(count):
                designer, glyph = rng.choice(drawings[part])
                effect = rng.choices(effects, weights)[0]
                pictures.append(Picture(part, label, name, designer, glyph, effect, number))
    return pictures


def draw_pictures(
    pictures: Sequence[Picture], folder: Path, turn: float = 0.0, seed: int = SEED, title: str = "drawing"
) -> None:
    """Draw pictures into PNG files below `folder`, with a progress bar.

    Args:
        pictures: what to draw, see `plan`.
        folder: image folder; sub-folders are made.
        turn: see `Recipe`.
        seed: of sizes, positions, colours and noise.
        title: of the progress bar.
    """
    import numpy as np
    import torch
    from PIL import Image

    from . import demo_render as render

    generator = torch.Generator().manual_seed(seed)
    for picture in pictures:
        (folder / picture.path).parent.mkdir(parents=True, exist_ok=True)
    glyphs = sorted({(picture.designer, picture.glyph) for picture in pictures})
    masks = {}
    for designer in sorted({designer for designer, _ in glyphs}):
        names = [glyph for other, glyph in glyphs if other == designer]
        masks |= {(designer, name): mask for name, mask in zip(names, render.glyph_masks(designer, names), strict=True)}
    with tqdm(total=len(pictures), desc=title, unit="img", disable=None) as bar:
        for start in range(0, len(pictures), CHUNK):
            some = pictures[start : start + CHUNK]
            ink = torch.from_numpy(np.stack([masks[p.designer, p.glyph] for p in some])).float() / 255
            effect = torch.tensor([render.EFFECTS.index(p.effect) for p in some])
            images = render.render(ink, effect, generator, turn=turn)
            pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
            for picture, array in zip(some, pixels, strict=True):
                Image.fromarray(array).save(folder / picture.path)
            bar.update(len(some))


def make(name: str, root: str | Path) -> Path:
    """Draw a data set below the data root unless it is there. Returns its folder.

    Args:
        name: a key of `RECIPES`.
        root: the data root.

    Raises:
        DataError: see `drawn.draw_once`.
    """
    recipe = RECIPES[name]

    def draw(images: Path) -> Split:
        pictures = plan(recipe)
        draw_pictures(pictures, images, recipe.turn, title=f"drawing {name}")
        return Split(*([Item(p.path, p.label, p.classname) for p in pictures if p.part == part] for part in PARTS))

    folder = Path(os.path.abspath(os.path.expanduser(root))) / recipe.folder
    return draw_once(name, folder, {"version": VERSION, "seed": SEED}, "the demo world", draw)


class DemoSet(DrawnSet):
    """A set of this world."""

    @classmethod
    def make(cls, root: str) -> Path:
        """See `make`."""
        return make(cls.__name__, root)


class DemoIcons(DemoSet):
    """The main set: 100 everyday things in mixed styles and effects."""

    dataset_dir = "demo_icons"


class DemoSymbols(DemoSet):
    """40 signs: arrows, charts, play, pause, … (no concept of `DemoIcons`)."""

    dataset_dir = "demo_symbols"


class DemoObjects(DemoSet):
    """40 other things (no concept of `DemoIcons` or `DemoSymbols`)."""

    dataset_dir = "demo_objects"


class DemoShift(ImageNetShift, DemoSet):
    """A test-only copy of `DemoIcons`: its test drawings with another look."""


class DemoIconsSketch(DemoShift):
    """As if drawn by hand, a look that `DemoIcons` does not have."""

    dataset_dir = "demo_icons_sketch"


class DemoIconsPixel(DemoShift):
    """All pixelated, in `DemoIcons` one in eight."""

    dataset_dir = "demo_icons_pixel"


class DemoIconsTilted(DemoShift):
    """Turned by up to 57 degrees, which `DemoIcons` never is by more than 12."""

    dataset_dir = "demo_icons_tilted"
