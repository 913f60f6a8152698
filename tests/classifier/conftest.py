"""A folder of small images and classifiers on the demo backbone, trained for a moment."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

COLOURS = {"red_ball": (200, 40, 40), "green tree": (40, 170, 60), "blue sea": (40, 60, 210)}
QUICK = {"backbone": "demo", "device": "cpu", "folds": 0, "views": 2, "epochs": 2, "workers": 2}


def draw(name, colour, number):
    """A picture of 20 x 24 pixels: a triangle, bars or a disc by the name's last letter, in its colour, with noise."""
    random = np.random.default_rng(1000 * sum(colour) + number)
    picture = Image.new("RGB", (20, 24), "white")
    pen, (x, y) = ImageDraw.Draw(picture), random.integers(2, 6, 2)
    if name.endswith("tree"):
        pen.polygon([(x + 7, y), (x, y + 15), (x + 14, y + 15)], fill=colour)
    elif name.endswith("sea"):
        for row in range(y, 24, 5):
            pen.line([(x - 2, row), (19, row)], fill=colour, width=2)
    else:
        pen.ellipse([(x, y), (x + 12, y + 12)], fill=colour)
    noise = random.normal(0, 12, (24, 20, 3))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def write_images(folder, per_class, classes=COLOURS, first=0):
    """Pictures of each class in a folder of its name; returns paths and labels."""
    paths, labels = [], []
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(first, first + per_class):
            paths.append(str(folder / name / f"{i:03d}.png"))
            draw(name, colour, i).save(paths[-1])
            labels.append(name)
    return paths, labels


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """The folder, with train/ (6 images a class) and test/ (4)."""
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder / "train", 6)
    write_images(folder / "test", 4, first=100)
    return folder


@pytest.fixture(scope="session")
def listed(tmp_path_factory):
    """(paths, labels) of 5 images a class."""
    return write_images(tmp_path_factory.mktemp("listed"), 5, first=200)


@pytest.fixture(scope="session")
def demo():
    from mocoop.clip import load_backbone

    return load_backbone("demo")


@pytest.fixture(scope="session")
def fitted(photos, demo):
    """A function: method -> a classifier trained on `photos`, once per session; tests must not change it."""
    from mocoop import Classifier

    made = {}

    def get(method):
        if method not in made:
            made[method] = Classifier(method, **{**QUICK, "backbone": demo}).fit(str(photos))
        return made[method]

    return get


@pytest.fixture()
def images(photos):
    """Paths of the test images, sorted."""
    return sorted(str(path) for path in (photos / "test").rglob("*.png"))


@pytest.fixture(scope="session")
def fitted_run(fitted, tmp_path_factory):
    """A function: method -> folder of its finished run."""
    made = {}

    def get(method):
        if method not in made:
            made[method] = tmp_path_factory.mktemp(f"run_{method}")
            clf = fitted(method)
            lines = [json.dumps({"epoch": epoch, **record}) for epoch, record in enumerate(clf.history_, 1)]
            (made[method] / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
            clf.save(made[method] / "classifier.safetensors")
        return made[method]

    return get
