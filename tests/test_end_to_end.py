"""Whole runs as a user starts them, on the demo world at tiny size."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import mocoop
import pytest
from PIL import Image

if sys.platform.startswith("linux"):
    import fcntl
    import pty
    import termios

ROOT = Path(mocoop.__file__).parent
pytestmark = pytest.mark.slow
TINY = ["OPTIM.MAX_EPOCH", "2", "TRAIN.CHECKPOINT_FREQ", "1"]


def environment(**more):
    kept = {key: value for key, value in os.environ.items() if key not in ("DATA", "OUTPUT", "CFG", "TAG", "SHOTS")}
    return {**kept, "PYTHON": sys.executable, "SHOTS": "1", **{key: str(value) for key, value in more.items()}}


def script(name, *args, cwd, **env):
    call = ["bash", str(ROOT / "scripts" / name), *map(str, args)]
    done = subprocess.run(call, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=1200)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def folder_of(output, part, method, config="demo", seed=0):
    return output / "base2new" / part / "demo_icons/shots_1" / method / config / f"seed{seed}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, demo_root):
    """A finished run of CoOp, started elsewhere with seed 0; gives its output folder and what it printed."""
    cwd = tmp_path_factory.mktemp("elsewhere")
    code, out, err = script("coop/base2new_train.sh", "demo_icons", 0, *TINY, cwd=cwd, DATA=demo_root, OUTPUT="out")
    assert code == 0, err
    return cwd / "out", out


def test_what_a_finished_run_leaves(trained):
    output, printed = trained
    folder = folder_of(output, "train_base", "CoOp")
    names = {path.name for path in folder.iterdir()}
    assert names >= {"log.txt", "config.yaml", "env.json", "metrics.jsonl", "results.json", "prompt_learner", "DONE"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2] and all(line["loss"] > 0 for line in lines)
    result = json.loads((folder / "results.json").read_text())["test"]
    assert result["classes"] == 50 and result["images"] == 600
    assert f"* accuracy: {result['accuracy']:.1f}%" in printed
    assert "CoOp on DemoIcons, base classes, 1 shot, seed 0: 2 epochs" in printed and "** Config **" not in printed
    log = (folder / "log.txt").read_text()
    assert "=> result" in log and "** Config **" in log and "Finish training" in log
    assert "WARMUP_CONS_LR: 1e-05" in log and "** System info **" in log and "epoch [2/2] batch [1/1] time" in log
    env = json.loads((folder / "env.json").read_text())
    assert env["versions"]["torch"] and "--seed" in env["command"]


def test_new_classes_then_the_table_then_nothing_left_to_do(trained, demo_root, tmp_path):
    output, _ = trained
    where = {"cwd": tmp_path, "DATA": demo_root, "OUTPUT": output}
    code, out, err = script("coop/base2new_test.sh", "demo_icons", 0, *TINY, **where)
    assert code == 0, err
    assert "model.pth.tar-2" in out  # the trained epoch was found
    new = json.loads((folder_of(output, "test_new", "CoOp") / "results.json").read_text())["test"]["accuracy"]
    base = json.loads((folder_of(output, "train_base", "CoOp") / "results.json").read_text())["test"]["accuracy"]
    table = subprocess.run(
        [sys.executable, "-m", "mocoop.results", str(output)], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert f"{base:.2f}" in table and f"{new:.2f}" in table and "±" not in table  # one seed has no spread
    for name in ("coop/base2new_train.sh", "coop/base2new_test.sh"):
        code, out, _ = script(name, "demo_icons", 0, *TINY, **where)
        assert code == 0 and "done already" in out and "Loading" not in out


def test_a_killed_run_goes_on_to_the_same_numbers(trained, demo_root, tmp_path):
    whole = folder_of(trained[0], "train_base", "CoOp")
    folder = folder_of(tmp_path / "out", "train_base", "CoOp")
    call = ["bash", str(ROOT / "scripts/coop/base2new_train.sh"), "demo_icons", "0", *TINY]
    env = environment(DATA=demo_root, OUTPUT=tmp_path / "out")
    process = subprocess.Popen(
        call, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.time() + 1200
    while not (folder / "prompt_learner/checkpoint").exists() and process.poll() is None:  # written after the model
        assert time.time() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "DONE").exists()
    code, out, err = script("coop/base2new_train.sh", *call[2:], cwd=tmp_path, DATA=demo_root, OUTPUT=tmp_path / "out")
    assert code == 0, err
    assert "going on with" in out and "Found checkpoint" in out
    assert json.loads((folder / "results.json").read_text()) == json.loads((whole / "results.json").read_text())
    for key in ("loss", "lr"):
        both = [[json.loads(line)[key] for line in (f / "metrics.jsonl").open()] for f in (folder, whole)]
        assert both[0] == both[1]


def read_all(terminal):
    """What comes out of a terminal until the last program on it has ended."""
    text = b""
    while True:
        try:
            new = os.read(terminal, 65536)
        except OSError:  # nobody is left
            break
        if not new:
            break
        text += new
    os.close(terminal)
    return text.decode().replace("\r\n", "\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a pseudo-terminal")
def test_on_a_terminal_a_header_a_bar_and_after_an_interrupt_the_truth(demo_root, tmp_path, record):
    call = [sys.executable, str(ROOT / "train.py"), "--root", str(demo_root), "--trainer", "CoOp", "--seed", "1"]
    call += ["--dataset-config-file", "configs/datasets/demo_icons.yaml", "--output-dir", "out"]
    call += ["--config-file", "configs/trainers/CoOp/demo.yaml", "DATASET.NUM_SHOTS", "1"]
    call += ["OPTIM.MAX_EPOCH", "1000", "TRAIN.CHECKPOINT_FREQ", "2"]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with subprocess.Popen(call, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        stop = threading.Thread(target=interrupt_after, args=(process, tmp_path / "out/prompt_learner/checkpoint"))
        stop.start()
        shown = read_all(ours)
        stop.join()
    assert process.returncode == 130
    header, where, rest = shown.split("\n", 2)
    assert header.startswith("CoOp on DemoIcons, 1 shot, seed 1: 1000 epochs, backbone demo, cpu (")
    assert where == "out: log.txt gets everything that is printed, config.yaml all settings"
    assert re.search(r"epoch 2/1000   0%\|.*\| 00:\d\d<\S+ loss \d+\.\d{3} acc \d+\.\d", rest)
    assert "batch [" not in shown and "Loading" not in shown and "Traceback" not in shown
    saved = int((tmp_path / "out/prompt_learner/checkpoint").read_text().rpartition("-")[2])
    last = rest.rstrip().rpartition("\n")[2]
    assert re.fullmatch(rf"Interrupted\. The same command again goes on after epoch {saved}, saved \d+ s ago\.", last)
    log = (tmp_path / "out/log.txt").read_text()
    assert "Loading trainer: CoOp" in log and f"epoch [{saved}/1000] batch [3/3] time" in log
    record("kills", "train.py, Ctrl-C while it trains", "says after which epoch the same command goes on")


def interrupt_after(process, path):
    """Send Ctrl-C's signal to a process once a file is there."""
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)


