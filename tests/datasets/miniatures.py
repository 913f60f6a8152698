"""Miniatures of the data sets in their true on-disk layout: few classes, few tiny images, real annotation formats.

`write(name, root)` makes one below a data root. Every image is 16 x 16 with a colour of its class, so that a model can
tell classes apart. Traps of the real layouts are included: ignored folders, capital letters, stray files, odd names.
"""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

WNIDS = {"n01440764": "tench", "n01608432": "kite (bird of prey)", "n03773504": "missile", "n04008634": "missile"}


def write(name, root):
    """Write the miniature of the data set registered as `name` below `root`; return the folder of the data set."""
    return WRITERS[name](Path(root))


def image(path, label=0, number=0):
    """Write one image: the colour depends on the label, a brighter row on the number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((16, 16, 3), (40 + 53 * label % 200, 40 + 97 * label % 200, 40 + 151 * label % 200), np.uint8)
    pixels[number % 16] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue())


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def class_folders(folder, counts, suffix=".jpg"):
    """Class folders with `counts[name]` images each."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            image(folder / name / f"image_{number:04d}{suffix}", label, number)


def caltech101(root):
    folder = root / "caltech-101"
    names = ["accordion", "Faces", "airplanes", "Motorbikes", "Leopards", "Faces_easy", "BACKGROUND_Google", ".hidden"]
    class_folders(folder / "101_ObjectCategories", {name: 6 for name in names})
    text(folder / "101_ObjectCategories" / "BACKGROUND_Google" / "tmp", "not an image")
    return folder


def oxford_pets(root):
    folder = root / "oxford_pets"
    # Stems keep capital letters (cats have them); class ids follow the breeds' own numbering.
    breeds = {"Abyssinian": 1, "american_bulldog": 2, "Egyptian_Mau": 3}
    for part, numbers in (("trainval", (1, 2, 10, 11, 12)), ("test", (3, 4))):
        lines = []
        for stem, label in breeds.items():
            for number in numbers:
                image(folder / "images" / f"{stem}_{number}.jpg", label, number)
                lines.append(f"{stem}_{number} {label} 1 1")
        text(folder / "annotations" / f"{part}.txt", *lines)
    text(folder / "images" / "Abyssinian_100.mat", "a stray file, as in the real archive")
    return folder


def stanford_cars(root):
    folder = root / "stanford_cars"
    names = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "smart fortwo Convertible 2012"]
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([names], dtype=object)})
    # Classes are not in order in the real file either: 2, 1, 3, 2, …
    for part, classes, path in (
        ("train", [2, 1, 3, 2, 1, 3, 2, 1, 3, 2, 1, 3, 2, 1, 3], folder / "devkit" / "cars_train_annos.mat"),
        ("test", [1, 3, 2, 2, 1, 3], folder / "cars_test_annos_withlabels.mat"),
    ):
        rows = np.zeros((1, len(classes)), dtype=[(k, object) for k in ("bbox_x1", "class", "fname")])
        for i, label in enumerate(classes):
            rows[0, i] = (1, np.uint8(label), f"{i + 1:05d}.jpg")
            image(folder / f"cars_{part}" / f"{i + 1:05d}.jpg", label, i)
        savemat(path, {"annotations": rows})
    return folder


def oxford_flowers(root):
    folder = root / "oxford_flowers"
    # As in the real file, the first image is not of class 1.
    labels = [3] * 6 + [1] * 6 + [2] * 6 + [3]
    for number, label in enumerate(labels, 1):
        image(folder / "jpg" / f"image_{number:05d}.jpg", label, number)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], dtype=np.uint8)})
    names = {"1": "pink primrose", "2": "hard-leaved pocket orchid", "3": "canterbury bells"}
    text(folder / "cat_to_name.json", json.dumps(names))
    return folder


def food101(root):
    folder = root / "food-101"
    class_folders(folder / "images", {"apple_pie": 6, "baby_back_ribs": 7, "ramen": 6, "beef_carpaccio": 8})
    text(folder / "meta" / "train.txt", "apple_pie/image_0000")  # the official split, which is not used
    return folder


def fgvc_aircraft(root):
    folder = root / "fgvc_aircraft"
    variants = ["707-320", "A300B4", "F/A-18", "Cessna 172"]
    text(folder / "variants.txt", *variants)
    for p, (part, count) in enumerate((("train", 3), ("val", 2), ("test", 2))):
        lines = []
        for label, variant in enumerate(variants):
            for number in range(count):
                stem = f"{1000000 + 10000 * p + 100 * label + number:07d}"
                image(folder / "images" / f"{stem}.jpg", label, number)
                lines.append(f"{stem} {variant}")
        text(folder / f"images_variant_{part}.txt", *lines)
    text(folder / "images_family_train.txt", "1000000 Boeing 707")
    return folder


