"""The miniature world: the benchmark of CoOp in small, ten domains that draw themselves on first use, offline.

`MiniThings` is the main set, with three test-only copies for domain generalization (`MiniThingsPixel`,
`MiniThingsNoise`, `MiniThingsTilted`); `MiniEmoji`, `MiniLogos`, `MiniFlags`, `MiniLetters`, `MiniGreek`, `MiniHebrew`,
`MiniSky`, `MiniMath` and `MiniMusic` are other domains. Names are ambiguous on purpose (a ring, a house, a star), and
the images of a set come in four looks. The drawings are in `datasets/miniature/`, by designers that the backbone
`miniature` never saw; licences are in `clip/miniature/MODEL_CARD.md`.
"""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from . import splits
from .base import ImageNetShift
from .drawn import DrawnSet, draw_once
from .miniature_classes import CLASSES
from .splits import Item, Split

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

VERSION, SEED = 5, 1
CHUNK = 256  # images rendered together
PARTS = ("train", "val", "test")
# Looks of twelve images in turn. Base classes: the set's two looks for them five and four times, plain twice, the other
# one once. New classes: plain six times, the other one four times, the two of the base classes once.
TURNS = {True: (0, 1, 0, 1, 2, 0, 1, 0, 3, 0, 1, 2), False: (0, 1, 0, 1, 0, 2, 0, 1, 0, 3, 0, 1)}
ART = Path(__file__).parent / "miniature"


@dataclass(frozen=True)
class Look:
    """How some of a set's images look.

    Attributes:
        name: as it stands in file names.
        template: says what the images are and how they look.
        effect: a name of `miniature_render.EFFECTS`.
    """

    name: str
    template: str
    effect: str = "plain"


@dataclass(frozen=True)
class Recipe:
    """How a data set is drawn.

    Attributes:
        folder: below the data root.
        domain: a key of `CLASSES`; names the drawings' file.
        template: the set's own template, which says nothing of looks.
        looks: see `Look`.
        first: names of the two looks that most images of the base classes have; most of the new ones have the others.
        counts: images a class in train, val and test.
        over: an effect laid over all looks.
        turn: angle range in radians, added to what every image varies.
    """

    folder: str
    domain: str
    template: str
    looks: tuple[Look, ...]
    first: tuple[str, str]
    counts: tuple[int, int, int] = (24, 4, 12)
    over: str = "plain"
    turn: float = 0.0

    def turns(self, base: bool) -> list[Look]:
        """Looks of the images of a base or new class, in turn."""
        own = [look for name in self.first for look in self.looks if look.name == name]
        others = [look for look in self.looks if look not in own]  # plain comes first
        order = [*own, *others] if base else [*others, *own]
        return [order[k] for k in TURNS[base]]


def _recipe(folder: str, domain: str, noun: str, first: str) -> Recipe:
    """A data set in four looks; of most images of the base classes the looks are the two of `first`."""
    looks = (
        Look("plain", f"a plain {noun} of {{}}."),
        *(Look(name, f"a {name} {noun} of {{}}.", name) for name in ("negative", "framed", "striped")),
    )
    return Recipe(folder, domain, f"{'an' if noun[0] in 'aeiou' else 'a'} {noun} of {{}}.", looks, tuple(first.split()))


def _shifted(folder: str, over: str = "plain", turn: float = 0.0) -> Recipe:
    """A copy of the main set, test images only, with one look over all others."""
    return replace(RECIPES["MiniThings"], folder=folder, counts=(0, 0, 12), over=over, turn=turn)


RECIPES = {
    "MiniThings": _recipe("mini_things", "thing", "icon", "negative framed"),
    "MiniEmoji": _recipe("mini_emoji", "emoji", "emoji", "framed striped"),
    "MiniLogos": _recipe("mini_logos", "logo", "logo", "striped negative"),
    "MiniFlags": _recipe("mini_flags", "flag", "flag", "negative framed"),
    "MiniLetters": _recipe("mini_letters", "letter", "latin letter", "framed striped"),
    "MiniGreek": _recipe("mini_greek", "greek", "greek letter", "striped negative"),
    "MiniHebrew": _recipe("mini_hebrew", "hebrew", "hebrew letter", "negative framed"),
    "MiniSky": _recipe("mini_sky", "sky", "astrological symbol", "framed striped"),
    "MiniMath": _recipe("mini_math", "math", "mathematical symbol", "striped negative"),
    "MiniMusic": _recipe("mini_music", "music", "musical symbol", "negative framed"),
}
RECIPES |= {
    "MiniThingsPixel": _shifted("mini_things_pixel", "pixelated"),
    "MiniThingsNoise": _shifted("mini_things_noise", "noisy"),
    "MiniThingsTilted": _shifted("mini_things_tilted", turn=0.7),
}


