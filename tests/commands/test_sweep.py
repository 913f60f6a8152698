"""`mocoop sweep` as a user calls it: a small grid of the demo world to its table, twice at once, in shards, wrongly."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mocoop
import pytest
from mocoop.commands import sweep
from mocoop.runs import slurm, sweeps

ROOT = Path(mocoop.__file__).parent
GRID = """\
protocols: [base2new]
datasets: [demo_icons]
methods: [zsclip, coop]
seeds: [1]
shots: [1]
options: {OPTIM.MAX_EPOCH: 2}
"""


@pytest.fixture()
def here(tmp_path, demo_root, monkeypatch):
    """A folder with GRID as small.yaml, where `mocoop sweep` finds the data."""
    (tmp_path / "small.yaml").write_text(GRID)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA", str(demo_root))
    monkeypatch.setenv("OUTPUT", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def call(*args, **env):
    words = [sys.executable, str(ROOT), "sweep", *map(str, args)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env={**os.environ, **env})
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def begin(*args):
    return subprocess.Popen([sys.executable, str(ROOT), "sweep", *args], stdout=subprocess.PIPE, text=True)


def finished(folder):
    return sorted(str(path.parent.relative_to(folder)) for path in folder.rglob("DONE"))


RUNS = sorted(
    f"base2new/{part}/demo_icons/shots_1/{method}/demo/seed1"
    for part in ("train_base", "test_new")
    for method in ("ZeroshotCLIP", "CoOp")
)


@pytest.mark.slow
def test_a_sweep_ends_in_its_table_and_is_not_repeated(here):
    code, out, err = call("small.yaml")
    assert code == 0 and finished(here / "runs") == RUNS, err
    assert out.startswith("0 of 4 runs are done already\n")
    assert "Base-to-new" in out and "CoOp" in out.split("Base-to-new")[1]
    times = {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("*") if path.is_file()}
    code, again, _ = call("small.yaml")
    assert code == 0 and again == "4 of 4 runs are done already\n" + out[out.index("\nBase-to-new") :]
    assert times == {path: path.stat().st_mtime_ns for path in (here / "runs").rglob("*") if path.is_file()}
    code, out, _ = call("small.yaml", "--status")
    assert code == 0 and out.splitlines()[0] == "2 items: 2 done, 0 running, 0 waiting, 0 failed"
    assert call("small.yaml", "--watch")[1].endswith("CoOp             2 of    2 runs done (100%)\n")
    (here / "small.yaml").write_text(GRID.replace("[1]", "[1, 2]", 1))
    _, out, _ = call("small.yaml", "--dry-run")
    assert out.startswith(
        "4 items, 8 runs; to be done: 2 items, 4 runs\n4 of these were measured with another seed (on cpu"
    )
    (here / "small.yaml").write_text(GRID.replace("MAX_EPOCH: 2", "MAX_EPOCH: 3"))
    code, out, _ = call("small.yaml", "--status")
    assert code == 0 and "Warning: what is done here was done with other settings" in out
    assert "OPTIM.MAX_EPOCH: was 2, is now 3" in out
    code, _, err = call("small.yaml")
    assert code == 1 and "OPTIM.MAX_EPOCH: was 2, is now 3" in err


@pytest.mark.slow
def test_two_sweeps_on_one_folder_share_the_work(here, record):
    (here / "small.yaml").write_text(GRID.replace("seeds: [1]", "seeds: [1, 2]"))
    both = [begin("small.yaml", "--jobs", "1") for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert call("small.yaml")[0] == 0  # what one has left to the other, and the other was not done with
    folders = [here / "runs" / name.replace("seed1", f"seed{seed}") for name in RUNS for seed in (1, 2)]
    assert all((folder / "DONE").exists() for folder in folders)
    for folder in folders:
        lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
        assert [json.loads(line)["epoch"] for line in lines] in ([1, 2], []), folder
        assert not (folder / ".owner").exists() and not (folder / "failure.json").exists()
    record("sweeps at once", "two of eight runs on one folder", "each run once, none failed")


@pytest.mark.slow
def test_shards_make_the_whole(here):
    for number in (1, 2):
        code, out, _ = call("small.yaml", "--shard", f"{number}/2")
        assert code == 0 and out.startswith("0 of 2 runs are done already\n") and "Base-to-new" not in out
    assert finished(here / "runs") == RUNS
    assert call("small.yaml", "--shard", "3/3")[:2] == (0, "0 of 0 runs are done already\n")


def test_a_failed_run_is_shown_with_its_reason(here):
    (here / "small.yaml").write_text(GRID.replace("zsclip, coop", "zsclip"))
    (here / "demo_icons").write_text("a file where the data set's folder belongs")
    code, _, err = call("small.yaml", DATA=str(here))
    assert code == 1 and "Failed" in err
    code, out, _ = call("small.yaml", "--status")
    assert code == 0 and out.splitlines()[0] == "1 items: 0 done, 0 running, 0 waiting, 1 failed"
    reason = json.loads(next((here / "runs").rglob("failure.json")).read_text())["text"]
    assert reason.startswith("Error: ") and reason.splitlines()[0] in out


def test_the_items_have_numbers(here):
    code, out, _ = call("small.yaml", "--list")
    assert code == 0 and out == (
        "    1  base2new/train_base  ZeroshotCLIP, demo_icons, 1 shots, seed 1  (+ 1 test)\n"
        "    2  base2new/train_base  CoOp, demo_icons, 1 shots, seed 1  (+ 1 test)\n"
    )
    assert call("small.yaml", "--list", "--items", "2", "2")[1] == out.splitlines(keepends=True)[1]
    assert call("small.yaml", "--list", "--shard", "1/2")[1] == out.splitlines(keepends=True)[0]
    assert not (here / "runs").exists()


def test_a_script_is_printed_and_nothing_else_is_done(here):
    code, out, _ = call("small.yaml", "--script", "--partition", "low", "--at-once", "1")
    token = (here / "runs/.sweeps/token").read_text()
    assert code == 0 and out.startswith("#!/bin/bash\n") and f"--expect {token}" in out
    assert "#SBATCH --array=1-2%1\n" in out and "#SBATCH --partition=low\n" in out
    assert finished(here / "runs") == []
    frozen = next((here / "runs/.sweeps/small").glob("*/small.yaml"))
    assert f"sweep {frozen} --output {here}/runs --data {os.environ['DATA']}" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nothing"], "config file nothing does not exist"),
        (["small.yaml", "--items", "1", "3"], "--items 3: there are only 2 (see --list)"),
        (["small.yaml", "--script", "--shard", "1/2"], "--script makes a script of all items"),
        (["small.yaml", "--on", "slurm", "--cpus", "0"], "cpus: expected a whole number from 1 on, found 0"),
        (["small.yaml", "--on", "slurm", "--time", "soon"], "time: expected [DAYS-]HOURS:MINUTES"),
        (["wrong.yaml"], "OPTIM.LRR"),
        (["wrong.yaml", "--dry-run"], "OPTIM.LRR"),
        (["wrong.yaml", "--on", "slurm"], "OPTIM.LRR"),
        (["small.yaml", "--expect", "abc"], "/runs/.sweeps/token, which the submitting machine wrote"),
        (["small.yaml", "--on", "slurm"], "there is no Slurm on this machine"),
    ],
)
def test_what_cannot_be_is_one_message(here, args, said):
    (here / "wrong.yaml").write_text(GRID.replace("OPTIM.MAX_EPOCH", "OPTIM.LRR"))
    if "--on" in args and said.startswith("there is no Slurm"):
        pytest.importorskip("submitit", reason="no submitit: pip install -e '.[cluster]'")
    code, out, err = call(*args, PATH="/nowhere")
    assert code == 1 and err.startswith("Error: ") and said in err and out == ""
    assert finished(here / "runs") == []


def test_without_submitit_the_extra_is_named(here, monkeypatch):
    blocker = here / "site/submitit.py"
    blocker.parent.mkdir()
    blocker.write_text("raise ImportError('not here')")
    code, _, err = call("small.yaml", "--on", "slurm", PYTHONPATH=str(blocker.parent))
    assert code == 1 and "pip install 'mocoop[cluster]'" in err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("7 PENDING Priority", "1 tasks pending"),
        ("7 PENDING launch failed requeued held", "1 tasks held (scontrol release 7 lets them go on)"),
    ],
)
def test_a_sweep_that_is_in_the_queue_is_not_submitted_again(here, monkeypatch, capsys, line, said):
    folder = here / "runs/.sweeps/small"
    folder.mkdir(parents=True)
    (folder / "jobs").write_text("7\n")
    monkeypatch.setattr(slurm, "check_slurm", lambda: None)
    monkeypatch.setattr(slurm, "check_ready", lambda: None)
    monkeypatch.setattr(slurm.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, f"{line}\n", ""))
    with pytest.raises(ValueError, match="1 tasks of the sweep small are in the queue already.*scancel 7"):
        sweep.main(["small.yaml", "--on", "slurm"])
    assert sweep.main(["small.yaml", "--status"]) == 0
    assert capsys.readouterr().out.endswith(f"Slurm: {said}\n")


def test_tasks_that_left_no_log_are_explained(here, monkeypatch, capsys):
    folder = here / "runs/.sweeps/small"
    folder.mkdir(parents=True)
    (folder / "jobs").write_text("7\n")
    monkeypatch.setattr(slurm, "check_slurm", lambda: None)
    monkeypatch.setattr(slurm.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, "", ""))
    sweep.main(["small.yaml", "--status"])
    assert "their nodes do not see this folder" in capsys.readouterr().out
    (folder / "logs").mkdir()
    (folder / "logs/7_0_0_log.out").touch()
    sweep.main(["small.yaml", "--status"])
    assert f"no task in the queue any more; logs are in {folder}/logs" in capsys.readouterr().out


def test_shards_in_words_that_are_none(capsys):
    with pytest.raises(SystemExit):
        sweep.main(["demo", "--shard", "0/4"])
    assert "expected i/n with i from 1 to n, e.g. 3/8, got '0/4'" in capsys.readouterr().err


def test_the_environment_says_where_unless_arguments_do(here, monkeypatch):
    parser = sweep.build_parser()
    monkeypatch.setenv("TAG", "other")  # the grid's own business
    found = sweep.settings_of(parser.parse_args(["demo"]))
    assert (found.output, found.tag, found.jobs) == (here / "runs", None, None)
    found = sweep.settings_of(parser.parse_args(["demo", "--output", "o", "--data", "/d", "--jobs", "3"]))
    assert (found.output, found.data, found.jobs) == (here / "o", Path("/d"), 3)
    assert sweeps.find("demo").is_file()
