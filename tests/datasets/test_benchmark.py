"""Each of the 15 data sets on a miniature in its true layout: labels, names, counts, renames, exclusions, errors."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mocoop.datasets import shots, splits
from mocoop.datasets.errors import DataError, DataMissing
from scipy.io import savemat

LANDS = ["Annual Crop Land", "Forest", "Herbaceous Vegetation Land", "Highway or Road", "Industrial Buildings"]
LANDS += ["Pasture Land", "Permanent Crop Land", "Residential Buildings", "River", "Sea or Lake"]
CARS = ["2000 AM General Hummer SUV", "2012 Ram C/V Cargo Van Minivan", "2012 smart fortwo Convertible"]
IMAGENET = ["tench", "kite (bird of prey)", "missile", "missile"]

# Name: (class names in label order, train, val, test), counted by hand from miniatures.py. Folder data sets have
# round(n/2) + round(n/5) + rest a class; listed ones have 5 training images a class, of which round(1) is validation.
EXPECTED = {
    "ImageNet": (IMAGENET, 20, 8, 8),
    "Caltech101": (["face", "leopard", "motorbike", "accordion", "airplane"], 15, 5, 10),
    "OxfordPets": (["abyssinian", "american_bulldog", "egyptian_mau"], 12, 3, 6),
    "StanfordCars": (CARS, 12, 3, 6),
    "OxfordFlowers": (["pink primrose", "hard-leaved pocket orchid", "canterbury bells"], 10, 3, 6),
    "Food101": (["apple_pie", "baby_back_ribs", "beef_carpaccio", "ramen"], 14, 5, 8),
    "FGVCAircraft": (["707-320", "A300B4", "F/A-18", "Cessna 172"], 12, 8, 8),
    "SUN397": (["abbey", "outdoor apartment_building", "indoor church"], 12, 3, 6),
    "DescribableTextures": (["banded", "blotchy", "zigzagged"], 11, 4, 7),
    "EuroSAT": (LANDS, 20, 10, 20),
    "UCF101": (["Apply_Eye_Makeup", "Archery", "Yo_Yo"], 12, 3, 6),
    "ImageNetV2": ([f"class number {n}" for n in range(12)], 24, 0, 24),
    "ImageNetSketch": (IMAGENET, 12, 0, 12),
    "ImageNetA": (["tench", "missile", "missile"], 6, 0, 6),
    "ImageNetR": (["tench", "missile", "missile"], 6, 0, 6),
}
SHIFTS = ("ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR")
WITH_SPLIT = [name for name in EXPECTED if name not in (*SHIFTS, "ImageNet", "FGVCAircraft")]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory, miniature):
    """All 15 miniatures below one root."""
    root = tmp_path_factory.mktemp("data")
    for name in EXPECTED:
        miniature(name, root)
    return root


def below(root, datums):
    return [os.path.relpath(d.impath, root).replace(os.sep, "/") for d in datums]


def test_every_data_set_of_the_table_has_a_miniature(miniatures):
    from mocoop.plugin import DATASETS

    assert set(miniatures.WRITERS) == set(EXPECTED) and set(EXPECTED) <= set(DATASETS) and len(EXPECTED) >= 15


@pytest.mark.parametrize("name", EXPECTED)
def test_names_and_counts(name, data_root, build):
    names, train, val, test = EXPECTED[name]
    data = build(name, root=data_root)
    assert data.classnames == names == data.all_classnames
    assert data.num_classes == len(names)
    assert (len(data.train_x), len(data.val or []), len(data.test)) == (train, val, test)
    assert {d.label for d in data.test} == set(range(len(names)))
    assert all(names[d.label] == d.classname for part in (data.train_x, data.val or [], data.test) for d in part)


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in SHIFTS])
def test_parts_are_disjoint_and_complete(name, data_root, build):
    data = build(name, root=data_root)
    train, val, test = ({d.impath for d in part} for part in (data.train_x, data.val, data.test))
    assert not train & test and not train & val and (not val & test or name == "ImageNet")
    images = {str(p) for p in Path(data_root, data.dataset_dir).rglob("*.[jJ][pP]*")}
    unused = {p for p in images - train - val - test if "Faces_easy" not in p and "BACKGROUND_Google" not in p}
    assert all("/." in p for p in unused)


# What single images are called, worked out from the annotation files in miniatures.py.
FACTS = {
    "ImageNet": [("train_x", "imagenet/images/train/n03773504/image_0000.JPEG", 2, "missile")],
    "OxfordPets": [("test", "oxford_pets/images/Egyptian_Mau_3.jpg", 2, "egyptian_mau")],
    "StanfordCars": [
        ("test", "stanford_cars/cars_test/00001.jpg", 0, "2000 AM General Hummer SUV"),
        ("test", "stanford_cars/cars_test/00002.jpg", 2, "2012 smart fortwo Convertible"),
    ],
    "FGVCAircraft": [
        ("train_x", "fgvc_aircraft/images/1000201.jpg", 2, "F/A-18"),
        ("val", "fgvc_aircraft/images/1010300.jpg", 3, "Cessna 172"),
    ],
    "SUN397": [
        ("test", "sun397/SUN397/a/apartment_building/outdoor/sun_testing10.jpg", 1, "outdoor apartment_building")
    ],
    "UCF101": [("test", "ucf101/UCF-101-midframes/Yo_Yo/v_YoYo_g01_c01.jpg", 2, "Yo_Yo")],
    "ImageNetV2": [
        ("test", "imagenetv2/imagenetv2-matched-frequency-format-val/10/0.jpeg", 10, "class number 10"),
        ("test", "imagenetv2/imagenetv2-matched-frequency-format-val/2/1.jpeg", 2, "class number 2"),
    ],
    "ImageNetA": [("test", "imagenet-adversarial/imagenet-a/n04008634/image_0001.jpg", 2, "missile")],
}


@pytest.mark.parametrize("name, facts", FACTS.items())
def test_single_images(name, facts, data_root, build):
    data = build(name, root=data_root)
    for part, path, label, classname in facts:
        found = dict(zip(below(data_root, getattr(data, part)), getattr(data, part), strict=True))[path]
        assert (found.label, found.classname) == (label, classname)


def test_flowers_follow_the_order_of_labels(data_root, build):
    # Labels are 3 x 6, 1 x 6, 2 x 6, 3: class 3 is met first, with images 1-6 and 19.
    data = build("OxfordFlowers", root=data_root)
    rng = random.Random(splits.SPLIT_SEED)
    third = [f"oxford_flowers/jpg/image_{n:05d}.jpg" for n in (1, 2, 3, 4, 5, 6, 19)]
    rng.shuffle(third)
    assert below(data_root, data.train_x[:4]) == third[:4] and data.train_x[0].label == 2


def test_pets_split_like_coops_with_seed_1(data_root, build):
    """From an annotation file we build the split that CoOp builds when it first runs with seed 1."""
    data = build("OxfordPets", root=data_root)
    random.seed(1)
    expected = {"train": [], "val": []}
    for breed in ("Abyssinian", "american_bulldog", "Egyptian_Mau"):
        numbers = [1, 2, 10, 11, 12]
        order = list(range(5))
        random.shuffle(order)
        stems = [f"oxford_pets/images/{breed}_{numbers[i]}.jpg" for i in order]
        expected["val"] += stems[:1]
        expected["train"] += stems[1:]
    assert below(data_root, data.train_x) == expected["train"] and below(data_root, data.val) == expected["val"]


@pytest.mark.parametrize("name", WITH_SPLIT)
def test_split_file_is_saved_once_and_then_read(name, tmp_path, miniature, build, capsys):
    folder = miniature(name, tmp_path)
    first = build(name)
    assert "Built a split of" in capsys.readouterr().out
    (path,) = folder.glob("split_zhou_*.json")
    raw = json.loads(path.read_text())
    raw["train"].reverse()
    raw["train"] = [[p, label, f"renamed {n}"] for p, label, n in raw["train"]]
    for part in ("val", "test"):
        raw[part] = [[p, label, f"renamed {n}"] for p, label, n in raw[part]]
    path.write_text(json.dumps(raw))
    second = build(name)
    assert "Built" not in capsys.readouterr().out
    assert below(tmp_path, second.train_x) == below(tmp_path, first.train_x)[::-1]
    assert second.all_classnames == [f"renamed {n}" for n in first.all_classnames]


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in SHIFTS])
def test_shots_and_halves(name, tmp_path, miniature, build):
    """Against a plain restatement: draw for all classes with random.Random(seed), then keep a half and renumber."""
    folder = miniature(name, tmp_path)
    full = build(name)
    rng = random.Random(2)
    train = shots.few_shot(full.train_x, 2, rng)
    val = full.val if name == "ImageNet" else shots.few_shot(full.val, 2, rng)
    names, cut = full.all_classnames, (len(full.all_classnames) + 1) // 2
    for classes, labels in (("base", range(cut)), ("new", range(cut, len(names)))):
        data = build(name, shots=2, seed=2, classes=classes)
        assert data.all_classnames == names and data.classnames == [names[label] for label in labels]
        for mine, theirs in ((data.train_x, train), (data.val, val), (data.test, full.test)):
            kept = [d for d in theirs if d.label in labels]
            assert [d.impath for d in mine] == [d.impath for d in kept]
            assert [d.label for d in mine] == [labels.index(d.label) for d in kept]
    assert [p.name for p in (folder / "split_fewshot").iterdir()] == ["shot_2-seed_2.json"]
    assert str(tmp_path) not in (folder / "split_fewshot" / "shot_2-seed_2.json").read_text()


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts_ignore_shots_and_halves(name, data_root, build):
    data = build(name, root=data_root, shots=1, classes="new")
    assert len(data.train_x) == len(data.test) == EXPECTED[name][3] and not data.val
    assert Counter(d.label for d in data.test).keys() == set(range(len(EXPECTED[name][0])))


def test_imagenet_val_is_test_whatever_the_shots(data_root, build):
    data = build("ImageNet", root=data_root, shots=1, seed=3)
    assert data.val is data.test and len(data.val) == 8
    assert (data_root / "imagenet" / "preprocessed.pkl").read_bytes() == b"CoOp's pickle, never loaded"


def test_moved_root_keeps_its_draw(tmp_path, miniature, build):
    miniature("EuroSAT", tmp_path / "a")
    before = below(tmp_path / "a", build("EuroSAT", root=tmp_path / "a", shots=1).train_x)
    (tmp_path / "a").rename(tmp_path / "b")
    assert below(tmp_path / "b", build("EuroSAT", root=tmp_path / "b", shots=1).train_x) == before


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPECTED)
def test_missing_folder_says_what_where_and_how(name, tmp_path, build):
    with pytest.raises(DataMissing) as caught:
        build(name)
    first, how, docs = str(caught.value).splitlines()
    assert first.startswith(f"{name}: {tmp_path}") and first.endswith("does not exist.")
    assert f"python -m mocoop.datasets.prepare {name} --root {tmp_path}" in how and "docs/DATASETS.md" in docs


# (data set, file cut to its first characters, what is wrong)
CUT = [
    ("OxfordPets", "annotations/test.txt", 30, r"test.txt, line 2: expected"),
    ("StanfordCars", "devkit/cars_meta.mat", 300, r"cars_meta.mat: expected a MATLAB file"),
    ("StanfordCars", "cars_test_annos_withlabels.mat", 500, r"cars_test_annos_withlabels.mat: expected a MATLAB file"),
    ("OxfordFlowers", "imagelabels.mat", 150, r"imagelabels.mat: expected a MATLAB file"),
    ("OxfordFlowers", "cat_to_name.json", 30, r"cat_to_name.json is not a whole JSON file"),
    ("FGVCAircraft", "images_variant_val.txt", 22, r"images_variant_val.txt, line 2: expected"),
    ("FGVCAircraft", "variants.txt", 10, r"images_variant_train.txt, line 4: expected"),
    ("SUN397", "Testing_01.txt", 60, r"Testing_01.txt, line 3: expected"),
    ("UCF101", "ucfTrainTestlist/trainlist01.txt", 60, r"trainlist01.txt, line 2: expected"),
    ("UCF101", "ucfTrainTestlist/classInd.txt", 19, r"classInd.txt, line 2: expected"),
    ("ImageNet", "classnames.txt", 20, r"classnames.txt, line 2: expected"),
    ("ImageNet", "classnames.txt", 0, r"classnames.txt is empty"),
    ("ImageNetA", "classnames.txt", 16, r"2 class folders are not in classnames.txt: n03773504, n04008634"),
]


@pytest.mark.parametrize("name, file, length, complaint", CUT)
def test_annotation_file_cut_short(name, file, length, complaint, tmp_path, miniature, build):
    folder = miniature(name, tmp_path)
    (folder / file).write_bytes((folder / file).read_bytes()[:length])
    with pytest.raises(DataError, match=complaint):
        build(name)
    assert not list(folder.glob("split_zhou_*.json"))


LACKING = [
    ("EuroSAT", "2750/Highway", r"expected 10 class folders, found 9 \(1 missing: Highway\)"),
    ("ImageNet", "images/val/n03773504", r"expected 4 class folders, found 3 \(1 missing: n03773504\)"),
    (
        "ImageNetV2",
        "imagenetv2-matched-frequency-format-val/7",
        r"expected 12 class folders, found 11 \(1 missing: 7\)",
    ),
    ("ImageNetSketch", "images/n01440764", r"expected 4 class folders, found 3 \(1 missing: n01440764\)"),
    ("UCF101", "UCF-101-midframes/Archery", r"7 of the 21 images that the annotations name do not exist"),
    ("FGVCAircraft", "images/1000000.jpg", r"1 of the 28 images that the lists name do not exist"),
]


@pytest.mark.parametrize("name, lost, complaint", LACKING)
def test_lost_class_or_image(name, lost, complaint, tmp_path, miniature, build):
    folder = miniature(name, tmp_path)
    (folder / lost).rename(tmp_path / "lost")
    with pytest.raises((DataError, DataMissing), match=complaint):
        build(name)


def test_lost_images_of_a_saved_split(tmp_path, miniature, build):
    folder = miniature("DescribableTextures", tmp_path)
    build("DescribableTextures")
    (folder / "images" / "blotchy").rename(tmp_path / "lost")
    with pytest.raises(DataMissing, match=r"DescribableTextures: 6 of the 22 images listed in .*\n  blotchy/"):
        build("DescribableTextures")


def test_class_number_out_of_range(tmp_path, miniature, build):
    folder = miniature("StanfordCars", tmp_path)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([["A 2000", "B 2001"]], dtype=object)})
    with pytest.raises(DataError, match="expected classes from 1 to 2, found 3"):
        build("StanfordCars")


def test_two_folders_for_one_name(tmp_path, miniature, build):
    folder = miniature("ImageNet", tmp_path)
    with open(folder / "classnames.txt", "a") as file:
        file.write("n01440764 goldfish\n")
    with pytest.raises(DataError, match='line 5: expected a new WNID, a space and a name, found "n01440764 goldfish"'):
        build("ImageNet")


def test_reading_data_sets_does_not_import_torch(tmp_path, miniature):
    """Start-up stays light: a wrong path is reported before torch is loaded."""
    code = (
        "import sys, mocoop; from mocoop.datasets import caltech101, imagenet, splits\n"
        f"try: caltech101.Caltech101.load({str(tmp_path)!r})\n"
        "except FileNotFoundError: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"
