"""A run's folder belongs to one run and one config at a time: the lock, and what is checked under it."""

import errno
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import filelock
import mocoop
import pytest
from mocoop import config, train
from mocoop.runs import folder as runs
from mocoop.runs import owner

ROOT = Path(mocoop.__file__).parent


def test_where_the_file_system_has_no_locks_signs_of_life_hold(tmp_path, monkeypatch):
    def without(self):
        raise OSError(errno.ENOLCK, "none")

    monkeypatch.setattr(filelock.FileLock, "_acquire", without)
    monkeypatch.setattr(owner, "BEAT", 0.05)
    with runs.hold(tmp_path, 0.0):
        (tmp_path / "used").touch()
        with pytest.raises(config.ConfigError, match="another process is at work in"), runs.hold(tmp_path, 0.0):
            pass
    with runs.hold(tmp_path, 0.0):  # given back
        assert (tmp_path / "used").exists()


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    code = "import sys, mocoop.runs.folder as r\n"
    code += "with r.hold(r.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(config.ConfigError, match="another process is at work in"), runs.hold(tmp_path, 0.3):
            pass
        other.kill()
    with runs.hold(tmp_path, 0.3):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".owner"]
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with runs.hold(tmp_path, 0.0):  # given back
        pass


def test_a_folder_that_another_config_used_while_this_one_waited_is_refused(tmp_path):
    """The other start gets the lock after this one has found the folder empty, and ends before this one's turn."""

    def config_with(rate):
        args = ["--trainer", "CoOp", "--dataset-config-file", str(ROOT / "configs/datasets/eurosat.yaml")]
        args += ["--config-file", str(ROOT / "configs/trainers/CoOp/vit_b16_ep50.yaml"), "--output-dir", str(tmp_path)]
        return train.build_config(train.build_parser().parse_intermixed_args([*args, "OPTIM.LR", rate]))

    code = """
        import sys, time
        import mocoop.runs.folder as r
        folder = r.Path(sys.argv[1])
        with r.hold(folder):
            print("held", flush=True)
            sys.stdin.readline()
            time.sleep(0.5)
            (folder / "config.yaml").write_text(sys.argv[2])
            (folder / "DONE").touch()
    """
    other, _ = config_with("0.1")
    call = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), other.dump()]
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        process.stdin.write("go on\n")
        process.stdin.flush()
        cfg, defaults = config_with("0.2")
        with pytest.raises(config.ConfigError, match="OPTIM.LR: was 0.1, is now 0.2"), runs.claim(cfg, defaults):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "DONE", "config.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(2))
def test_of_two_starts_with_other_options_one_runs_and_its_numbers_are_its_configs(demo_root, tmp_path, record, trial):
    call = [sys.executable, str(ROOT / "train.py"), "--root", str(demo_root), "--trainer", "CoOp", "--seed", "1"]
    call += ["--dataset-config-file", str(ROOT / "configs/datasets/demo_icons.yaml"), "--output-dir", "run"]
    call += ["--config-file", str(ROOT / "configs/trainers/CoOp/demo.yaml"), "OPTIM.MAX_EPOCH", "2"]
    call += ["DATASET.NUM_SHOTS", "1", "TEST.NO_TEST", "True", "OPTIM.WARMUP_EPOCH", "-1", "OPTIM.LR"]
    kept = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    rates = (0.1, 0.2)
    processes = [subprocess.Popen([*call, str(rate)], **kept) for rate in rates]
    errors = [process.communicate(timeout=600)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 1]
    winner = codes.index(0)
    refused = errors[1 - winner]
    assert "Traceback" not in refused
    assert f"OPTIM.LR: was {rates[winner]}, is now" in refused or "another process is at work in run" in refused
    folder = tmp_path / "run"
    assert runs.is_finished(folder) and config.read_yaml(folder / "config.yaml")["OPTIM.LR"] == rates[winner]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2] and lines[0]["lr"] == [rates[winner]]
    record("starts at once", "two runs of train.py in one folder, other learning rates", "one ran, one was refused")


def test_how_a_run_failed_is_kept_until_it_starts_again(tmp_path):
    assert runs.read_failure(tmp_path / "run") is None
    runs.note_failure(tmp_path / "run", 1, "Error: no data")
    assert runs.read_failure(tmp_path / "run") == "Error: no data"
    (tmp_path / "run/failure.json").write_text("[")
    assert "failure.json is damaged" in runs.read_failure(tmp_path / "run")
    args = ["--trainer", "CoOp", "--dataset-config-file", str(ROOT / "configs/datasets/eurosat.yaml")]
    args += ["--config-file", str(ROOT / "configs/trainers/CoOp/vit_b16_ep50.yaml")]
    runs.start(tmp_path / "run", train.config_of(args)[0], {})
    assert runs.read_failure(tmp_path / "run") is None
    (tmp_path / "file").touch()
    runs.note_failure(tmp_path / "file/run", 1, "x")  # nowhere to write: nothing is raised
