"""`mocoop evaluate`: its files against what the class says, and against counting by hand."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mocoop import Classifier, load
from mocoop.classifier.calibration import evaluate
from mocoop.classifier.figures import draw_confusion, gathered, shown_classes
from mocoop.commands.evaluate import class_row, default_out, worst
from PIL import Image

CSV = ("predictions.csv", "per_class.csv", "confusion.csv")


@pytest.fixture(scope="module")
def evaluated(run, photos, tmp_path_factory):
    from mocoop.commands.main import main

    out = tmp_path_factory.mktemp("evaluation")
    assert main(["evaluate", str(run), str(photos), "--out", str(out)]) == 0
    return out


def read(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_the_json_is_the_evaluation(evaluated, run, photos):
    found = json.loads((evaluated / "evaluation.json").read_text())
    expected = load(run, device="cpu").evaluate(str(photos)).to_dict()
    assert {name: found[name] for name in expected} == json.loads(json.dumps(expected))
    assert (found["format"], found["method"], found["backbone"]) == (1, "MoCoOp", "demo")
    assert found["folder"] == str(photos) and len(found["model"]) == 64 and found["skipped"] == []


def test_the_tables_count_the_predictions(evaluated, photos):
    head, *rows = read(evaluated / "predictions.csv")
    assert head == ["image", "label", "answer", "probability", "unsure"] and len(rows) == 12
    assert all(os.path.isfile(row[0]) and row[1] == row[0].split("/")[-2] for row in rows)
    classes = sorted({row[1] for row in rows})
    counts = [[sum(row[1:3] == [a, b] for row in rows) for b in classes] for a in classes]
    head, *table = read(evaluated / "confusion.csv")
    assert head[1:] == classes and [[int(cell) for cell in row[1:]] for row in table] == counts
    for row, own, c in zip(read(evaluated / "per_class.csv")[1:], counts, range(3), strict=True):
        assert row[:3] == [classes[c], "4", str(own[c])] and float(row[3]) == own[c] / 4
        others = [n for i, n in enumerate(own) if i != c]
        assert int(row[5]) == max(others) and (row[4] != "") == (max(others) > 0)


def test_the_figures_are_pictures(evaluated):
    for name in ("confusion.png", "reliability.png"):
        image = np.asarray(Image.open(evaluated / name).convert("L"))
        assert min(image.shape) > 300 and image.std() > 10
    assert (evaluated / "confusion.pdf").read_bytes().startswith(b"%PDF")


def test_again_replaces_and_other_images_do_not(say, evaluated, run, photos):
    assert say("evaluate", run, photos, "--out", evaluated)[0] == 0
    before = (evaluated / "evaluation.json").read_bytes()
    code, _, err = say("evaluate", run, photos / "train", "--out", evaluated)
    assert code == 1 and f"is of the images in {photos}" in err
    assert (evaluated / "evaluation.json").read_bytes() == before


def test_what_is_printed(say, evaluated, run, photos):
    code, out, _ = say("evaluate", run, photos, "--out", evaluated)
    found = json.loads((evaluated / "evaluation.json").read_text())
    assert code == 0 and f"accuracy: {100 * found['accuracy']:.1f}% of 12 images, 3 classes" in out
    assert f"Brier score: {found['brier']:.3f}" in out and "evaluation.json, predictions.csv" in out


def test_without_matplotlib_the_rest_is_written(say, run, photos, tmp_path, monkeypatch):
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    code, out, _ = say("evaluate", run, photos, "--out", tmp_path / "out")
    assert code == 0 and "pip install 'mocoop[figures]'" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"evaluation.json", *CSV}


def test_unreadable_images_are_left_out_and_said(say, run, photos, tmp_path):
    shutil.copytree(photos / "test", tmp_path / "images")
    (tmp_path / "images" / "red_ball" / "torn.png").write_bytes(b"\x89PNG")
    code, out, _ = say("evaluate", run, tmp_path / "images", "--out", tmp_path / "out")
    assert code == 0 and "left out: 1 images" in out
    (entry,) = json.loads((tmp_path / "out/evaluation.json").read_text())["skipped"]
    assert entry["image"].endswith("torn.png") and "torn.png" in entry["reason"]
    assert say("evaluate", run, tmp_path / "images", "--unreadable", "raise", "--out", tmp_path / "no")[0] == 1


def test_classes_that_are_not_known(say, run, photos, tmp_path):
    shutil.copytree(photos / "test" / "red_ball", tmp_path / "images" / "ball")
    code, _, err = say("evaluate", run, tmp_path / "images", "--out", tmp_path / "out")
    assert code == 1 and "1 labels are no class of this classifier: 'ball'" in err and not (tmp_path / "out").exists()


def test_folders_with_underscores_are_classes_known_with_blanks(say, photos, tmp_path):
    file = tmp_path / "zero.safetensors"
    names = ["red ball", "green tree", "blue sea"]
    Classifier("ZeroshotCLIP", backbone="demo", device="cpu").fit(names=names).save(file)
    assert say("evaluate", file, photos)[0] == 0
    rows = read(tmp_path / "zero_evaluation/predictions.csv")[1:]
    assert {row[1] for row in rows} == set(names)
    shutil.copytree(photos / "test", tmp_path / "twice")
    shutil.copytree(photos / "test" / "red_ball", tmp_path / "twice" / "red ball")
    code, _, err = say("evaluate", file, tmp_path / "twice", "--out", tmp_path / "out")
    assert code == 1 and "'red_ball' and 'red ball' are both the class 'red ball'" in err


def test_where_an_evaluation_goes(tmp_path):
    assert default_out(tmp_path) == tmp_path
    (tmp_path / "birds.safetensors").touch()
    assert default_out(tmp_path / "birds.safetensors") == tmp_path / "birds_evaluation"
    assert default_out(Path("hf://me/birds")) == Path("birds_evaluation")


@pytest.fixture(scope="module")
def thousand():
    """1,000 classes, two images each; classes 7 and 8 are always taken for 500, and 30 to 79 once for the next."""
    import torch

    labels = torch.arange(1000).repeat_interleave(2)
    answers = labels.clone()
    answers[14:18] = 500
    answers[60:160:2] += 1
    probabilities = torch.full((2000, 1000), 1e-4)
    probabilities[torch.arange(2000), answers] = 0.9
    return evaluate(probabilities, labels, [f"class {i}" for i in range(1000)])


def test_of_many_classes_the_picture_shows_those_with_most_mistakes(thousand, tmp_path):
    shown = shown_classes(thousand.confusion)
    assert len(shown) == 39 and {7, 8, 500} <= set(shown) and set(shown) - {7, 8, 500} <= set(range(31, 80))
    table = gathered(thousand.confusion, shown)
    assert table.shape == (40, 40) and table.sum() == 2000 and table[0].tolist()[:1] == [0]
    assert table[0, shown.index(500)] == 2 and table[:-1].sum() == 2 * 39
    draw_confusion(thousand, [tmp_path / "c.png"])
    assert Image.open(tmp_path / "c.png").width < 2000
    assert (gathered([[1, 2], [3, 4]], shown_classes([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]).all()


def test_the_worst_classes_come_first(thousand):
    lines = worst(thousand)
    assert lines[3].split() == ["class", "7", "0.0%", "0", "of", "2", "class", "500", "(2)"] and len(lines) == 3 + 10
    assert class_row(thousand, 0) == ["class 0", 2, 2, "1.000000", "", 0]


def test_labels_do_not_steer_the_terminal():
    found = evaluate(torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([0, 1]), ["\u202ecat", "\x1b[2Jdog"])
    assert worst(found)[-1].split() == ["\\x1b[2Jdog", "0.0%", "0", "of", "1", "\\u202ecat", "(1)"]


def test_missing_images_are_said_before_what_is_there_already(say, run, photos, tmp_path):
    assert say("evaluate", run, photos, "--out", tmp_path / "out")[0] == 0
    (tmp_path / "empty").mkdir()
    code, _, err = say("evaluate", run, tmp_path / "empty", "--out", tmp_path / "out")
    assert code == 1 and "empty: expected one folder of images per class, found none" in err