def test_a_checkpoint_of_another_method_is_refused(trained, demo_root, tmp_path):
    model = folder_of(trained[0], "train_base", "CoOp")
    call = [sys.executable, str(ROOT / "train.py"), "--root", str(demo_root), "--trainer", "MoCoOp", "--eval-only"]
    call += ["--dataset-config-file", "configs/datasets/demo_icons.yaml", "--model-dir", str(model)]
    call += ["--config-file", "configs/trainers/MoCoOp/demo.yaml", "--output-dir", "out", "DATASET.NUM_SHOTS", "1"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "'CoOp'" in done.stderr and "'MoCoOp'" in done.stderr and str(model) in done.stderr
    assert not (tmp_path / "out/DONE").exists()


def test_several_epochs_of_a_run_in_one(trained, demo_root, tmp_path):
    model = folder_of(trained[0], "train_base", "CoOp")
    call = [sys.executable, str(ROOT / "train.py"), "--root", str(demo_root), "--trainer", "CoOp", "--eval-only"]
    call += ["--dataset-config-file", "configs/datasets/demo_icons.yaml", "--model-dir", str(model), "--seed", "0"]
    call += ["--config-file", "configs/trainers/CoOp/demo.yaml", "--output-dir", "out", "--load-epoch", "1,2"]
    call += ["DATASET.NUM_SHOTS", "1", "DATASET.SUBSAMPLE_CLASSES", "base"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Evaluate on the *test* set") == 2
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert list(results) == ["test", "test_epoch1", "test_epoch2"]
    assert json.loads((tmp_path / "out/env.json").read_text())["precision"] == "float32"
    trained_result = json.loads((model / "results.json").read_text())["test"]
    assert results["test"] == results["test_epoch2"] == trained_result
    call[call.index("1,2")] = "1,7"
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 1 and "--load-epoch 7: --model-dir has epochs [1, 2]" in done.stderr


def test_imagenet_without_data_is_one_clear_message(tmp_path):
    code, out, err = script(
        "mocoop/base2new_train.sh", "imagenet", 1, cwd=tmp_path, DATA="none", OUTPUT="out", SHOTS=16
    )
    assert code == 1
    assert str(tmp_path / "none/imagenet") in err and "mocoop.datasets.prepare" in err and err.count("\nError:") == 1


def test_an_unreadable_image_is_named(tmp_path):
    for part in ("train", "test"):
        for name in ("ant", "bee", "cat", "dog"):
            path = tmp_path / "own" / part / name / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (60, 60), (len(path.parts), 9, 9)).save(path)
    bad = tmp_path / "own/test/ant/1.png"
    bad.write_bytes(bad.read_bytes()[:60])
    code, out, err = script(
        *("zsclip/base2new_train.sh", "image_folder", 1, "DATALOADER.NUM_WORKERS", 2),
        **{"cwd": tmp_path, "DATA": "own", "OUTPUT": "out", "CFG": "demo"},
    )
    assert code == 1 and f'"{bad}"' in err and err.count("\nError:") == 1