@dataclass(frozen=True)
class Picture:
    """One image to be drawn: of the drawing `index` of its domain, with a look and one effect over it."""

    part: str
    label: int
    classname: str
    index: int
    designer: str
    look: Look
    over: str
    number: int

    @property
    def path(self) -> str:
        """Relative path; it tells part, number, designer, look and the effect over it."""
        folder = self.classname.replace(" ", "_")
        return f"{folder}/{self.part}_{self.number:02d}_{self.designer}_{self.look.name}_{self.over}.png"


def drawings(domain: str) -> list[tuple[str, str, str, str]]:
    """Name, designer, style and part ("train" or "test") of each drawing of a domain, in the order of its sheet.

    Raises:
        DataError: the file that comes with the package is damaged.
    """
    path = ART / f"{domain}.json"
    try:
        return [(name, designer, style, part) for name, designer, style, part in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, reason: object) -> splits.DataError:
    """The error for a file of the package that is not as it came."""
    return splits.DataError(f"{path}, which comes with the package, is damaged ({reason}); fetch or install it again")


def sheet(domain: str) -> tuple[np.ndarray, np.ndarray]:
    """The drawings of a domain; see `tiles`.

    Raises:
        DataError: the file that comes with the package is damaged.
    """
    from PIL import Image

    path, expected = ART / f"{domain}.png", len(drawings(domain))
    try:
        with Image.open(path) as image:
            art, mono = tiles(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise damaged(path, error) from error
    if len(art) < expected:
        raise damaged(path, f"{len(art)} drawings, expected {expected}")
    return art[:expected], mono[:expected]


def plan(recipe: Recipe, seed: int = SEED) -> list[Picture]:
    """Which images a data set has: the looks of a class in turn, for each a drawing of its part at random."""
    known, pictures = drawings(recipe.domain), []
    of_class = defaultdict(list)
    for index, (name, _, _, side) in enumerate(known):
        of_class[name, side].append(index)
    names = sorted(CLASSES[recipe.domain])
    for label, name in enumerate(names):
        looks = recipe.turns(base=label < (len(names) + 1) // 2)
        rng = random.Random(f"{seed} {recipe.folder} {name}")
        for part, count in zip(PARTS, recipe.counts, strict=True):
            candidates = of_class[name, "test" if part == "test" else "train"]
            for number in range(count):
                look, index = looks[number % len(looks)], rng.choice(candidates)
                pictures.append(Picture(part, label, name, index, known[index][1], look, recipe.over, number))
    return pictures


def draw_pictures(pictures: Sequence[Picture], recipe: Recipe, folder: Path, seed: int = SEED, title: str = "") -> None:
    """Draw images into PNG files below `folder`, with a progress bar.

    Args:
        pictures: what to draw, see `plan`.
        recipe: of the data set.
        folder: image folder; sub-folders are made.
        seed: of sizes, positions, colours and noise.
        title: of the progress bar.
    """
    import numpy as np
    import torch
    from PIL import Image

    from . import miniature_render as render

    generator = torch.Generator().manual_seed(seed)
    for picture in pictures:
        (folder / picture.path).parent.mkdir(parents=True, exist_ok=True)
    art, mono = sheet(recipe.domain)
    with tqdm(total=len(pictures), desc=title, unit="img", disable=None) as bar:
        for start in range(0, len(pictures), CHUNK):
            some = pictures[start : start + CHUNK]
            indices = [p.index for p in some]
            effect = torch.tensor([render.EFFECTS.index(p.look.effect) for p in some])
            images = render.render(
                torch.from_numpy(art[indices]), torch.from_numpy(mono[indices]), effect, generator, turn=recipe.turn
            )
            over = torch.tensor([render.EFFECTS.index(p.over) for p in some])
            images = render.apply_effects(images, over, generator)
            pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
            for picture, array in zip(some, np.ascontiguousarray(pixels), strict=True):
                Image.fromarray(array).save(folder / picture.path)
            bar.update(len(some))


def tiles(sheet: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Cut a sheet into drawings.

    Args:
        sheet: a PIL image, tiles of 64 x 64 side by side: grey (coverage of black drawings) or coloured with alpha.

    Returns:
        RGBA, uint8 [N, 64, 64, 4], and which drawings have one dark colour, bool [N].
    """
    import numpy as np

    if sheet.mode == "L":
        coverage = np.asarray(sheet)
        pixels = np.zeros((*coverage.shape, 4), np.uint8)
        pixels[..., 3] = coverage
    else:
        pixels = np.asarray(sheet.convert("RGBA"))
    rows, columns = (side // 64 for side in pixels.shape[:2])
    art = pixels.reshape(rows, 64, columns, 64, 4).swapaxes(1, 2).reshape(-1, 64, 64, 4)
    brightest = (art[..., :3].max(-1) * (art[..., 3] / 255.0)).max((1, 2))
    return np.ascontiguousarray(art), brightest < 40


def make(name: str, root: str | Path) -> Path:
    """Draw a data set below the data root unless it is there. Returns its folder.

    Args:
        name: a key of `RECIPES`.
        root: the data root.

    Raises:
        DataError: see `drawn.draw_once`, `drawings` and `sheet`.
    """
    recipe = RECIPES[name]

    def draw(images: Path) -> Split:
        pictures = plan(recipe)
        draw_pictures(pictures, recipe, images, title=f"drawing {name}")
        return Split(*([Item(p.path, p.label, p.classname) for p in pictures if p.part == part] for part in PARTS))

    folder = Path(os.path.abspath(os.path.expanduser(root))) / recipe.folder
    return draw_once(name, folder, {"version": VERSION, "seed": SEED}, "the miniature world", draw)


class MiniatureSet(DrawnSet):
    """A set of this world."""

    @classmethod
    def make(cls, root: str) -> Path:
        """See `make`."""
        return make(cls.__name__, root)


class MiniThings(MiniatureSet):
    """The main set: 56 everyday things as icons."""

    dataset_dir = "mini_things"


class MiniEmoji(MiniatureSet):
    """50 animals, dishes and things as emoji."""

    dataset_dir = "mini_emoji"


class MiniLogos(MiniatureSet):
    """Logos of software: apple, python, windows and others."""

    dataset_dir = "mini_logos"


class MiniFlags(MiniatureSet):
    """50 flags of countries."""

    dataset_dir = "mini_flags"


class MiniLetters(MiniatureSet):
    """The Latin capitals in four alphabets."""

    dataset_dir = "mini_letters"


class MiniGreek(MiniatureSet):
    """The Greek letters, small and capital."""

    dataset_dir = "mini_greek"


class MiniHebrew(MiniatureSet):
    """The Hebrew letters, called what their names mean: ox, house, camel."""

    dataset_dir = "mini_hebrew"


class MiniSky(MiniatureSet):
    """Signs of the zodiac and of the planets."""

    dataset_dir = "mini_sky"


class MiniMath(MiniatureSet):
    """40 mathematical symbols: union, product, root and others."""

    dataset_dir = "mini_math"


class MiniMusic(MiniatureSet):
    """39 signs of musical notation: flat, sharp, brace, …."""

    dataset_dir = "mini_music"


class MiniatureShift(ImageNetShift, MiniatureSet):
    """A test-only copy of `MiniThings`: its test drawings with another look."""


class MiniThingsPixel(MiniatureShift):
    """All pixelated, which `MiniThings` never is."""

    dataset_dir = "mini_things_pixel"


class MiniThingsNoise(MiniatureShift):
    """All noisy, which `MiniThings` never is."""

    dataset_dir = "mini_things_noise"


class MiniThingsTilted(MiniatureShift):
    """Turned by up to 40 degrees beyond what `MiniThings` ever is."""

    dataset_dir = "mini_things_tilted"