def sun397(root):
    folder = root / "sun397"
    scenes = ["/a/abbey", "/a/apartment_building/outdoor", "/c/church/indoor"]
    text(folder / "ClassName.txt", *scenes)
    for part, count in (("Training", 5), ("Testing", 2)):
        lines = []
        for label, scene in enumerate(scenes):
            for number in range(count):
                line = f"{scene}/sun_{part.lower()}{label}{number}.jpg"
                image(folder / "SUN397" / line[1:], label, number)
                lines.append(line)
        text(folder / f"{part}_01.txt", *lines)
    return folder


def dtd(root):
    folder = root / "dtd"
    class_folders(folder / "images", {"banded": 6, "blotchy": 6, "zigzagged": 10})
    text(folder / "images" / "banded" / ".directory", "hidden, as in the real archive")
    text(folder / "labels" / "train1.txt", "banded/image_0000.jpg")
    return folder


def eurosat(root):
    folder = root / "eurosat"
    names = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop"]
    class_folders(folder / "2750", {name: 5 for name in [*names, "Residential", "River", "SeaLake"]})
    return folder


def ucf101(root):
    folder = root / "ucf101"
    actions = {"ApplyEyeMakeup": "Apply_Eye_Makeup", "Archery": "Archery", "YoYo": "Yo_Yo"}
    text(folder / "ucfTrainTestlist" / "classInd.txt", *(f"{i} {a}" for i, a in enumerate(actions, 1)))
    for part, groups in (("trainlist01", range(8, 13)), ("testlist01", range(1, 3))):
        lines = []
        for label, (action, name) in enumerate(actions.items(), 1):
            for group in groups:
                stem = f"v_{action}_g{group:02d}_c01"
                image(folder / "UCF-101-midframes" / name / f"{stem}.jpg", label, group)
                lines.append(f"{action}/{stem}.avi" + (f" {label}" if part == "trainlist01" else ""))
        text(folder / "ucfTrainTestlist" / f"{part}.txt", *lines)
    return folder


def classnames(folder, names=WNIDS):
    text(folder / "classnames.txt", *(f"{wnid} {name}" for wnid, name in names.items()))


def imagenet(root):
    folder = root / "imagenet"
    classnames(folder)
    class_folders(folder / "images" / "train", {wnid: 5 for wnid in WNIDS}, ".JPEG")
    class_folders(folder / "images" / "val", {wnid: 2 for wnid in WNIDS}, ".JPEG")
    text(folder / "images" / "train" / "readme.txt", "a stray file")
    (folder / "preprocessed.pkl").write_bytes(b"CoOp's pickle, never loaded")
    return folder


def imagenetv2(root):
    folder = root / "imagenetv2"
    # Twelve classes, so that the order of folders as text ("10" before "2") differs from that of labels.
    names = {f"n{label:08d}": f"class number {label}" for label in range(12)}
    classnames(folder, names)
    for label in range(12):
        for number in range(2):
            image(folder / "imagenetv2-matched-frequency-format-val" / str(label) / f"{number}.jpeg", label, number)
    return folder


def imagenet_sketch(root):
    folder = root / "imagenet-sketch"
    classnames(folder)
    class_folders(folder / "images", {wnid: 3 for wnid in WNIDS}, ".JPEG")
    return folder


def imagenet_a(root):
    return subset(root / "imagenet-adversarial", "imagenet-a")


def imagenet_r(root):
    return subset(root / "imagenet-rendition", "imagenet-r")


def subset(folder, images):
    """Three of the four classes, and the README that lies among the class folders."""
    classnames(folder)
    class_folders(folder / images, {wnid: 2 for wnid in ("n03773504", "n01440764", "n04008634")})
    text(folder / images / "README.txt", "not a class")
    return folder


WRITERS = {
    "ImageNet": imagenet,
    "Caltech101": caltech101,
    "OxfordPets": oxford_pets,
    "StanfordCars": stanford_cars,
    "OxfordFlowers": oxford_flowers,
    "Food101": food101,
    "FGVCAircraft": fgvc_aircraft,
    "SUN397": sun397,
    "DescribableTextures": dtd,
    "EuroSAT": eurosat,
    "UCF101": ucf101,
    "ImageNetV2": imagenetv2,
    "ImageNetSketch": imagenet_sketch,
    "ImageNetA": imagenet_a,
    "ImageNetR": imagenet_r,
}
