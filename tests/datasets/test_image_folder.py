"""A user's own images: both layouts, names, formats, and what can be wrong with them."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mocoop.datasets import image_folder, splits
from mocoop.datasets.errors import DataError, DataMissing
from PIL import Image


def images(folder, counts, suffix=".png"):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 20, 30)).save(folder / name / f"{number}{suffix}")


def listed(datums, root):
    return [(d.impath.removeprefix(f"{root}/"), d.label, d.classname) for d in datums]


def everything(data, root):
    return [listed(part, root) for part in (data.train_x, data.val, data.test)]


def test_parts(tmp_path, build):
    images(tmp_path / "train", {"cat": 2, "Dog": 1})
    images(tmp_path / "test", {"cat": 1, "Dog": 1}, ".webp")
    images(tmp_path / "val", {"cat": 1}, ".TIFF")
    data = build("ImageFolder")
    # "Dog" comes first (capital letters do), and "cat" keeps its label 1 in val, where it is alone.
    assert listed(data.train_x, tmp_path) == [
        ("train/Dog/0.png", 0, "Dog"),
        ("train/cat/0.png", 1, "cat"),
        ("train/cat/1.png", 1, "cat"),
    ]
    assert listed(data.val, tmp_path) == [("val/cat/0.TIFF", 1, "cat")]
    assert listed(data.test, tmp_path) == [("test/Dog/0.webp", 0, "Dog"), ("test/cat/0.webp", 1, "cat")]
    assert data.classnames == data.all_classnames == ["Dog", "cat"]


def test_without_val_there_is_none(tmp_path, build):
    for part in ("train", "test"):
        images(tmp_path / part, {"a": 3, "b": 3, "c": 3})
    data = build("ImageFolder", shots=2, classes="new")
    assert not data.val and len(data.train_x) == 2 and len(data.test) == 3
    assert (data.classnames, data.all_classnames) == (["c"], ["a", "b", "c"])


def test_class_folders_alone_are_split_once(tmp_path, build, capsys):
    images(tmp_path, {"a": 10, "b": 4})
    first = build("ImageFolder", shots=1)
    assert "2 classes, 7/3/4 images" in capsys.readouterr().out  # 5 + 2, 2 + 1, 3 + 1
    again = build("ImageFolder", shots=1)  # now split_fewshot/ lies among the class folders
    assert listed(again.train_x, tmp_path) == listed(first.train_x, tmp_path)
    assert again.classnames == ["a", "b"]
    before = (tmp_path / "split_image_folder.json").read_text()
    images(tmp_path, {"b": 6})
    build("ImageFolder")
    out = capsys.readouterr().out
    assert "2 images, for example b/4.png, were added after" in out
    assert (tmp_path / "split_image_folder.json").read_text() == before


def test_class_called_train(tmp_path, build):
    """Folders of images may be called train or test as long as they hold no folders."""
    images(tmp_path, {"train": 4, "bus": 4})
    assert build("ImageFolder").classnames == ["bus", "train"]


@pytest.mark.parametrize("file", ["classnames.txt", "classnames.json"])
def test_names(tmp_path, build, file):
    images(tmp_path, {"n01": 4, "big cat": 4, "big": 4})
    names = {"n01": "tench, a fish", "big cat": "lion", "big": "thing"}
    text = "".join(f"{k}\t{v}\r\n" if k == "n01" else f"{k} {v}\n" for k, v in names.items())
    (tmp_path / file).write_text(json.dumps(names) if file.endswith("json") else text)
    assert build("ImageFolder").classnames == ["thing", "lion", "tench, a fish"]
    # Names may change after the split was saved.
    (tmp_path / "classnames.json").write_text(json.dumps({**names, "big": "large thing"}))
    assert build("ImageFolder").classnames == ["large thing", "lion", "tench, a fish"]


@pytest.mark.parametrize(
    "file, text, complaint",
    [
        ("classnames.txt", "a first\n", "no name for 1 class folders: b"),
        ("classnames.txt", "a first\nb second\nc third\n", 'line 3: expected a class folder, .* found "c third"'),
        ("classnames.txt", "a first\nb\n", 'line 2: expected a class folder, .* found "b"'),
        ("classnames.txt", "a first\nb second\na third\n", 'line 3: class folder "a" has two names'),
        ("classnames.json", '{"a": "first", "b": "second", "c": "third"}', "1 names without a class folder: c"),
        ("classnames.json", '{"a": "first"', "not a whole JSON file"),
        ("classnames.json", '{"a": 1, "b": 2}', "expected an object"),
    ],
)
def test_wrong_names(tmp_path, build, file, text, complaint):
    images(tmp_path, {"a": 4, "b": 4})
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=complaint):
        build("ImageFolder")


def test_other_files_are_passed_over_aloud(tmp_path, build, capsys):
    images(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "a" / "photo.HEIC").write_bytes(b"x")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "top.png").write_bytes(b"x")
    data = build("ImageFolder")
    assert len(data.train_x) + len(data.val) + len(data.test) == 8
    assert "skipped 1 files that Pillow does not decode (1 .heic)" in capsys.readouterr().out


def test_what_is_missing(tmp_path, build):
    for part in ("train", "test"):
        images(tmp_path / part, {"a": 1, "b": 1, "c": 1})
    shutil.rmtree(tmp_path / "test" / "b")
    with pytest.raises(DataError, match=r"test \(compared with train\): .*1 missing: b"):
        build("ImageFolder")
    images(tmp_path / "test", {"b": 1})
    images(tmp_path / "val", {"d": 1})
    with pytest.raises(DataError, match="val: d: no such class folder in train"):
        build("ImageFolder")
    shutil.rmtree(tmp_path / "test")
    with pytest.raises(DataError, match="has train/ with folders in it, but no test/"):
        build("ImageFolder")


def test_too_few_images_to_split(tmp_path, build):
    images(tmp_path, {"a": 4, "b": 3})
    with pytest.raises(DataError, match=r"at least 4 are needed\): b \(3\)"):
        build("ImageFolder")


@pytest.mark.parametrize("root", ["", "nowhere"])
def test_no_folder(tmp_path, build, root):
    with pytest.raises(DataMissing, match="Give the folder of your images with --root"):
        build("ImageFolder", root=tmp_path / root if root else "")


def test_empty_folder(tmp_path, build):
    with pytest.raises(DataError, match="expected one folder of images per class, found none"):
        build("ImageFolder")


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        ("Train", "Test", None),
        ("training", "testing", None),
        ("train", "test", "valid"),
        ("TRAIN", "TEST", "Validation"),
    ],
)
def test_parts_under_their_other_names(tmp_path, build, parts):
    for part in filter(None, parts):
        images(tmp_path / part, {"b": 1, "a": 2})
    data = build("ImageFolder")
    expected = [("a/0.png", 0, "a"), ("a/1.png", 0, "a"), ("b/0.png", 1, "b")]
    for part, found in zip(parts, (data.train_x, data.test, data.val), strict=True):
        assert listed(found or [], tmp_path) == ([(f"{part}/{p}", n, c) for p, n, c in expected] if part else [])


def test_two_folders_for_one_part(tmp_path, build):
    for part in ("train", "test", "val", "valid"):
        images(tmp_path / part, {"a": 1, "b": 1})
    with pytest.raises(DataError, match="val and valid are both val"):
        build("ImageFolder")


def test_a_part_without_the_others(tmp_path, build):
    images(tmp_path / "Validation", {"a": 1, "b": 1})
    images(tmp_path, {"cat": 4})
    with pytest.raises(DataError, match="has Validation/ with folders in it, but no train/"):
        build("ImageFolder")


def test_class_folders_beside_the_parts_are_refused_and_others_named(tmp_path, build, capsys):
    for part in ("train", "test"):
        images(tmp_path / part, {"a": 1, "b": 1})
    images(tmp_path / "unlabelled", {"x": 1})
    assert build("ImageFolder").classnames == ["a", "b"]
    assert "skipped 1 folders that are not a part: unlabelled" in capsys.readouterr().out
    images(tmp_path, {"cat": 1})
    with pytest.raises(DataError, match="test/, train/ and beside them 1 folders of images: cat. Expected train/"):
        build("ImageFolder")


def test_nothing_to_choose_from(tmp_path, build):
    """What `--check` called good: no class at all."""
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    with pytest.raises(DataError, match="train/ and test/ hold no class folders"):
        build("ImageFolder")
    (tmp_path / "train" / "a").mkdir()
    with pytest.raises(DataError, match="train: expected at least two class folders, found one: a"):
        build("ImageFolder")


def test_the_folder_above_is_not_one_class(tmp_path, build):
    for part in ("train", "test"):
        images(tmp_path / "pets" / part, {"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"found one: pets\. .*the folder to give is .*/pets\."):
        build("ImageFolder")
    assert build("ImageFolder", root=tmp_path / "pets").classnames == ["a", "b"]


def test_an_empty_val_is_no_val(tmp_path, build):
    for part in ("train", "test"):
        images(tmp_path / part, {"a": 1, "b": 1})
    (tmp_path / "val").mkdir()
    assert not build("ImageFolder").val


def test_one_class_is_left(tmp_path, build, capsys):
    for part in ("train", "test"):
        images(tmp_path / part, {"a": 1, "b": 1, "c": 1})
    build("ImageFolder", classes="base")
    assert "every accuracy" not in capsys.readouterr().out
    build("ImageFolder", classes="new")
    assert "'c' is the only new class, so every accuracy is 100% and means nothing" in capsys.readouterr().out


# --- removing --------------------------------------------------------------------------------------------------------


def test_removing_images_just_works(tmp_path, build, capsys):
    """ "Repair or remove it" is what the message of an unreadable image says."""
    images(tmp_path, {"a": 10, "b": 4})
    before = build("ImageFolder")
    split = (tmp_path / "split_image_folder.json").read_text()
    gone = [next(d.impath for d in part if d.classname == "a") for part in (before.train_x, before.val, before.test)]
    for path in gone:
        os.remove(path)
    capsys.readouterr()
    after = build("ImageFolder", shots=2)
    out = capsys.readouterr().out
    assert out.count("3 images of") == 1 and "are gone or cannot be used; the others stay" in out
    whole = build("ImageFolder")
    for part in ("train_x", "val", "test"):
        assert listed(getattr(whole, part), tmp_path) == [
            x for x in listed(getattr(before, part), tmp_path) if f"{tmp_path}/{x[0]}" not in gone
        ]
    assert len(after.train_x) == 4 and (tmp_path / "split_image_folder.json").read_text() == split


def test_a_class_that_is_removed_or_has_lost_its_last_test_image(tmp_path, build):
    images(tmp_path, {"a": 4, "b": 4, "c": 4})
    data = build("ImageFolder")
    (test,) = [d.impath for d in data.test if d.classname == "b"]
    os.remove(test)
    with pytest.raises(DataError, match="no test image is left of 1 classes: b. Put some back, or delete that file"):
        build("ImageFolder")
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(DataError, match="no train image is left of 1 classes: b"):
        build("ImageFolder")
    os.remove(tmp_path / "split_image_folder.json")
    assert build("ImageFolder").classnames == ["a", "c"]


# --- what does not belong --------------------------------------------------------------------------------------------


def pipe(folder):
    os.mkfifo(folder / "pipe.png")


def loop(folder):
    (folder / "loop.png").symlink_to(folder / "loop.png")


def nowhere(folder):
    (folder / "gone.png").symlink_to(folder / "nothing.png")


def back(folder):
    (folder / "back").symlink_to(folder)


def empty(folder):
    (folder / "empty.png").touch()


def thumbnails(folder):
    images(folder / "@eaDir", {"0.png": 1})


def strange(folder):
    shutil.copy(folder / "0.png", os.fsencode(folder) + b"/caf\xe9.png")


STRANGERS = {
    pipe: "1 pipes, sockets or devices, for example a/pipe.png",
    loop: "1 broken links, for example a/loop.png",
    nowhere: "1 broken links, for example a/gone.png",
    back: "1 links to folders (only class folders may be links), for example a/back",
    empty: "1 empty images (0 bytes), for example a/empty.png",
    thumbnails: "1 folders of the system (thumbnails, bins), for example a/@eaDir",
    strange: "1 images whose names are not UTF-8 (rename them), for example a/caf\\udce9.png",
}


@pytest.mark.parametrize("put", STRANGERS, ids=lambda put: put.__name__)
def test_what_is_no_image_is_passed_over_in_one_line(tmp_path, build, capsys, put):
    images(tmp_path, {"a": 4, "b": 4})
    expected = everything(build("ImageFolder"), tmp_path)
    put(tmp_path / "a")
    capsys.readouterr()
    data = build("ImageFolder")
    assert everything(data, tmp_path) == expected
    lines = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
    assert lines == [f"{tmp_path}: skipped {STRANGERS[put]}"]


def test_a_class_of_nothing_usable_is_refused(tmp_path, build, capsys):
    """Links to a disk that is not there: what `--check` called good."""
    images(tmp_path, {"a": 4, "b": 4})
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "b").mkdir()
    nowhere(tmp_path / "b")
    with pytest.raises(DataError, match="1 class folders hold no image that can be used: b"):
        build("ImageFolder")
    assert "skipped 1 broken links, for example b/gone.png" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["nothing", "c"])
def test_a_class_that_is_a_broken_link_is_not_lost_in_silence(tmp_path, build, target):
    images(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "c").symlink_to(tmp_path / target)
    with pytest.raises(DataError, match="1 broken links: c. A class may be missing"):
        build("ImageFolder")


@pytest.mark.parametrize(
    "target, complaint",
    [
        (".", "c is a link to a folder that holds it: links in a loop"),
        ("..", "c is a link to a folder that holds it: links in a loop"),
        ("a", "the images of c are also those of a"),
        ("a/sub", "the images of c are also those of a"),
    ],
)
def test_images_with_two_labels_are_refused(tmp_path, build, target, complaint):
    images(tmp_path, {"a": 4, "b": 4})
    images(tmp_path / "a", {"sub": 4})
    (tmp_path / "c").symlink_to(tmp_path / target)
    with pytest.raises(DataError, match=complaint):
        build("ImageFolder")


def test_a_class_folder_may_be_a_link_to_elsewhere(tmp_path, build):
    images(tmp_path / "here", {"a": 4})
    images(tmp_path / "there", {"x": 4})
    (tmp_path / "here" / "b").symlink_to(tmp_path / "there" / "x")
    assert build("ImageFolder", root=tmp_path / "here").classnames == ["a", "b"]


def test_what_lies_beside_the_class_folders_is_named(tmp_path, build, capsys):
    images(tmp_path, {"a": 4, "b": 4, "@eaDir": 2, "__MACOSX": 1})
    for name in ("1.png", "2.JPG", "readme.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert build("ImageFolder").classnames == ["a", "b"]
    out = capsys.readouterr().out
    assert "skipped folders of the system: @eaDir, __MACOSX" in out and "skipped 2 images that are in no class" in out


def test_class_folders_whose_names_are_not_utf8(tmp_path, build):
    images(tmp_path, {"a": 4, "b": 4})
    os.rename(tmp_path / "b", os.fsencode(tmp_path) + b"/caf\xe9")
    with pytest.raises(DataError, match=r"not UTF-8, or hold control characters: caf\\udce9. Rename them"):
        build("ImageFolder")
    with pytest.raises(DataError, match=r"the path of the folder of images: .*caf\\udce9"):
        build("ImageFolder", root=os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))


@pytest.mark.parametrize("file", ["classnames.txt", "classnames.json"])
def test_names_files_of_editors_that_begin_with_a_mark(tmp_path, build, file):
    images(tmp_path, {"a": 4, "b": 4})
    text = json.dumps({"a": "first", "b": "second"}) if file.endswith("json") else "a first\nb second\n"
    (tmp_path / file).write_text(text, encoding="utf-8-sig")
    assert build("ImageFolder").classnames == ["first", "second"]


# --- names in prompts ------------------------------------------------------------------------------------------------

WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=6)
NAME = st.lists(WORD, min_size=1, max_size=3).map(" ".join)


def test_equal_prompts_and_empty_names_are_named(tmp_path, build):
    images(tmp_path, {"red_fox": 4, "red fox": 4, "Red Fox": 4, "owl": 4})
    with pytest.raises(DataError, match=r"Red Fox \('Red Fox'\) = red fox \('red fox'\) = red_fox \('red_fox'\)"):
        build("ImageFolder")
    names = {"red_fox": "vixen", "red fox": "fox", "Red Fox": "_", "owl": "owl"}
    (tmp_path / "classnames.json").write_text(json.dumps(names))
    with pytest.raises(DataError, match=r"these class names leave nothing in a prompt: Red Fox \('_'\)"):
        build("ImageFolder")
    (tmp_path / "classnames.json").write_text(json.dumps(names | {"Red Fox": "dog fox"}))
    assert build("ImageFolder").classnames == ["dog fox", "owl", "fox", "vixen"]


@given(name=NAME, data=st.data())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_names_that_read_the_same_are_refused(name, data):
    """Case, underscores and the number of blanks are not seen by CLIP."""
    other = "".join(data.draw(st.sampled_from([c, c.upper()] if c != " " else [" ", "_", "  ", "_ "])) for c in name)
    with pytest.raises(DataError, match="x: classes have the same prompts, so that no"):
        image_folder.check_names({"a": name, "b": other}, Path("x"))


@given(names=st.lists(NAME, min_size=1, max_size=5, unique_by=lambda name: name.replace(" ", "")))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_names_that_differ_are_accepted(names):
    image_folder.check_names({str(i): name for i, name in enumerate(names)}, Path("x"))


@given(names=st.lists(st.text(st.characters(codec=None), max_size=8), min_size=2, max_size=3))
@settings(max_examples=150, deadline=None, derandomize=True)
@example(["", "a"])
@example(["\udcff", "a"])
@example(["&amp;", "&"])
@example(["\x00", "\n"])
def test_any_text_is_a_name_or_one_message(names):
    """Whatever stands in a names file: every class has its own prompt, or a message that can be printed."""
    with tempfile.TemporaryDirectory() as folder:
        classes = [str(number) for number in range(len(names))]
        path = Path(folder) / "classnames.json"
        path.write_text(json.dumps(dict(zip(classes, names, strict=True))))
        try:
            found = image_folder.class_names(Path(folder), classes)
        except DataError as error:
            assert str(error).encode("utf-8") and str(path) in str(error)
            return
    from mocoop.clip import Tokenizer

    prompts = [tuple(Tokenizer().encode(name.replace("_", " "))) for name in found.values()]
    assert all(prompts) and len(set(prompts)) == len(names) and list(found.values()) == names


@pytest.mark.parametrize(
    "name, complaint",
    [
        ("<|endoftext|>", "the name of class folder a cannot be used: .* CLIP's own mark"),
        ("cat " * 76, "the name of class folder a cannot be used: .* has 76 tokens, a prompt of CLIP holds 75"),
        ("ti\0ger", r"control characters: ti\\x00ger\. Rename"),
    ],
    ids=["mark", "long", "NUL"],
)
def test_names_that_clip_cannot_take_are_named(tmp_path, name, complaint):
    (tmp_path / "classnames.txt").write_text(f"a {name}\nb dog\n")
    with pytest.raises(DataError, match=complaint):
        image_folder.class_names(tmp_path, ["a", "b"])
    (tmp_path / "classnames.txt").write_text(f"a {'cat ' * 75}\nb dog\n")
    assert image_folder.class_names(tmp_path, ["a", "b"])["b"] == "dog"


def test_a_class_folder_with_clips_own_mark(tmp_path, build):
    images(tmp_path, {"<|endoftext|>": 4, "dog": 4})
    with pytest.raises(DataError, match=r"class folder <\|endoftext\|> cannot be used"):
        build("ImageFolder")


@pytest.mark.parametrize("file", ["classnames.json", "split_image_folder.json"])
@pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000])
def test_nested_json_is_one_message(tmp_path, build, file, text):
    images(tmp_path, {"a": 4, "b": 4})
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=f"{file} is not a whole JSON file .*recursion") as caught:
        build("ImageFolder")
    assert len(str(caught.value)) < 1000


def test_a_json_file_beyond_all_bounds_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "MOST_BYTES", 10)
    (tmp_path / "a.json").write_text('["0123456"]')
    with pytest.raises(DataError, match="more than 10 bytes"):
        splits.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('["012345"]')
    assert splits.read_json(tmp_path / "a.json") == ["012345"]


def test_no_message_moves_the_cursor(tmp_path, build):
    """Names are shown as Python writes them."""
    for part in ("train", "val", "test"):
        images(tmp_path / part, {"a": 1, "b": 1})
    images(tmp_path / "val", {"c\u202e": 1})  # turns the direction of writing
    with pytest.raises(DataError, match=r"val: c\\u202e: no such class folder in train"):
        build("ImageFolder")
    images(tmp_path / "val", {"c\x1b[2J": 1})
    with pytest.raises(DataError, match=r"control characters: c\\x1b\[2J\. Rename"):
        build("ImageFolder")


# --- parts under names of their own ----------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("Train_split", "Test_split"), ("one", "two")])
def test_folders_of_folders_are_no_classes(tmp_path, build, names):
    for name in names:
        images(tmp_path / name, {"a": 4, "b": 4})
    with pytest.raises(DataError, match=rf"2 folders \({names[1 if names[0] > names[1] else 0]}/.* look like parts"):
        build("ImageFolder")
    images(tmp_path, {names[0]: 1})  # an image of its own: a class with folders in it
    if names[0] == "one":
        assert build("ImageFolder").classnames == ["one", "two"]


@pytest.mark.parametrize(
    "names, parts",
    [
        (("Train_split", "Test_split", "docs"), "Test_split/ and Train_split/"),
        (("ImagesTRAIN", "imagesVal2"), "ImagesTRAIN/ and imagesVal2/"),
        (("Train_Test_caps", "caps"), ""),
        (("Train_Test_caps", "train_caps"), "Train_Test_caps/ and train_caps/"),
        (("bullet_train", "crash_test"), ""),
        (("trainer", "tester"), ""),
    ],
)
def test_folders_that_differ_in_their_part_are_no_classes(tmp_path, build, names, parts):
    images(tmp_path, dict.fromkeys(names, 4))
    if parts:
        with pytest.raises(DataError, match=f"{parts} look like parts of the data.*Expected train/"):
            build("ImageFolder")
    else:
        assert build("ImageFolder").classnames == sorted(names)


# --- how they are read -----------------------------------------------------------------------------------------------


def test_own_images_are_read_upright_and_the_benchmarks_as_dassl_does(tmp_path, make_cfg):
    """A photograph lying on its side, its upper half transparent, through the loaders of both data sets' kinds."""
    from dassl.data import DataManager
    from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

    pixels = np.full((32, 32, 4), 255, np.uint8)
    pixels[:16] = (200, 0, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise: what is above comes to the right
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / place / "0.png", exif=exif)
        colours = Image.fromarray(np.array(pixels)[..., :3])
        colours.save(tmp_path / place / "1.png", exif=exif)

    class Plain(DatasetBase):
        def __init__(self, cfg):
            data = image_folder.ImageFolder(cfg)
            super().__init__(train_x=data.train_x, test=data.test)

    DATASET_REGISTRY.register(Plain, force=True)
    halves = {}
    for name in ("ImageFolder", "Plain"):
        cfg = make_cfg()
        cfg.DATASET.NAME, cfg.INPUT.SIZE, cfg.DATALOADER.NUM_WORKERS, cfg.VERBOSE = name, (32, 32), 0, False
        batch = next(iter(DataManager(cfg).test_loader))["img"][:2, 1]  # green: 0 in the red half, 1 elsewhere
        halves[name] = [[round(float(part.mean()), 2) for part in (x[:8], x[24:], x[:, :8], x[:, 24:])] for x in batch]
    assert halves["Plain"] == [[0.0, 1.0, 0.5, 0.5]] * 2  # red above
    assert halves["ImageFolder"] == [[1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 1.0, 0.0]]  # all white; red to the right
