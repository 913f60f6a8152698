"""Scripts that read our logs as CoOp's `parse_test_res.py` does still find the numbers that results.json holds."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mocoop
import pytest
from PIL import Image

ROOT = Path(mocoop.__file__).parent
pytestmark = pytest.mark.slow


def parse_test_res(directory, end_signal="Finish training", keyword="accuracy"):
    """{folder: value}: after a line that is the end signal, the last `* <keyword>: <number>%` of log.txt counts."""
    pattern = re.compile(rf"\* {keyword}: ([\.\deE+-]+)%")
    found = {}
    for name in sorted(name for name in os.listdir(directory) if not name.startswith(".")):
        path = os.path.join(directory, name, "log.txt")
        assert os.path.isfile(path)
        ended = False
        with open(path) as file:
            for line in file:
                ended = ended or line.strip() == end_signal
                match = pattern.search(line)
                if match and ended:
                    found[name] = float(match.group(1))
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of seeds, by method: CoOp trained on a handful of coloured squares and noise, and zero-shot CLIP."""
    where = tmp_path_factory.mktemp("parsed")
    for part, count in (("train", 1), ("test", 3)):
        for i, name in enumerate(("ant", "bee", "cat", "dog")):
            for number in range(count):
                path = where / "own" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.frombytes("RGB", (60, 60), bytes((i * 61 + number * 17 + k) % 251 for k in range(10800))).save(
                    path
                )
    for method, seed in (("CoOp", 2), ("ZeroshotCLIP", 1)):
        call = [sys.executable, ROOT / "train.py", "--root", where / "own", "--trainer", method, "--seed", seed]
        call += ["--dataset-config-file", ROOT / "configs/datasets/image_folder.yaml"]
        call += ["--config-file", ROOT / f"configs/trainers/{method}/demo.yaml"]
        call += ["--output-dir", where / method / f"seed{seed}"] + (["--eval-only"] if method != "CoOp" else [])
        call += ["OPTIM.MAX_EPOCH", 1, "DATASET.NUM_SHOTS", 1]
        done = subprocess.run(list(map(str, call)), cwd=where, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return where


def recorded(runs, method, key):
    return {
        folder.name: json.loads((folder / "results.json").read_text())["test"][key]
        for folder in sorted((runs / method).iterdir())
    }


@pytest.mark.parametrize(
    ("keyword", "key"), [("accuracy", "accuracy"), ("error", "error_rate"), ("macro_f1", "macro_f1")]
)
def test_trained_runs(runs, keyword, key):
    values = recorded(runs, "CoOp", key)
    assert set(values) == {"seed2"}
    for signal in ("Finish training", "=> result"):  # without and with --test-log
        assert parse_test_res(runs / "CoOp", signal, keyword) == pytest.approx(values, abs=0.051)  # one decimal


def test_tested_only(runs):
    assert parse_test_res(runs / "ZeroshotCLIP", "Finish training") == {}  # as with CoOp: such logs need --test-log
    assert parse_test_res(runs / "ZeroshotCLIP", "=> result") == pytest.approx(
        recorded(runs, "ZeroshotCLIP", "accuracy"), abs=0.051
    )
