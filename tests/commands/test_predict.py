"""`mocoop predict`: the rows, what is unreadable, and files that are gone on with."""

import csv
import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import mocoop
import numpy as np
import pytest
from mocoop import Classifier, load
from mocoop.classifier import predictions
from mocoop.classifier.predictions import PredictionFile, Row, csv_head, line, rows, whole_records
from mocoop.commands import predict as command
from PIL import Image


@pytest.fixture(scope="module")
def clf(run):
    return load(run, device="cpu")


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_terminal_gets_what_predict_proba_says(say, run, clf, photos):
    code, out, err = say("predict", run, photos / "test", "--topk", "2")
    paths = sorted(str(path) for path in (photos / "test").rglob("*.png"))
    table = clf.predict_proba(paths)
    assert code == 0 and err == ""
    for path, values, text in zip(paths, table, out.splitlines(), strict=True):
        first, second = np.argsort(-values)[:2]
        said = [f"{clf.classes_[c]} {100 * values[c]:.1f}%" for c in (first, second)]
        assert text == f"{path}: {', '.join(said)}"


def test_json_and_csv_say_the_same(say, run, photos, tmp_path):
    folder = photos / "test" / "red_ball"
    assert say("predict", run, folder, "--experts", "--csv", tmp_path / "p.csv")[0] == 0
    found = [json.loads(text) for text in say("predict", run, folder, "--experts", "--json", "-")[1].splitlines()]
    table = read_csv(tmp_path / "p.csv")
    assert len(table) == len(found) == 4
    for row, entry in zip(table, found, strict=True):
        assert row["image"] == entry["image"] and row["error"] == "" and row["unsure"] == ""
        for k, answer in enumerate(entry["answers"], 1):
            assert row[f"label_{k}"] == answer["label"]
            assert float(row[f"probability_{k}"]) == pytest.approx(answer["probability"])
        assert sum(expert["weight"] for expert in entry["experts"]) == pytest.approx(1, abs=1e-3)
        assert row["experts"].count(";") + 1 == len(entry["experts"]) == 2  # MoCoOp's two of all


def test_answers_below_the_threshold_are_marked(say, run, photos):
    image = next((photos / "test" / "red_ball").glob("*.png"))
    p = json.loads(say("predict", run, image, "--json", "-")[1])["answers"][0]["probability"]
    for least, mark in ((p + 0.002, True), (p - 0.002, False)):
        out = say("predict", run, image, "--unsure", f"{least:.4f}", "--json", "-")[1]
        assert json.loads(out)["unsure"] is mark
    assert ": unsure: " in say("predict", run, image, "--unsure", "1")[1]
    assert say("predict", run, image, "--unsure", "2")[0] == 1


def test_lines_by_hand():
    row = Row('a "b",\nc.png', [("cat", 0.75), ("dog", 0.25)], True, [("a {}.", 0.6), ("the {}.", 0.4)])
    assert csv_head(3).startswith("image,label_1,probability_1,label_2,")
    expected = '"a ""b"",\nc.png",cat,0.750000,dog,0.250000,,,yes,0.6000 a {}.; 0.4000 the {}.,\n'
    assert line(row, "csv", 3) == expected
    assert line(row, "text", 3).endswith("unsure: cat 75.0%, dog 25.0% [0.60 a {}.; 0.40 the {}.]\n")
    assert json.loads(line(Row("x", error="no"), "json", 3)) == {"image": "x", "error": "no"}


def test_unreadable_images_are_rows_in_their_place_and_named_at_the_end(say, run, photos, tmp_path):
    good = sorted((photos / "test" / "red_ball").glob("*.png"))
    (tmp_path / "text.png").write_text("no image")
    given = [good[0], tmp_path / "gone.png", good[1], tmp_path / "text.png"]
    code, out, err = say("predict", run, *given, "--csv", tmp_path / "p.csv", "--batch-size", "1")
    assert code == 0 and "2 of 4 images cannot be read:" in err and "gone.png" in err and "text.png" in err
    table = read_csv(tmp_path / "p.csv")
    assert [row["image"] for row in table] == [str(path) for path in given]
    assert [bool(row["error"]) for row in table] == [False, True, False, True]
    code, out, err = say("predict", run, tmp_path / "text.png")
    assert code == 1 and "1 of 1 images cannot be read" in err


