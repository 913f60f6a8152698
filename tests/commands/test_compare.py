"""`mocoop compare`: what is trained on and tested on, the table by hand, and going on."""

import json

import pytest
from mocoop import Classifier
from mocoop.classifier.labels import labelled_folder
from mocoop.commands import compare
from mocoop.tests.classifier.conftest import write_images

from .conftest import FIT

QUICK = [*FIT, "epochs=2", "views=1"]


def records(folder):
    return json.loads((folder / "comparison.json").read_text())["runs"]


def test_each_method_is_trained_on_train_and_tested_on_test(say, photos, tmp_path):
    words = ["compare", photos, "--methods", "zsclip", "coop", "--seeds", "1", "2", "--shots", "3", "--out", tmp_path]
    code, out, _ = say(*words, *QUICK)
    assert code == 0 and [(r["method"], r["seed"]) for r in records(tmp_path)] == [
        ("ZeroshotCLIP", 1), ("CoOp", 1), ("ZeroshotCLIP", 2), ("CoOp", 2),
    ]  # fmt: skip
    clf = Classifier("CoOp", backbone="demo", device="cpu", shots=3, seed=2, folds=0, epochs=2, views=1).fit(
        str(photos)
    )
    found = clf.evaluate(str(photos))
    last = records(tmp_path)[-1]
    assert (last["accuracy"], last["nll"], last["ece"], last["images"]) == (found.accuracy, found.nll, found.ece, 12)
    assert (tmp_path / "comparison.md").read_text().endswith(out.partition("\n\n")[2].rpartition("\nwritten")[0])

    before = (tmp_path / "comparison.json").read_bytes()  # the same again trains nothing; another seed goes on
    assert (
        "seed" not in say(*words, *QUICK)[1].partition("|")[0] and (tmp_path / "comparison.json").read_bytes() == before
    )
    words[words.index("2")] = "3"
    code, out, _ = say(*words, *QUICK)
    assert code == 0 and len(records(tmp_path)) == 6 and "CoOp, seed 3" in out and "CoOp, seed 1" not in out
    code, _, err = say(*words, *FIT, "epochs=3")
    assert (
        code == 1 and "is of other images or settings" in err and "'epochs': 2" in err and len(records(tmp_path)) == 6
    )


def test_without_a_test_part_each_seed_keeps_other_images_apart(tmp_path):
    write_images(tmp_path, 10)
    images, rest = compare.parts(tmp_path)
    assert rest is None
    splits = [compare.split(images, 0.3, seed) for seed in (1, 2)]
    for train, test in splits:
        assert not set(train.images) & set(test.images) and set(train.images) | set(test.images) == set(images.images)
        assert [test.labels.count(label) for label in test.classes()] == [3, 3, 3]
    assert splits[0][1].images != splits[1][1].images
    assert compare.split(images, 0.3, 1)[1].images == splits[0][1].images


@pytest.mark.parametrize(("share", "held"), [(0.01, 1), (0.99, 2)])
def test_there_is_always_something_to_train_on_and_to_test_on(tmp_path, share, held):
    write_images(tmp_path, 3)
    train, test = compare.split(labelled_folder(tmp_path, "train"), share, 1)
    assert [test.labels.count(label) for label in test.classes()] == [held] * 3
    assert [train.labels.count(label) for label in train.classes()] == [3 - held] * 3


def test_the_table_by_hand():
    found = {"A": (0.5, 0.7), "B": (0.6, 0.9), "C": (0.5, 0.8)}
    rows = [
        {"method": name, "seed": seed, "accuracy": values[seed - 1], "nll": seed / 10, "ece": 0.02, "seconds": seed}
        for name, values in found.items()
        for seed in (1, 2)
    ]
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in compare.table("ABC", [1, 2], rows).splitlines()
    ]
    assert lines[2] == ["A", "60.0 ± 10.0", "0.150 ± 0.050", "2.0 ± 0.0", "1.5", ""]
    # differences 10 and 20: mean 15, std with n - 1 7.071, t(0.975, 1) = 12.706: 12.706 * 7.071 / sqrt(2) = 63.5
    assert lines[3][1] == "75.0 ± 15.0" and lines[3][-1] == "+15.0 ± 63.5" and lines[4][-1] == "+5.0 ± 63.5"
    assert compare.table("AB", [1], rows).splitlines()[3].split("|")[-2].strip() == "+10.0"


def test_mistakes_are_one_message(say, photos, tmp_path):
    write_images(tmp_path / "single", 1)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/comparison.json").write_text('{"runs": [{}]}')
    for folder, words, message in (
        (tmp_path / "single", [], "has one image only"),
        (tmp_path / "no", [], "is no folder"),
        (photos, ["--methods", "zsclip", "topk=1"], "no method among ZeroshotCLIP has a setting 'topk'"),
        (photos, ["--methods", "coopp"], "is not known"),
        (photos, ["--test-share", "1"], "--test-share: expected a number between 0 and 1"),
        (photos, ["--out", tmp_path / "damaged"], "is damaged (a run without its figures)"),
    ):
        code, _, err = say("compare", folder, "--methods", "zsclip", "--out", tmp_path / "out", *FIT, *words)
        assert code == 1 and err.startswith("Error: ") and message in err, err
