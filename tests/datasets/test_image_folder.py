"""A user's own images: both layouts, names, formats, and what can be wrong with them."""

import json
import shutil

import pytest
from mocoop.datasets.errors import DataError, DataMissing
from PIL import Image


def images(folder, counts, suffix=".png"):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 20, 30)).save(folder / name / f"{number}{suffix}")


def listed(datums, root):
    return [(d.impath.removeprefix(f"{root}/"), d.label, d.classname) for d in datums]


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
    (tmp_path / "a" / "3.png").unlink()
    with pytest.raises(DataMissing, match=r"1 of the 14 images listed in .*split_image_folder.json"):
        build("ImageFolder")


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
    assert "passed over 1 files that Pillow does not decode (1 .heic)" in capsys.readouterr().out


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
