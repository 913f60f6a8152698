"""The shared rules, against values worked out by hand and against a plain restatement of CoOp's draws."""

import json
import os
import random

import pytest
from mocoop.datasets import splits
from mocoop.datasets.errors import DataError, DataMissing
from mocoop.datasets.splits import Item, Split


def items(*labels):
    return [Item(f"{n}.jpg", label, f"class {label}") for n, label in enumerate(labels)]


SOURCE = Split(items(0, 1, 0, 1, 0, 1), items(0, 1, 0, 1), items(0, 1))


def paths(found):
    return [item.path for item in found]


# --- making a split ------------------------------------------------------------------------------------------------


def test_split_folder_by_hand():
    # Seven of class 0: round(3.5) = 4 train, round(1.4) = 1 val, 2 test. Five of class 1: round(2.5) = 2, 1, 2 (ties to
    # even). Shuffled by one generator, class after class.
    source = items(*[0] * 7, *[1] * 5)
    rng = random.Random(splits.SPLIT_SEED)
    first, second = source[:7], source[7:]
    rng.shuffle(first)
    rng.shuffle(second)
    split = splits.split_folder(source)
    assert split.train == first[:4] + second[:2]
    assert split.val == first[4:5] + second[2:3]
    assert split.test == first[5:] + second[3:]


def test_split_train_val_by_hand():
    # Label 4 is seen first. Eight of it: round(1.6) = 2 val; three of label 0: round(0.6) = 1 val.
    source = items(4, 0, 4, 4, 0, 4, 4, 0, 4, 4, 4)
    rng = random.Random(splits.SPLIT_SEED)
    four, zero = [i for i in source if i.label == 4], [i for i in source if i.label == 0]
    rng.shuffle(four)
    rng.shuffle(zero)
    assert splits.split_train_val(source) == (four[2:] + zero[1:], four[:2] + zero[:1])


def test_small_classes_are_refused_by_name():
    with pytest.raises(DataError, match=r"1 classes .*class 1 \(3\)"):
        splits.split_folder(items(0, 0, 0, 0, 1, 1, 1))
    with pytest.raises(DataError, match=r"class 1 \(2\)"):
        splits.split_train_val(items(0, 0, 0, 1, 1))


def test_listing_is_sorted_and_skips_what_is_no_image(tmp_path):
    for name in (
        "b/2.jpg",
        "b/10.JPG",
        "B/x.png",
        ".cache/y.jpg",
        "b/.z.jpg",
        "b/notes.txt",
        "b/deep/1.jpg",
        "top.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert splits.list_folder(tmp_path, names={"b": "bee"}, prefix="train/") == [
        Item("train/B/x.png", 0, "B"),
        Item("train/b/10.JPG", 1, "bee"),
        Item("train/b/2.jpg", 1, "bee"),
        Item("train/b/deep/1.jpg", 1, "bee"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="hold no image: empty"):
        splits.list_folder(tmp_path)


# --- reading -------------------------------------------------------------------------------------------------------


def write_split(tmp_path, split=SOURCE, touch=True):
    splits.save_split(tmp_path / "split.json", *split)
    for item in {i for part in split for i in part} if touch else ():
        (tmp_path / item.path).touch()
    return tmp_path / "split.json"


def test_split_file_round_trip_in_coops_format(tmp_path):
    path = write_split(tmp_path)
    assert splits.read_split(path, tmp_path) == SOURCE
    text = path.read_text()
    assert json.loads(text)["train"][1] == ["1.jpg", 1, "class 1"]
    assert text.startswith('{\n    "train": [\n        [\n            "0.jpg",\n            0,\n')


def test_missing_images_are_counted_and_ten_named(tmp_path):
    split = Split(items(*[0] * 25), [], [Item("deep/x.jpg", 0, "class 0")])
    path = write_split(tmp_path, split, touch=False)
    for n in range(5):
        (tmp_path / f"{n}.jpg").touch()
    with pytest.raises(DataMissing) as caught:
        splits.read_split(path, tmp_path)
    text = str(caught.value)
    assert "21 of the 26 images" in text and str(path) in text
    assert [line.strip() for line in text.splitlines()[1:12]] == [*(f"{n}.jpg" for n in range(5, 15)), "…"]


def test_images_are_looked_up_folder_by_folder(tmp_path, monkeypatch):
    path = write_split(tmp_path)
    monkeypatch.setattr(splits.os.path, "isfile", lambda p: pytest.fail(f"looked at {p}"))
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(splits.os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    splits.check_images(tmp_path, [i.path for i in splits.to_items(json.loads(path.read_text())["train"], "")], "")
    assert len(listed) == 1


@pytest.mark.parametrize(
    "raw, complaint",
    [
        ({"train": [], "val": []}, r"expected an object with the keys train, val, test; found \['train', 'val'\]"),
        ([1, 2], "found list"),
        ({"train": {}, "val": [], "test": []}, "train: expected a list"),
        ({"train": [["0.jpg", "0", "class 0"]], "val": [], "test": []}, "train, entry 0: expected"),
        ({"train": [["0.jpg", -1, "class 0"]], "val": [], "test": []}, "train, entry 0: expected"),
        ({"train": [["0.jpg", 0]], "val": [], "test": []}, "train, entry 0: expected"),
        ({"train": [], "val": [["/etc/passwd", 0, "x"]], "test": []}, "val, entry 0: expected a path below"),
        ({"train": [], "val": [], "test": [["a/../../b", 0, "x"]]}, "test, entry 0: expected a path below"),
    ],
)
def test_broken_split_files(tmp_path, raw, complaint):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match=complaint):
        splits.read_split(path, tmp_path)


def test_split_file_cut_short(tmp_path):
    path = write_split(tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(DataError, match="split.json is not a whole JSON file"):
        splits.read_split(path, tmp_path)


@pytest.mark.parametrize(
    "split, complaint",
    [
        (Split(items(0, 2), [], items(0)), "labels have gaps: .* from 0 to 2, found none of 1 labels: 1"),
        (Split([*items(0, 1), Item("x", 1, "other")], [], items(0)), "label 1 has two names, 'class 1' and 'other'"),
        (Split(items(0, 1), [], [Item("x", 0, "other")]), "label 0 has two names"),
        (Split(items(0, 1), items(2), items(0)), r"label 2 \(class 2\) is in val but not in train"),
        (Split([], [], items(0)), "found 0 and 1"),
        (Split(items(0), [], []), "found 1 and 0"),
    ],
)
def test_label_faults(split, complaint):
    with pytest.raises(DataError, match=complaint):
        splits.label_names(split, "X")


def test_equal_names_of_two_labels_are_kept():
    twice = [Item("0", 0, "missile"), Item("1", 1, "missile")]
    assert splits.label_names(Split(twice, [], twice), "X") == ["missile", "missile"]
