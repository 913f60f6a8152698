"""`mocoop fit`: what it leaves and says, and that nothing finished is lost."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from mocoop import Classifier, load
from mocoop.commands.arguments import settings_of
from mocoop.runs.folder import hold
from mocoop.tests.classifier.conftest import write_images

from .conftest import FIT

QUICK = [*FIT, "epochs=2", "views=2"]


def test_a_run_is_what_the_class_makes_of_the_same_images(run, photos):
    ours = Classifier("MoCoOp", backbone="demo", device="cpu", folds=2, epochs=2, views=2).fit(str(photos))
    theirs, images = load(run, device="cpu"), str(photos / "test")
    assert (ours.predict_proba(images) == theirs.predict_proba(images)).all()
    assert theirs.figures_["held_out"] == ours.figures_["held_out"]
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [{**record, "epoch": None} for record in epochs] == [{"epoch": None, **record} for record in ours.history_]
    assert [record["epoch"] for record in epochs] == [1, 2]
    assert json.loads((run / "env.json").read_text())["versions"]["torch"]


def test_what_is_said_at_the_end(run):
    text = (run / "log.txt").read_text()
    held = load(run, device="cpu").figures_["held_out"]
    assert f"accuracy on held-out images: {100 * held['accuracy']:.1f}% (of 18" in text
    assert f"(ECE): {100 * held['ece']:.1f}%" in text and f"mocoop predict {run} IMAGES" in text
    assert [line for line in text.splitlines() if ": 2 epochs, loss" in line][0].startswith("MoCoOp, part 1 of 2")


def test_a_finished_run_stays(say, run, photos):
    before = {path: path.read_bytes() for path in run.iterdir()}
    same = ["fit", photos, "--out", run, *FIT, "--folds", "2", "epochs=2", "views=2"]
    code, out, _ = say(*same)
    assert code == 0 and f"{run} is finished: MoCoOp, 3 classes" in out
    assert say(*same, "--workers", "1")[0] == 0  # decides nothing
    for words, message in ((["lr=0.1"], "lr: was None, is now 0.1"), (["--seed", "2"], "seed: was 1, is now 2")):
        code, _, err = say(*same, *words)
        assert code == 1 and "finished run with other settings" in err and message in err
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_folders_that_are_no_runs_are_left_alone(say, photos, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    code, _, err = say("fit", photos, "--out", tmp_path, *QUICK)
    assert code == 1 and "no run of mocoop fit, and not empty" in err and len(list(tmp_path.iterdir())) == 1


def test_two_at_once(say, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("mocoop.runs.folder.hold.__defaults__", (0.1,))
    monkeypatch.setattr(hold.__wrapped__, "__defaults__", (0.1,))
    out = tmp_path / "run"
    out.mkdir()
    with hold(out):
        code, _, err = say("fit", photos, "--out", out, *QUICK)
    assert code == 1 and "another process is at work" in err and not (out / "classifier.safetensors").exists()


def test_without_folds_nothing_is_said_to_be_measured(say, photos, tmp_path):
    code, out, _ = say("fit", photos, "--out", tmp_path / "run", *QUICK, "--folds", "0", "--method", "coop")
    assert code == 0 and "accuracy: not measured (folds=0" in out and "CoOp on demo: 18 images of 3 classes" in out


def test_one_image_a_class_cannot_be_held_out(say, photos, tmp_path):
    words = ["fit", photos, "--out", tmp_path / "run", *FIT, "epochs=1", "views=1", "--method", "coop", "--shots", "1"]
    for _ in range(2):  # trained, then found finished
        code, out, _ = say(*words)
        assert code == 0 and "folds=0" not in out
        assert "accuracy: not measured (each class has only 1 image, so that none can be held out" in out


def test_auto_says_what_it_tried(say, photos, tmp_path):
    words = ["--method", "auto", "--candidates", "zsclip", "coop", "--folds", "2", "--precision", "0.9"]
    code, out, _ = say("fit", photos, "--out", tmp_path / "run", *QUICK, *words)
    clf = load(tmp_path / "run", device="cpu")
    table = out.partition("---\n")[2].splitlines()
    assert code == 0 and [row["method"] for row in clf.tried_] == [line.split()[0] for line in table[:2]]
    assert "for a precision of 90%" in out


@pytest.mark.parametrize("how", ["skip", "raise"])
def test_unreadable_images(say, photos, tmp_path, how):
    shutil.copytree(photos / "train", tmp_path / "images")
    (tmp_path / "images" / "red_ball" / "torn.png").write_bytes(b"\x89PNG")
    code, out, err = say(
        "fit", tmp_path / "images", "--out", tmp_path / "run", *QUICK, "--folds", "0", "--unreadable", how
    )
    if how == "skip":
        assert code == 0 and "Warning: 1 images cannot be read" in out and "torn.png" in out
        assert "torn.png" in (tmp_path / "run/log.txt").read_text()
    else:
        assert code == 1 and "torn.png" in err and not (tmp_path / "run/classifier.safetensors").exists()


def folder_with(place, *names):
    for name in names:
        write_images(place, 2, {name: (200, 40, 40)})
    place.mkdir(exist_ok=True)
    return place


def test_folders_that_cannot_be_classes_are_one_message(say, tmp_path):
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    (tmp_path / "hollow" / "dog").mkdir()
    for folder, message in (
        (tmp_path / "absent", "is no folder"),
        (folder_with(tmp_path / "empty"), "expected one folder of images per class, found none"),
        (
            folder_with(tmp_path / "one", "cat"),
            f"one: cat. If the classes, or train/ and test/, are in it, the folder to give is {tmp_path}",
        ),
        (folder_with(tmp_path / "twice", "red_fox", "red fox"), "twice: classes have the same prompts"),
        (tmp_path / "hollow", "hold no image that can be used: cat, dog"),
    ):
        code, _, err = say("fit", folder, "--out", tmp_path / "run", *QUICK)
        assert code == 1 and err.startswith("Error: ") and message in err, err
        assert not (tmp_path / "run/classifier.safetensors").exists()


def test_wrong_arguments_are_one_message_and_make_nothing(say, photos, tmp_path):
    for words, message in (
        (["epoch=3"], "has no setting 'epoch' (do you mean epochs?)"),
        (["epochs"], "expected a setting as KEY=VALUE"),
        (["seed=3"], "seed has an argument of its own"),
        (["epochs=3", "--epochs", "4"], "epochs is given twice"),
        (["epochs=many"], "epochs: expected a whole number"),
        (["--method", "coopp"], "method 'coopp' is not known; did you mean coop? (one of"),
        (["--backbone", "ViT-B/15"], "ViT-B/1"),
        (["--folds", "1"], "folds: images are held out in at least 2 parts"),
        (["--precision", "2"], "least_precision: expected a number above 0"),
        (["--seconds", "nan"], "seconds: expected a number above 0, found nan"),
        (["--seconds", "0"], "seconds: expected a number above 0, found 0.0"),
        (["--method", "auto", "--seconds=-1"], "seconds: expected a number above 0, found -1.0"),
        (["--method", "auto", "--candidates", "epochs=2"], "candidates: expected names of methods, found none"),
    ):
        code, _, err = say("fit", photos, "--out", tmp_path / "run", *FIT, *words)
        assert code == 1 and err.startswith("Error: ") and message in err, err
    assert not (tmp_path / "run").exists()


def test_settings_are_literals_or_texts():
    words = ["lr=1e-3", "finetune_norms=False", "words=a photo of a", 'groups=[["a {}."]]', "augment=()"]
    found = {"lr": 1e-3, "finetune_norms": False, "words": "a photo of a", "groups": [["a {}."]], "augment": ()}
    assert settings_of(words, {"epochs": None}) == found
    assert settings_of([], {"epochs": 3}) == {"epochs": 3}


@pytest.mark.slow
def test_a_killed_training_is_trained_again_by_the_same_command(say, photos, run, tmp_path):
    out = tmp_path / "run"
    words = ["fit", photos, "--out", out, *FIT, "--folds", "0", "views=2"]
    call = [sys.executable, "-m", "mocoop", *map(str, words), "epochs=5000"]
    for how in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        (out / "metrics.jsonl").unlink(missing_ok=True) if out.exists() else None
        while not (out / "metrics.jsonl").exists():
            time.sleep(0.05)
        process.send_signal(how)
        err = process.communicate(timeout=60)[1]
        assert not (out / "classifier.safetensors").exists()
    assert process.returncode == 130 and "trains from the start" in err and "Traceback" not in err
    assert say(*words, "epochs=2")[0] == 0  # nothing was finished: other settings are fine, too
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
