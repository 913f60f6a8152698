"""The demo world: what is drawn, that it is drawn alike every time, and that no half-drawn set passes for whole."""

import os
import random
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from mocoop.datasets import demo_icons as demo
from mocoop.datasets import demo_render as render
from mocoop.datasets.errors import DataError, DataMissing
from PIL import Image


@pytest.fixture(scope="module")
def symbols_root(tmp_path_factory):
    """A data root with DemoSymbols, the smallest set that has training images."""
    root = tmp_path_factory.mktemp("demo")
    demo.make("DemoSymbols", root)
    return root


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    pictures = demo.plan(demo.RECIPES["DemoIcons"])[:90]
    files = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        demo.draw_pictures(pictures, tmp_path / name / "images", seed=seed)
        files[name] = [(tmp_path / name / "images" / p.path).read_bytes() for p in pictures]
    assert files["a"] == files["b"]
    assert all(x != y for x, y in zip(files["a"], files["c"], strict=True))
    with Image.open(tmp_path / "a" / "images" / pictures[0].path) as image:
        assert image.size == (48, 48) and image.mode == "RGB"


@pytest.mark.parametrize("name", list(demo.RECIPES))
def test_counts_names_and_labels(name):
    recipe = demo.RECIPES[name]
    pictures = demo.plan(recipe)
    names = sorted(set(recipe.names))
    assert len(names) == len(recipe.names)
    assert [p.classname for p in pictures] == sorted(p.classname for p in pictures)
    assert {(p.label, p.classname) for p in pictures} == set(enumerate(names))
    counts = Counter((p.label, p.part) for p in pictures)
    for label in range(len(names)):
        assert tuple(counts[label, part] for part in demo.PARTS) == recipe.counts
    assert len({p.path for p in pictures}) == len(pictures)
    assert {p.effect for p in pictures} == set(recipe.effects)


def test_the_main_set_is_what_the_design_asks_for():
    train, val, test = demo.RECIPES["DemoIcons"].counts
    assert len(demo.MAIN) == 100 and train >= 16 and val >= 4 and 8 <= test <= 12
    assert not set(demo.MAIN) & set(demo.SYMBOLS) and not set(demo.MAIN) & set(demo.OBJECTS)
    assert not set(demo.SYMBOLS) & set(demo.OBJECTS)
    assert {p.designer for p in demo.plan(demo.RECIPES["DemoIcons"])} == {"phosphor", "remix", "awesome"}


@pytest.mark.parametrize("name", ["DemoIcons", "DemoSymbols", "DemoObjects"])
def test_no_shape_is_on_both_sides(name):
    def shape(picture):
        for weight in ("-thin", "-light", "-bold"):
            if picture.designer == "phosphor" and picture.glyph.endswith(weight):
                return picture.classname, picture.designer, picture.glyph.removesuffix(weight)
        return picture.classname, picture.designer, picture.glyph

    pictures = demo.plan(demo.RECIPES[name])
    sides = {part: {shape(p) for p in pictures if p.part == part} for part in demo.PARTS}
    assert not sides["test"] & (sides["train"] | sides["val"])
    assert len(sides["test"]) >= len(demo.RECIPES[name].names)


def test_shifted_copies_use_the_test_drawings_of_the_main_set():
    def allowed(name, part):
        groups = demo.divide(name, random.Random(f"{demo.SEED} {name}"))
        return set(groups[part])

    for shift in ("DemoIconsSketch", "DemoIconsPixel", "DemoIconsTilted"):
        for picture in demo.plan(demo.RECIPES[shift]):
            drawing = (picture.designer, picture.glyph)
            assert drawing in allowed(picture.classname, "test") - allowed(picture.classname, "train")


def test_shapes_of_a_concept_by_hand():
    assert demo.shapes("bell")[:2] == [
        [("phosphor", "bell"), ("phosphor", "bell-thin"), ("phosphor", "bell-light"), ("phosphor", "bell-bold")],
        [("phosphor", "bell-fill")],
    ]
    assert [("remix", "bell-line")] in demo.shapes("bell") and [("awesome", "bell")] in demo.shapes("bell")
    assert [("remix", "book-2-fill")] in demo.shapes("book")
    assert demo.shapes("no such thing") == []
    with pytest.raises(DataError, match="0 shapes of 'no such thing'"):
        demo.divide("no such thing", random.Random(0))


# --- the folder ------------------------------------------------------------------------------------------------------


