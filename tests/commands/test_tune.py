"""`mocoop tune` as a user calls it."""

import csv
import os
import subprocess
import sys

import pytest
import yaml
from mocoop import train
from mocoop.commands.main import main

pytest.importorskip("optuna")


def tune(*arguments, **environment):
    words = [sys.executable, "-m", "mocoop", "tune", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | environment, check=False)


@pytest.mark.slow
def test_a_search_and_its_best_config(demo_root, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text(
        "OPTIM:\n  LR: {low: 1e-2, high: 0.5, log: true}\nTRAINER.MOCOOP.PROMPT_GROUPS: {groups: [1, 2]}\n"
    )
    out = tmp_path / "tuned"
    words = ("mocoop", "demo_icons", "--out", out, "--space", space, "--shots", 1)
    options = ("OPTIM.MAX_EPOCH", 1)
    first = tune(*words, "--trials", 1, "--data", demo_root, *options)
    assert first.returncode == 0, first.stderr
    again = tune(*words, "--trials", 2, *options, DATA=str(demo_root))
    assert again.returncode == 0 and "[2/2] trial 1: " in again.stdout and "[1/2] trial" not in again.stdout
    rows = list(csv.DictReader((out / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["0", "1"] and rows[0]["OPTIM.LR"] == "0.3"  # the config's own comes first
    results = sorted(out.rglob("results.json"))
    assert len(results) == 2 and not any("test" in yaml.safe_load(path.read_text()) for path in results)
    best = max(rows, key=lambda row: float(row["val_accuracy"]))
    found = yaml.safe_load((out / "best.yaml").read_text())
    assert found["OPTIM"]["LR"] == float(best["OPTIM.LR"]) and found["OPTIM"]["MAX_EPOCH"] == 1
    assert len(found["TRAINER"]["MOCOOP"]["PROMPT_GROUPS"]) == int(best["TRAINER.MOCOOP.PROMPT_GROUPS"])
    cfg, _ = train.config_of(
        ["--trainer", "MoCoOp", "--config-file", str(out / "best.yaml"), "--dataset-config-file"]
        + ["configs/datasets/demo_icons.yaml", "--root", str(demo_root)]
    )
    assert cfg.OPTIM.LR == float(best["OPTIM.LR"])
    assert (out / "tune.png").read_bytes().startswith(b"\x89PNG")
    other = tune(*words, "--trials", 2, "OPTIM.MAX_EPOCH", 2, DATA=str(demo_root))
    assert other.returncode == 1 and "holds a search with another options" in other.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zsclip", "demo_icons"], "ZeroshotCLIP has nothing to train"),
        (["mocop", "demo_icons"], "did you mean mocoop"),
        (["mocoop", "demo_icon"], "has no config"),
        (["mocoop", "demo_icons", "OPTIM.LR"], "has no value"),
        (
            ["mocoop", "demo_icons", "TEST.SPLIT", "test"],
            "TEST.SPLIT cannot be set in a search: trials are",
        ),
        (["mocoop", "demo_icons", "SEED", "2"], "SEED cannot be set in a search: give --seed"),
        (["mocoop", "demo_icons", "OPTIM.LRR", "1"], "OPTIM.LRR"),
        (["mocoop", "demo_icons", "--space", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["mocoop", "demo_icons", "--space", "{space}"], "nothing may vary"),
        (["mocoop", "demo_icons", "--config", "vit_b99"], "vit_b99.yaml does not exist"),
        (["mocoop", "demo_icons", "--storage", "nonsense"], "cannot be used as the storage"),
    ],
)
def test_bad_input(words, message, tmp_path, capsys):
    (tmp_path / "empty.yaml").write_text("")
    words = [word.format(space=tmp_path / "empty.yaml") for word in words]
    assert main(["tune", *words, "--out", str(tmp_path / "out")]) == 1
    errors = capsys.readouterr().err
    assert message in errors and errors.startswith("Error: ")
    assert not list(tmp_path.rglob("results.json"))


def test_what_is_the_searchs_own_may_not_vary(tmp_path, capsys):
    (tmp_path / "space.yaml").write_text("TEST.SPLIT: [val, test]\nOUTPUT_DIR: [a, b]\n")
    space = ["--space", str(tmp_path / "space.yaml")]
    assert main(["tune", "mocoop", "demo_icons", "--out", str(tmp_path / "out"), *space]) == 1
    err = capsys.readouterr().err
    assert "TEST.SPLIT cannot" in err and "OUTPUT_DIR cannot be set in a search: give --out" in err
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_searchs_folder_is_named(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert main(["tune", "mocoop", "demo_icons", "--out", str(tmp_path / "out")]) == 1
    assert f"--out={tmp_path}/out: {tmp_path}/out is not a folder" in capsys.readouterr().err


def test_what_varies_and_is_given_is_refused(tmp_path, capsys):
    (tmp_path / "space.yaml").write_text("OPTIM.LR: [0.1, 0.2]\n")
    words = ["mocoop", "demo_icons", "--space", str(tmp_path / "space.yaml"), "--out", str(tmp_path / "out")]
    assert main(["tune", *words, "OPTIM.LR", "1"]) == 1
    assert "OPTIM.LR is given as an option and varies" in capsys.readouterr().err