def test_one_pixel_is_an_image_and_200_megapixels_are_refused_unopened(say, run, tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "one.png")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    tracemalloc.start()
    code, out, err = say("predict", run, tmp_path / "one.png", tmp_path / "huge.png")
    assert code == 0 and "1 of 2 images cannot be read" in err and "DecompressionBomb" in err
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_what_is_passed_over_in_a_folder_does_not_get_among_the_results(say, run, photos, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "notes.txt").write_text("notes")
    os.link(next((photos / "test").rglob("*.png")), folder / "a.png")
    code, out, err = say("predict", run, folder, "--json", "-")
    assert code == 0 and len(out.splitlines()) == 1 and "passed over 1" in err


def test_mistakes_are_one_message(say, run, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    image = next((photos / "test").rglob("*.png"))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes((run / "classifier.safetensors").read_bytes()[:-1000])
    zero = tmp_path / "zero.safetensors"
    Classifier("ZeroshotCLIP", backbone="demo", device="cpu").fit(names=["cat", "dog"]).save(zero)
    for words, message in (
        ((run, tmp_path / "empty"), "expected images in this folder or below, found none"),
        ((tmp_path / "no", image), "no"),
        ((torn, image), "is truncated, damaged, or no .safetensors file"),
        ((run, image, "--backbone", "miniature"), "another CLIP"),
        ((zero, image, "--experts"), "ZeroshotCLIP has no experts"),
        ((run, image, "--csv", image), "was not written by mocoop predict"),
        ((run, image, "--csv", tmp_path / "no" / "p.csv"), "no/p.csv: the folder "),
    ):
        code, out, err = say("predict", *words)
        assert code == 1 and err.startswith("Error: ") and message in err, err
    assert Image.open(image).size == (20, 24)  # the picture that was named as the file stays


@pytest.mark.slow
def test_a_run_of_train_py_predicts_and_is_evaluated(say, photos, tmp_path):
    configs, out = Path(mocoop.__file__).parent / "configs", tmp_path / "run"
    words = ["--root", photos, "--trainer", "MoCoOp", "--backbone", "demo", "--output-dir", out, "--seed", "1"]
    words += ["--dataset-config-file", configs / "datasets/image_folder.yaml"]
    words += ["--config-file", configs / "trainers/MoCoOp/demo.yaml", "DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "2"]
    call = [sys.executable, "-m", "mocoop", "train", *map(str, words)]
    assert subprocess.run(call, capture_output=True, timeout=120).returncode == 0
    accuracy = json.loads((out / "results.json").read_text())["test"]["accuracy"]
    code, text, _ = say("evaluate", out, photos)
    assert code == 0 and f"accuracy: {accuracy:.1f}% of 12 images" in text
    answers = [row[2] for row in csv.reader(open(out / "predictions.csv"))][1:]
    code, text, _ = say("predict", out, photos / "test", "--experts", "--json", "-")
    assert code == 0 and [json.loads(line)["answers"][0]["label"] for line in text.splitlines()] == answers


# ---- files that are gone on with


@pytest.mark.parametrize("form", ["csv", "json"])
def test_a_file_cut_anywhere_is_gone_on_with(say, run, photos, tmp_path, form):
    whole, path = tmp_path / "whole", tmp_path / "part"
    (tmp_path / "images").mkdir()
    for number, image in enumerate(sorted((photos / "test").rglob("*.png"))):
        os.link(image, tmp_path / "images" / f'{number}, "x"\n.png')
    images = [tmp_path / "images", tmp_path / "gone.png"]
    assert say("predict", run, *images, f"--{form}", whole)[0] == 0
    content = whole.read_bytes()
    os.link(f"{whole}.run.json", f"{path}.run.json")
    for size in (3, *random.Random(1).sample(range(len(content)), 3), len(content) - 1):
        path.write_bytes(content[:size])
        assert say("predict", run, *images, f"--{form}", path)[0] == 0
        assert path.read_bytes() == content, size


def test_other_models_and_columns_do_not_get_into_a_file(say, run, photos, tmp_path):
    image, path = next((photos / "test").rglob("*.png")), tmp_path / "p.csv"
    assert say("predict", run, image, "--csv", path)[0] == 0
    before = path.read_bytes()
    other = tmp_path / "other.safetensors"
    clf = load(run, device="cpu")
    clf.temperature_ *= 2
    clf.save(other)
    for words, message in (
        ((run, image, "--topk", "1", "--csv", path), "topk 3, this command has 1"),
        ((run, image, "--experts", "--csv", path), "experts False, this command has True"),
        ((run, image, "--json", path), "format csv, this command has json"),
        ((other, image, "--csv", path), "(model "),
        ((run, image, "--unsure", "0.5", "--csv", path), "(model "),
    ):
        code, _, err = say("predict", *words)
        assert code == 1 and message in err and path.read_bytes() == before
    (tmp_path / "p.csv.run.json").write_text("{")
    assert "is damaged" in say("predict", run, image, "--csv", path)[2] and path.read_bytes() == before


def test_a_file_that_another_process_writes_to(say, run, photos, tmp_path):
    image, path = next((photos / "test").rglob("*.png")), tmp_path / "p.csv"
    assert say("predict", run, image, "--csv", path)[0] == 0
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, err = say("predict", run, image, "--csv", path)
    assert code == 1 and "another process is writing to" in err


def test_a_full_disk_is_one_message_and_what_was_predicted_stays(say, run, photos, tmp_path, monkeypatch):
    path, write, calls = tmp_path / "p.json", PredictionFile.write, []

    def full(self, text):
        calls.append(text)
        if len(calls) == 3:
            write(self, text[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, text)

    monkeypatch.setattr(PredictionFile, "write", full)
    code, _, err = say("predict", run, photos / "test", "--json", path, "--batch-size", "4")
    assert code == 1 and err.startswith("Error: The disk is full") and len(path.read_text().splitlines()) == 8 + 1
    monkeypatch.setattr(PredictionFile, "write", write)
    code, _, err = say("predict", run, photos / "test", "--json", path)
    assert code == 0 and "has 8 of 12 images already" in err
    assert len([json.loads(text) for text in path.read_text().splitlines()]) == 12


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device without room")
def test_a_terminal_that_takes_nothing_more_is_one_message(run, photos):
    call = [sys.executable, "-m", "mocoop", "predict", run, photos / "test"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.startswith("Error: The disk is full") and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_command_is_gone_on_with(say, run, photos, tmp_path, how):
    folder, path = tmp_path / "many", tmp_path / "p.csv"
    folder.mkdir()
    image = next((photos / "test").rglob("*.png"))
    for number in range(2000):
        os.link(image, folder / f"{number:04d}.png")
    call = [sys.executable, "-m", "mocoop", "predict", run, folder, "--csv", path, "--batch-size", "16"]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
    while not path.exists() or path.stat().st_size < 1000:
        time.sleep(0.05)
    process.send_signal(how)
    err = process.communicate(timeout=60)[1]
    if how == signal.SIGINT:
        assert process.returncode == 130 and "the same command again goes on" in err and "Traceback" not in err
    kept = path.read_bytes()
    assert say("predict", run, folder, "--csv", path)[0] == 0
    names = [row["image"] for row in read_csv(path)]
    assert (
        path.read_bytes().startswith(kept[: kept.rindex(b"\n")]) and names == sorted(set(names)) and len(names) == 2000
    )


def test_memory_does_not_grow_with_the_images(clf, photos):
    image = str(next((photos / "test").rglob("*.png")))

    def peak(count):
        tracemalloc.start()
        for _ in rows(clf, (image for _ in range(count)), batch_size=16):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(64)
    assert peak(640) < 1.3 * peak(160)


def test_whole_records(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b'a,"1\n2"\nb,3\nc,"4\n')
    with open(path, "rb") as file:
        assert list(whole_records(file, quoted=True)) == [(b'a,"1\n2"\n', 8), (b"b,3\n", 12)]
    path.write_bytes(b"a\nb")
    with open(path, "rb") as file:
        assert list(whole_records(file, quoted=False)) == [(b"a\n", 2)]


def test_names_that_are_no_text(say, run, photos, tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff.png"
    os.link(os.fsencode(next((photos / "test").rglob("*.png"))), name)
    for form in ("csv", "json"):
        path = tmp_path / f"p.{form}"
        assert say("predict", run, os.fsdecode(name), f"--{form}", path)[0] == 0
        assert name in path.read_bytes()
        assert "has 1 of 1 images already" in say("predict", run, os.fsdecode(name), f"--{form}", path)[2]


def test_the_fingerprint_is_of_what_decides_the_answers(run):
    clf = load(run, device="cpu")
    first = predictions.fingerprint(clf)
    assert first == predictions.fingerprint(load(run, device="cpu"))
    clf.model.router.weight.data[0, 0] += 1e-3
    assert predictions.fingerprint(clf) != first


def test_the_first_twenty_unreadable_images_are_named(capsys):
    failed = [Row(f"{i}.png", error=f"cannot read {i}.png") for i in range(25)]
    assert command.report(failed, 30) == 0 and command.report(failed, 25) == 1
    err = capsys.readouterr().err
    assert "cannot read 19.png\n  and 5 more" in err and "cannot read 20.png" not in err


def test_a_carriage_return_in_a_name_and_an_image_called_image(say, run, photos, tmp_path, monkeypatch):
    good = next((photos / "test").rglob("*.png"))
    monkeypatch.chdir(tmp_path)
    for name in ("c\rx.png", "c\r\ny.png", "image"):
        os.link(good, name)
    given = ["c\rx.png", "c\r\ny.png", "image"]
    assert say("predict", run, *given, "--csv", "p.csv")[0] == 0
    before = Path("p.csv").read_bytes()
    assert [row["image"] for row in read_csv("p.csv")] == given
    code, _, err = say("predict", run, *given, "--csv", "p.csv")
    assert code == 0 and "has 3 of 3 images already" in err and Path("p.csv").read_bytes() == before


def test_names_do_not_steer_the_terminal(say, run, photos, tmp_path):
    folder, name, shown = tmp_path / "odd", "\x1b[2J\r\n\u202eab.png", "\\x1b[2J\\r\\n\\u202eab.png"
    folder.mkdir()
    os.link(next((photos / "test").rglob("*.png")), folder / name)
    (folder / f"torn{name}").write_text("no image")
    for words in (["predict", run, folder], ["explain", run, folder]):
        _, out, err = say(*words)
        assert f"odd/{shown}: " in out and f"torn{shown}" in err
        assert not set("\x1b\r\u202e") & set(out + err)
    _, _, err = say("predict", tmp_path / "\x1b[2J\r\u202e", folder)
    assert "\\x1b[2J\\r\\u202e" in err and not set("\x1b\r\u202e") & set(err)
    _, out, _ = say("predict", run, folder, "--json", "-")
    assert [json.loads(text)["image"] for text in out.split("\n")[:-1]] == sorted(map(str, folder.iterdir()))


@pytest.mark.parametrize("form", ["csv", "json"])
def test_going_on_counts_what_the_file_holds(say, run, photos, tmp_path, form):
    good, path = sorted((photos / "test" / "red_ball").glob("*.png")), tmp_path / "p"
    (tmp_path / "torn.png").write_text("no image")
    assert say("predict", run, good[0], tmp_path / "torn.png", f"--{form}", path)[0] == 0
    code, _, err = say("predict", run, good[0], tmp_path / "torn.png", good[1], f"--{form}", path)
    assert code == 0 and "1 of 3 images cannot be read:" in err and "torn.png" in err and f"{path}: 3 images\n" in err
    code, _, err = say("predict", run, good[2], f"--{form}", path)
    last = f"{path}: 4 images; 3 images that are not among these are in the file already\n"
    assert code == 0 and err == last
    assert say("predict", run, tmp_path / "torn.png", f"--{form}", path)[0] == 1  # none of these can be read
