"""The miniature world: which drawings go where, that it is drawn alike every time, and what its effects do."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dassl.utils import set_random_seed
from mocoop.datasets import miniature as mini
from mocoop.datasets import miniature_render as render
from mocoop.datasets.errors import DataError
from PIL import Image

SETS = [name for name, recipe in mini.RECIPES.items() if recipe.counts[0]]
SHIFTS = [name for name in mini.RECIPES if name not in SETS]
CONFIGS = Path(mini.__file__).parent.parent / "configs" / "datasets"


@pytest.mark.parametrize("name", list(mini.RECIPES))
def test_counts_names_and_labels(name):
    recipe = mini.RECIPES[name]
    pictures = mini.plan(recipe)
    names = sorted(mini.CLASSES[recipe.domain])
    assert {(p.label, p.classname) for p in pictures} == set(enumerate(names)) and 20 <= len(names) <= 60
    counts = Counter((p.label, p.part) for p in pictures)
    assert all(tuple(counts[k, part] for part in mini.PARTS) == recipe.counts for k in range(len(names)))
    assert len({p.path for p in pictures}) == len(pictures)
    half = (len(names) + 1) // 2
    looks = Counter((p.label < half, p.look.name) for p in pictures if p.part == "test")
    other = next(k.name for k in recipe.looks if k.name not in ("plain", *recipe.first))
    counts = dict(zip((*recipe.first, "plain", other), ((5, 1), (4, 1), (2, 6), (1, 4)), strict=True))
    for look, (base, new) in counts.items():  # of the twelve test images of a class
        assert (looks[True, look], looks[False, look]) == (base * half, new * (len(names) - half))


@pytest.mark.parametrize("name", SETS)
def test_a_class_is_tested_on_designers_it_was_not_trained_on(name):
    recipe, sides = mini.RECIPES[name], {}
    for classname, designer, style, part in mini.drawings(recipe.domain):
        key = (classname, designer, style if recipe.domain in ("letter", "greek") else "")
        assert sides.setdefault(key, part) == part
    known = mini.drawings(recipe.domain)
    assert all(known[p.index][3] == ("test" if p.part == "test" else "train") for p in mini.plan(recipe))


@pytest.mark.parametrize("name", list(mini.RECIPES))
def test_the_config_says_what_the_recipe_says(name):
    recipe = mini.RECIPES[name]
    config = yaml.safe_load((CONFIGS / f"{recipe.folder}.yaml").read_text())
    groups = config["TRAINER"]["MOCOOP"]["PROMPT_GROUPS"]
    assert config["DATASET"]["NAME"] == name and config["TRAINER"]["ZSCLIP"]["TEMPLATE"] == recipe.template
    assert [group[0] for group in groups] == [recipe.template, *(look.template for look in recipe.looks[1:])]
    assert groups[0][1] == recipe.looks[0].template and recipe.looks[0].effect == "plain"


@pytest.mark.parametrize("name", SHIFTS)
def test_a_shifted_copy_shows_test_drawings_of_the_main_set(name):
    recipe = mini.RECIPES[name]
    pictures = mini.plan(recipe)
    assert recipe.domain == mini.RECIPES["MiniThings"].domain and {p.part for p in pictures} == {"test"}
    assert {mini.drawings("thing")[p.index][3] for p in pictures} == {"test"}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    recipe = mini.RECIPES["MiniHebrew"]
    pictures = mini.plan(recipe)[:40]
    files = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        mini.draw_pictures(pictures, recipe, tmp_path / name, seed=seed)
        files[name] = [(tmp_path / name / p.path).read_bytes() for p in pictures]
    assert files["a"] == files["b"] and all(x != y for x, y in zip(files["a"], files["c"], strict=True))
    with Image.open(tmp_path / "a" / pictures[0].path) as image:
        assert image.size == (render.SIZE,) * 2 and image.mode == "RGB"


def test_a_folder_of_other_code_is_refused(tmp_path):
    (tmp_path / "mini_hebrew").mkdir()
    with pytest.raises(DataError, match="was not drawn by this version of the miniature world"):
        mini.make("MiniHebrew", tmp_path)


@pytest.fixture()
def art(tmp_path, monkeypatch):
    """A copy of the drawings of one domain, which may be damaged."""
    for name in ("hebrew.json", "hebrew.png"):
        shutil.copy(mini.ART / name, tmp_path / name)
    monkeypatch.setattr(mini, "ART", tmp_path)
    return tmp_path


@pytest.mark.parametrize("keep", [0, 100, 3000])
@pytest.mark.parametrize("name", ["hebrew.json", "hebrew.png"])
def test_damaged_drawings_of_the_package_are_named(art, name, keep):
    (art / name).write_bytes((art / name).read_bytes()[:keep])
    with pytest.raises(DataError, match=f"{name}, which comes with the package, is damaged"):
        mini.make("MiniHebrew", art / "data")
    assert list((art / "data").iterdir()) == []


def test_too_few_drawings_are_noticed(art):
    with Image.open(art / "hebrew.png") as image:
        image.crop((0, 0, image.width, 64)).save(art / "hebrew.png")
    with pytest.raises(DataError, match=r"damaged \(\d+ drawings, expected 220\)"):
        mini.sheet("hebrew")


def test_tiles_of_a_grey_and_of_a_coloured_sheet():
    grey = np.zeros((64, 128), np.uint8)
    grey[10, 70] = 255
    art, mono = mini.tiles(Image.fromarray(grey))
    assert art.shape == (2, 64, 64, 4) and mono.all()
    assert art[1, 10, 6].tolist() == [0, 0, 0, 255] and art[0].max() == 0
    colour = np.zeros((64, 128, 4), np.uint8)
    colour[:, 64:] = (200, 30, 40, 255)
    art, mono = mini.tiles(Image.fromarray(colour))
    assert mono.tolist() == [True, False] and art[1, 5, 5].tolist() == [200, 30, 40, 255]


def effects(name: str, images: torch.Tensor) -> torch.Tensor:
    kind = torch.full((len(images),), render.EFFECTS.index(name))
    return render.apply_effects(images, kind, torch.Generator().manual_seed(0))


def test_what_the_effects_do():
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    assert torch.equal(effects("plain", images), images)
    assert torch.allclose(effects("negative", images), 1 - images)
    grey = effects("grey", images)
    assert torch.allclose(grey[:, 0], images.mean(1)) and torch.equal(grey[:, 0], grey[:, 2])
    cells = effects("pixelated", images)
    assert torch.allclose(cells[0, 0, :4, :4], images[0, 0, :4, :4].mean().expand(4, 4), atol=1e-6)
    assert effects("noisy", images).min() >= 0 and not torch.equal(effects("noisy", images), images)


def test_upside_down_is_half_a_turn():
    art = torch.zeros(2, 64, 64, 4, dtype=torch.uint8)
    art[:, 4:20, 4:20, 3] = 255  # ink at the upper left
    kind = torch.tensor([render.EFFECTS.index("plain"), render.EFFECTS.index("upside down")])
    images = render.render(art, torch.ones(2, dtype=torch.bool), kind, torch.Generator().manual_seed(0), variety=0)
    darkest = [divmod(image.mean(0).argmin().item(), 48) for image in images]
    assert [(y // 24, x // 24) for y, x in darkest] == [(0, 0), (1, 1)]


def test_what_frames_and_stripes_do():
    ink = torch.zeros(2, 64, 64, 4, dtype=torch.uint8)  # nothing is drawn
    kinds = torch.tensor([render.EFFECTS.index("framed"), render.EFFECTS.index("striped")])
    framed, striped = render.render(ink, torch.ones(2, dtype=torch.bool), kinds, torch.Generator().manual_seed(0)).mean(
        1
    )
    paper = framed[24, 24]
    assert (framed[12:36, 12:36] == paper).all() and all(line.min() < paper - 0.3 for line in framed[[24], :24])
    sides = (framed[:8, 24], framed[-8:, 24], framed[24, :8], framed[24, -8:])
    assert all(side.min() < paper - 0.3 for side in sides)  # a line on every side
    assert 0.05 < striped.std() < 0.3 and 0.3 < (striped > striped.mean()).float().mean() < 0.7


def test_looks_of_an_image_come_from_the_world_not_from_the_seed_of_a_run():
    set_random_seed(1)
    first = [p.path for p in mini.plan(mini.RECIPES["MiniSky"])]
    set_random_seed(2)
    assert first == [p.path for p in mini.plan(mini.RECIPES["MiniSky"])]
