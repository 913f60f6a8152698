"""Runs that are killed, run out of disk, or go wrong in numbers: nothing is lost, nothing wrong counts as a result."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mocoop
import pytest
import torch
from mocoop.toolbox.dassl.utils import load_checkpoint

ROOT = Path(mocoop.__file__).parent
pytestmark = pytest.mark.slow
EPOCHS = 3


def command(root, folder, *options):
    """A tiny run of CoOp on the demo world, saved after every epoch."""
    call = [sys.executable, ROOT / "train.py", "--root", root, "--trainer", "CoOp", "--seed", 1, "--output-dir", folder]
    call += ["--dataset-config-file", "configs/datasets/demo_icons.yaml"]
    call += ["--config-file", "configs/trainers/CoOp/demo.yaml", "DATASET.NUM_SHOTS", 1, "OPTIM.MAX_EPOCH", EPOCHS]
    call += ["DATALOADER.NUM_WORKERS", 0, "TRAIN.CHECKPOINT_FREQ", 1, "DATASET.SUBSAMPLE_CLASSES", "base", *options]
    return [str(word) for word in call]


def run(call, **more):
    return subprocess.run(call, capture_output=True, text=True, timeout=1200, **more)


def numbers(folder):
    """What a finished run has computed: results, and loss and rate of every epoch."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "results.json").read_text()), [(x["epoch"], x["loss"], x["lr"]) for x in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, demo_root):
    """(Folder of a run that nothing happened to, seconds it took)."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    began = time.monotonic()
    done = run(command(demo_root, folder))
    assert done.returncode == 0, done.stderr
    return folder, time.monotonic() - began


def check_nothing_is_lost(folder):
    """Whatever a killed run has left can be read: no file is half-written under its own name."""
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    pointer = folder / "prompt_learner/checkpoint"
    if pointer.exists():
        load_checkpoint(pointer.parent / pointer.read_text().strip())


def test_runs_killed_at_random_moments_go_on_to_the_same_numbers(whole, demo_root, tmp_path, record, request):
    kills, draw = request.config.getoption("--kills"), random.Random(time.time_ns())
    done, number = 0, 0
    while done < kills:
        folder, number = tmp_path / f"run{number}", number + 1
        for _ in range(min(4, kills - done)):
            process = subprocess.Popen(
                command(demo_root, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            moment = draw.uniform(0, 1.2 * whole[1])
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            done += 1
            check_nothing_is_lost(folder)
        last = run(command(demo_root, folder))
        assert last.returncode == 0 and "Traceback" not in last.stderr, last.stderr
        assert numbers(folder) == numbers(whole[0]), f"killed after {moment:.2f} s"
        # A lock's empty file may stay: a run killed after DONE, before it let go, is never started again.
        assert {path.name for path in folder.rglob(".*")} <= {".lock"}, "leftovers of killed writes"
    record("kills", "at random moments of a training", "went on to the same numbers, nothing left behind", tries=kills)


# In a namespace of its own: a disk of a few kB; what the first run left is gone on with after the disk has grown.
SMALL_DISK = """
mount -t tmpfs -o size=$SIZE none "$DISK" && cd "$DISK" || exit 99
"$@" >/dev/null; echo "first $?" >&2
mount -o remount,size=64m "$DISK" && "$@" >/dev/null; echo "second $?" >&2
cat run/results.json
"""


def can_mount():
    return shutil.which("unshare") and run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).returncode == 0


@pytest.mark.parametrize("kilobytes", [8, 48])
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(whole, demo_root, tmp_path, record, kilobytes):
    if not can_mount():
        pytest.skip("needs unshare and tmpfs")
    call = ["unshare", "-rm", "sh", "-c", SMALL_DISK, "sh", *command(demo_root, "run")]
    done = run(call, env={**os.environ, "SIZE": f"{kilobytes}k", "DISK": str(tmp_path)})
    assert "Traceback" not in done.stderr and done.stderr.count("\nError: The disk is full") == 1, done.stderr
    assert "first 1\n" in done.stderr and "second 0\n" in done.stderr, done.stderr
    assert json.loads(done.stdout) == numbers(whole[0])[0]
    record("full disks", f"a disk of {kilobytes} kB", "said in one message; went on to the same numbers with room")


def test_a_rate_that_ruins_the_weights_gives_no_result(demo_root, tmp_path, record):
    """One batch in one epoch: the loss, computed before the step, is fine, the weights after it are not."""
    once = ["OPTIM.LR", "1e38", "OPTIM.MAX_EPOCH", 1, "OPTIM.WARMUP_EPOCH", 0, "DATALOADER.TRAIN_X.BATCH_SIZE", 50]
    done = run(command(demo_root, tmp_path / "run", *once))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "infinite or NaN" in done.stderr and "OPTIM.LR" in done.stderr
    assert not (tmp_path / "run/DONE").exists() and not (tmp_path / "run/results.json").exists()
    record("numbers gone wrong", "OPTIM.LR 1e38", "no result, one message")


def test_weights_that_are_nan_or_infinite_give_no_result(whole, demo_root, tmp_path, record):
    model = tmp_path / "model"
    shutil.copytree(whole[0], model)
    path = model / f"prompt_learner/model.pth.tar-{EPOCHS}"
    for value in (float("nan"), float("inf")):
        checkpoint = load_checkpoint(whole[0] / "prompt_learner" / path.name)
        for name, weight in checkpoint["state_dict"].items():
            if isinstance(weight, torch.Tensor):
                checkpoint["state_dict"][name] = torch.full_like(weight, value)
        torch.save(checkpoint, path)
        done = run(command(demo_root, tmp_path / "test", "--eval-only", "--model-dir", model))
        assert done.returncode == 1 and "Traceback" not in done.stderr and "NaN" in done.stderr
        assert not (tmp_path / "test/DONE").exists() and not (tmp_path / "test/results.json").exists()
    record("numbers gone wrong", "a checkpoint of NaN or infinity, tested", "no result, one message", tries=2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", "{"),
        ("results.json", "[1]"),
        ("results.json", '{"test": 5}'),
        ("metrics.jsonl", "\0\0}\n"),
        ("metrics.jsonl", '{"loss": 1}\n'),
        ("metrics.jsonl", '{"epoch": "x"}\n'),
        ("metrics.jsonl", "[" * 10**5 + "}\n"),
    ],
)
def test_a_damaged_record_of_an_unfinished_run_is_named_before_it_goes_on(whole, tmp_path, record, name, content):
    from mocoop.config import ConfigError
    from mocoop.runs import folder as runs

    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{name} is damaged .*remove it"):
        runs.check_records(tmp_path / "run")
    record("malformed results", f"{name} of an unfinished run", "refused before training, with one message")


def test_a_torn_last_line_is_a_killed_runs(whole, tmp_path):
    from mocoop.runs import folder as runs

    shutil.copytree(whole[0], tmp_path / "run")
    with open(tmp_path / "run/metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')
    runs.check_records(tmp_path / "run")


def test_a_run_that_another_process_has_done_meanwhile_is_not_repeated(whole, demo_root):
    """As the runs of a protocol are called: whoever waited for the folder finds it done."""
    folder, _ = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    done = run(command(demo_root, folder, "--unless-done"))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"done already: {folder}\n", "")
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
