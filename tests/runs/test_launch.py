"""`--gpus N` and torchrun as a user starts them, on the CPU: a run that fails ends with one message."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mocoop
import pytest
from mocoop import train
from mocoop.config import ConfigError
from mocoop.runs import launch
from mocoop.toolbox.dassl.utils.torchtools import load_checkpoint
from mocoop.trainers.records import read_epochs

EPOCHS = 60  # so that there is time to kill it
OPTIONS = ("TRAIN.CHECKPOINT_FREQ", 1, "OPTIM.LR", 0.01)
ROOT = Path(mocoop.__file__).parent
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def command(data, out, *more, method="CoOp", epochs=2):
    return [
        *(sys.executable, ROOT / "train.py", "--root", data, "--output-dir", out, "--trainer", method, "--seed", "1"),
        *("--dataset-config-file", ROOT / "configs/datasets/demo_icons.yaml"),
        *("--config-file", ROOT / f"configs/trainers/{method}/demo.yaml", *more),
        *("DATASET.NUM_SHOTS", "1", "DATASET.SUBSAMPLE_CLASSES", "base", "OPTIM.MAX_EPOCH", str(epochs)),
    ]


def call(*arguments):
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout, done.stderr


def children(pid):
    return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_what_is_said_of_a_process_that_ended():
    assert (
        launch.how_it_ended(1, 3, -15) == "process 2 of the 3 of this run was ended by signal 15, and the run with it."
    )
    assert "memory was used up" in launch.how_it_ended(0, 2, -9)


def test_a_wrong_config_is_one_message_before_anything_starts(tmp_path):
    code, out, err = call(*command(tmp_path, tmp_path / "run", "--gpus", "2", epochs=-1))
    assert code == 1 and err.count("Error:") == 1 and "OPTIM.MAX_EPOCH" in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rank", "size", "message"),
    [
        ("5", "2", "expected a RANK from 0 to 1"),
        ("0", "x", "expected whole numbers"),
        ("-1", "2", "expected whole numbers"),
        ("0", "2", "one of 2 processes, but LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not set"),
    ],
)
def test_an_environment_in_which_processes_never_meet_is_refused(monkeypatch, capsys, rank, size, message):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    assert train.main([]) == 1
    err = capsys.readouterr().err
    assert message in err and f"RANK='{rank}'" in err and "Traceback" not in err


def test_many_more_processes_than_cores_are_refused():
    with pytest.raises(ConfigError, match="--gpus 100000: no GPU is used, and this machine has"):
        launch.on_gpus(100000, False)


def test_a_number_below_one_is_refused():
    code, _, err = call(sys.executable, ROOT / "train.py", "--gpus", "0")
    assert code == 2 and "expected a whole number from 1 on" in err


@pytest.fixture(scope="module")
def whole(demo_root, tmp_path_factory):
    """The run of one process that is not killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert call(*command(demo_root, folder, epochs=EPOCHS), *OPTIONS)[0] == 0
    return folder


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize(("which", "then"), [(0, 3), (1, 1)])
def test_a_killed_process_ends_the_run_which_goes_on_with_another_number(demo_root, tmp_path, whole, which, then):
    out = tmp_path / "run"
    arguments = list(map(str, [*command(demo_root, out, "--gpus", 2, epochs=EPOCHS), *OPTIONS]))
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        while not (out / "prompt_learner/model.pth.tar-2").exists():
            assert run.poll() is None
            time.sleep(0.05)
        os.kill(children(run.pid)[which], signal.SIGKILL)
        err = run.communicate(timeout=120)[1]
    assert run.returncode == 1 and "Traceback" not in err and err.count("Error:") == 1
    assert f"process {which + 1} of the 2 of this run was ended by signal 9" in err
    assert "The same command again goes on after epoch" in err
    saved = sorted(int(path.name.rpartition("-")[2]) for path in out.glob("prompt_learner/model.pth.tar-*"))
    assert saved == list(range(1, saved[-1] + 1)) and saved[-1] < EPOCHS
    for epoch in saved:  # none is torn
        assert load_checkpoint(out / f"prompt_learner/model.pth.tar-{epoch}")["epoch"] == epoch
    assert call(*command(demo_root, out, "--gpus", then, epochs=EPOCHS), *OPTIONS)[0] == 0 and (out / "DONE").is_file()
    assert not [path.name for path in out.rglob("*") if "tmp" in path.name]  # what was half-written is gone
    again, at_once = ([record["loss"] for record in read_epochs(folder)] for folder in (out, whole))
    assert len(again) == EPOCHS and again == pytest.approx(at_once, abs=1e-3)


@pytest.mark.slow
def test_an_error_in_one_process_is_one_message(tmp_path):
    """A test image that the second of three processes reads cannot be read."""
    from mocoop.datasets.demo_icons import make

    make("DemoIcons", tmp_path)
    split = json.loads((tmp_path / "demo_icons/split_zhou_DemoIcons.json").read_text())
    batch = 100
    broken = tmp_path / "demo_icons/images" / split["test"][batch + 5][0]
    broken.write_text("no image")
    code, _, err = call(*command(tmp_path, tmp_path / "run", "--gpus", "3"), "DATALOADER.TEST.BATCH_SIZE", batch)
    assert code == 1 and err.count("\nError:") == 1 and "Traceback" not in err and broken.name in err
    assert not (tmp_path / "run/DONE").exists() and not (tmp_path / "run/results.json").exists()


@pytest.mark.slow
def test_torchrun_gives_the_files_of_one_process(demo_root, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2]
    assert call(*torchrun, *command(demo_root, tmp_path / "two")[1:])[0] == 0
    assert call(*command(demo_root, tmp_path / "one"))[0] == 0
    names = [sorted(str(p.relative_to(tmp_path / n)) for p in (tmp_path / n).rglob("*")) for n in ("one", "two")]
    assert [n for n in names[0] if "tensorboard" not in n] == [n for n in names[1] if "tensorboard" not in n]
    assert (tmp_path / "one/results.json").read_text() == (tmp_path / "two/results.json").read_text()