def test_files_on_disk_are_the_plan(symbols_root):
    folder = symbols_root / "demo_symbols"
    found = {str(path.relative_to(folder / "images")) for path in folder.rglob("*.png")}
    assert found == {p.path for p in demo.plan(demo.RECIPES["DemoSymbols"])}
    assert [path.name for path in symbols_root.iterdir()] == ["demo_symbols"]  # no temporary folder is left


def test_a_second_call_draws_nothing(symbols_root, monkeypatch):
    monkeypatch.setattr(demo, "draw_pictures", lambda *_, **more: pytest.fail("drawn again"))
    assert demo.make("DemoSymbols", symbols_root) == symbols_root / "demo_symbols"


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def broken(pictures, folder, *args, **more):
        folder.mkdir(parents=True)
        (folder / "first.png").write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "draw_pictures", broken)
    with pytest.raises(KeyboardInterrupt):
        demo.make("DemoSymbols", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_a_while(tmp_path, symbols_root):
    old, new, other = (tmp_path / f".demo_{name}-0a1b2c3d.tmp" for name in ("symbols.7", "symbols.8", "icons.7"))
    for folder in (old, new, other):
        (folder / "images").mkdir(parents=True)
    for folder in (old, other):
        os.utime(folder, (0, 0))
    (tmp_path / "demo_symbols").symlink_to(symbols_root / "demo_symbols")
    demo.make("DemoSymbols", tmp_path)
    assert not old.exists() and new.exists() and other.exists()


@pytest.mark.parametrize("broken", ["images/arrow_down", "split_zhou_DemoSymbols.json"])
def test_a_damaged_folder_is_to_be_drawn_again(tmp_path, symbols_root, build, broken):
    folder = tmp_path / "demo_symbols"
    shutil.copytree(symbols_root / "demo_symbols", folder)
    path = folder / broken
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_text("{")
    with pytest.raises((DataError, DataMissing), match=f"Delete the folder {folder}: it is drawn again"):
        build("DemoSymbols", root=tmp_path, shots=16)
    shutil.rmtree(folder)
    assert build("DemoSymbols", root=tmp_path, shots=16).train_x


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    def slow(pictures, folder, *args, **more):
        folder.mkdir(parents=True)
        (tmp_path / "demo_symbols").mkdir()
        (tmp_path / "demo_symbols" / "theirs").write_text("")

    monkeypatch.setattr(demo, "draw_pictures", slow)
    assert demo.make("DemoSymbols", tmp_path) == tmp_path / "demo_symbols"
    assert os.listdir(tmp_path) == ["demo_symbols"] and os.listdir(tmp_path / "demo_symbols") == ["theirs"]


@pytest.mark.parametrize("note", [None, '{"version": 0, "seed": 1}'])
def test_a_folder_of_other_making_is_refused(tmp_path, note):
    (tmp_path / "demo_icons").mkdir()
    if note:
        (tmp_path / "demo_icons" / "drawn_by.json").write_text(note)
    with pytest.raises(DataError, match="Delete the folder"):
        demo.make("DemoIcons", tmp_path)


def test_as_a_data_set(symbols_root, build, capsys):
    base = build("DemoSymbols", root=symbols_root, shots=16, classes="base")
    assert len(base.train_x) == 16 * 20 and len(base.val) == 4 * 20 and len(base.test) == 12 * 20
    assert base.all_classnames == sorted(demo.SYMBOLS) and base.classnames == sorted(demo.SYMBOLS)[:20]
    new = build("DemoSymbols", root=symbols_root, shots=16, classes="new")
    assert new.classnames == sorted(demo.SYMBOLS)[20:] and {item.label for item in new.test} == set(range(20))


def test_a_shifted_copy_is_test_only(tmp_path, build, monkeypatch):
    few = demo.Recipe("demo_icons_sketch", demo.MAIN[:3], (0, 0, 2), {"sketch": 1.0})
    monkeypatch.setitem(demo.RECIPES, "DemoIconsSketch", few)
    data = build("DemoIconsSketch", root=tmp_path, shots=16, classes="base")
    assert len(data.test) == 6 and data.classnames == data.all_classnames == sorted(demo.MAIN[:3])
    assert not data.val


# --- fonts and strokes -----------------------------------------------------------------------------------------------


def test_fonts_are_found_without_qt():
    for designer in render.FONTS:
        font, names = render.font_files(designer)
        assert font.is_file() and names.is_file()
    assert len(render.glyph_names("material")) > 7000
    assert "qtawesome" not in sys.modules


def test_missing_fonts_are_named(monkeypatch):
    render.font_files.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install QtAwesome"):
        render.font_files("phosphor")
    render.font_files.cache_clear()


def test_glyphs_keep_the_margins_at_their_sides():
    masks = render.glyph_masks("phosphor", ["square-fill", "minus", "bell"])
    assert masks.shape == (3, render.MASK, render.MASK) and masks.dtype == np.uint8
    for mask in masks:
        columns = mask.any(0).nonzero()[0]
        assert [columns[0], columns[-1]] == pytest.approx([12, 83], abs=2)  # an eighth free on both sides
    assert (masks[0] == 255).mean() > 0.5 > 0.1 > (masks[1] > 0).mean()  # a square, a minus


def square(size=12, low=4, high=8):
    ink = torch.zeros(1, 1, size, size)
    ink[..., low:high, low:high] = 1
    return ink


def test_thicken_and_contour_of_a_square():
    ink = torch.cat([square()] * 4)
    grown = render.thicken(ink, torch.tensor([0, 1, -1, -2]))
    assert grown.sum((1, 2, 3)).tolist() == [16, 36, 4, 0]
    assert torch.equal(grown[1:2], square(low=3, high=9)) and torch.equal(ink[1:2], square())
    assert torch.equal(render.contour(square(), 1), square(low=3, high=9) - square(low=5, high=7))


def test_place_leaves_alone_shifts_and_turns():
    ink = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    one, zero, still = torch.ones(1, 2), torch.zeros(1), torch.zeros(1, 2)
    assert torch.allclose(render.place(ink, one, zero, still), ink, atol=1e-5)
    moved = render.place(square(), one, zero, torch.tensor([[2 / 6, 0.0]]))  # two of six pixels to the right
    assert torch.allclose(moved, square().roll(2, 3), atol=1e-5)
    turned = render.place(ink, one, torch.tensor([torch.pi / 2]), still)
    assert torch.allclose(turned, ink.rot90(-1, (2, 3)), atol=1e-4) or torch.allclose(
        turned, ink.rot90(1, (2, 3)), atol=1e-4
    )
    halved = render.place(square(low=2, high=10), torch.full((1, 2), 0.5), zero, still)
    assert abs(halved.sum().item() - 16) < 1


def test_blur_keeps_the_mean_and_equals_a_plain_sum():
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([1.0, 2.0])
    blurred = render.blur(images, sigma)
    assert torch.allclose(render.blur(torch.full((1, 3, 24, 24), 0.3), sigma[:1]), torch.tensor(0.3), atol=1e-6)
    weights = torch.exp(-0.5 * (torch.arange(-4, 5) / 2.0) ** 2)
    weights = weights / weights.sum()
    by_hand = (images[1, 0, 8:17, 8:17] * weights[:, None] * weights).sum()
    assert torch.allclose(blurred[1, 0, 12, 12], by_hand, atol=1e-6)


def effect_of(name, count=8):
    masks = torch.from_numpy(render.glyph_masks("phosphor", ["bell-fill"])).float().repeat(count, 1, 1) / 255
    effect = torch.full((count,), render.EFFECTS.index(name))
    return render.render(masks, effect, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", render.EFFECTS)
def test_images_are_in_range_and_vary(name):
    images = effect_of(name)
    assert images.shape == (8, 3, render.SIZE, render.SIZE)
    assert 0 <= images.min() and images.max() <= 1 and torch.isfinite(images).all()
    assert all(not torch.equal(images[0], other) for other in images[1:])


def test_effects_do_what_they_are_called():
    plain, dark, bright = (effect_of(name) for name in ("none", "dark", "bright"))
    assert dark.mean() < 0.35 < plain.mean() < bright.mean()
    centre, corner = (..., slice(20, 28), slice(20, 28)), (..., slice(0, 3), slice(0, 3))
    assert plain[centre].mean() < plain[corner].mean()  # a dark pen on light paper
    assert dark[centre].mean() > dark[corner].mean()  # and the other way round
    rough = [(x[..., 1:] - x[..., :-1]).abs().mean() for x in (effect_of("blurry"), plain, effect_of("noisy"))]
    assert rough[0] < rough[1] < rough[2]
    for image in effect_of("pixelated"):
        cells = [
            torch.allclose(image, image[:, ::cell, ::cell].repeat_interleave(cell, 1).repeat_interleave(cell, 2))
            for cell in (3, 4)
        ]
        assert any(cells)
