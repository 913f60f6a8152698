"""Sweeps on a real Slurm: the one of two virtual nodes that scripts/slurm_on_this_machine.sh starts.

It needs root and Debian's packages, and is skipped aloud without. Where they are, one sweep runs; all else takes
minutes, so it runs when it is asked for: MOCOOP_SLURM=1.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mocoop
import pytest

ROOT = Path(mocoop.__file__).parent
SCRIPT = ROOT / "scripts/slurm_on_this_machine.sh"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "unshare")
pytestmark = [pytest.mark.slurm, pytest.mark.slow]
asked_for = pytest.mark.skipif(not os.environ.get("MOCOOP_SLURM"), reason="takes minutes: set MOCOOP_SLURM=1")
GRID = """\
protocols: [base2new]
datasets: [demo_icons]
methods: [{methods}]
seeds: [{seeds}]
shots: [1]
options: {{OPTIM.MAX_EPOCH: {epochs}, TRAIN.CHECKPOINT_FREQ: {every}}}
slurm: {{cpus: 1, time: "10"}}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A function that calls the script on a Slurm that is running."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"no Slurm to start ({', '.join(missing) or 'not root'}): apt-get install slurm-wlm munge, as root")
    pytest.importorskip("submitit", reason="no submitit: pip install -e '.[cluster]'")
    folder, port = tmp_path_factory.mktemp("slurm"), 20000 + os.getpid() % 10000  # beside others of its kind

    def call(*words):
        call = ["bash", str(SCRIPT), *words, str(folder)]
        env = {**os.environ, "PORT": str(port)}
        return subprocess.run(call, capture_output=True, text=True, timeout=120, env=env)

    started = call("start")
    if "allows no namespaces" in started.stderr:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield call
    os.environ.pop("SLURM_CONF")
    if before is not None:
        os.environ["SLURM_CONF"] = before
    call("stop")


@pytest.fixture()
def here(tmp_path, demo_root, monkeypatch):
    """A folder where `mocoop sweep` finds the data, one thread a run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA", str(demo_root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def sweep(*args):
    done = subprocess.run(
        [sys.executable, str(ROOT), "sweep", *args],
        capture_output=True,
        text=True,
        timeout=1500,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def slurm(*words):
    """The output of one of Slurm's commands; it may take a while to answer after its controller was ended."""
    for _ in range(30):
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        time.sleep(1)
    raise AssertionError(done.stderr)


def tasks(state):
    """The tasks in a state, as Slurm names them, "12_3"; the one that began last is the first."""
    return slurm("squeue", "--noheader", "--array", f"--states={state}", "--sort=-S", "--format=%i").split()


def wait(what, seconds=120):
    """Wait until a function gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"nothing after {seconds} s: {slurm('squeue')}")


def mend():
    """What an administrator does: resume a drained node, release a task that Slurm holds back.

    A controller that was killed just after a launch launches again; Slurm then drains the node ("Duplicate jobid").
    """
    for node, state in (row.split() for row in slurm("sinfo", "-N", "-h", "-p", "low", "-o", "%N %T").splitlines()):
        if state.startswith("drain"):
            slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")
    for row in slurm("squeue", "--noheader", "--array", "--format=%i %r").splitlines():
        if "held" in row:
            slurm("scontrol", "release", row.split()[0])


def queue_is_empty():
    mend()
    return not slurm("squeue", "--noheader").strip()


def what_counts(folder):
    """Run -> all that it computed: results, epochs without their times, what was trained bit for bit."""
    import torch

    found = {}
    for done in folder.rglob("DONE"):
        run = done.parent
        results = json.loads((run / "results.json").read_text())
        lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
        epochs = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
        weights = {}
        for path in sorted(run.glob("*/*.pth.tar-*")):
            state = torch.load(path, weights_only=False)["state_dict"]
            weights[path.name] = bits(state)
        found[str(run.relative_to(folder))] = (results, epochs, weights)
    return found


def bits(value):
    """A value with the bytes of the tensors in it."""
    if isinstance(value, dict):
        return {name: bits(inner) for name, inner in value.items()}
    return value.numpy().tobytes() if hasattr(value, "numpy") else value


def write(epochs, seeds, methods="zsclip, coop"):
    every = max(1, epochs // 10)
    Path("grid.yaml").write_text(GRID.format(epochs=epochs, every=every, seeds=seeds, methods=methods))


def test_a_sweep_on_slurm_ends_as_one_on_this_machine(cluster, here):
    write(epochs=1, seeds=1)
    code, out, err = sweep("grid.yaml", "--on", "slurm", "--output", "there")
    assert code == 0 and out.startswith("Submitted 2 items as 2 tasks, Slurm job "), err
    code, _, err = sweep("grid.yaml", "--on", "slurm", "--output", "there")
    assert code == 1 and "tasks of the sweep grid are in the queue already" in err
    assert sweep("grid.yaml", "--output", "local", "--jobs", "1")[0] == 0
    wait(queue_is_empty)
    code, out, _ = sweep("grid.yaml", "--status", "--output", "there")
    assert out.splitlines()[0] == "2 items: 2 done, 0 running, 0 waiting, 0 failed"
    assert what_counts(here / "there") == what_counts(here / "local") and len(what_counts(here / "local")) == 4


@asked_for
def test_what_slurm_refuses_is_one_message(cluster, here):
    write(epochs=1, seeds=1)
    code, _, err = sweep("grid.yaml", "--on", "slurm", "--output", "there", "--partition", "gpus")
    assert code == 1 and "Slurm does not take the job" in err and "invalid partition specified: gpus" in err


@asked_for
def test_an_output_folder_on_a_nodes_own_disk_is_said(cluster, here):
    """`scratch` is another disk on each node than here."""
    write(epochs=1, seeds=1)
    folder = Path(os.environ["SLURM_CONF"]).parent / "scratch/runs"
    try:
        code, _, err = sweep("grid.yaml", "--on", "slurm", "--output", str(folder))
        assert code == 0 and f"Note: {folder} is on a disk of the kind" in err
        wait(queue_is_empty)
        out = sweep("grid.yaml", "--status", "--output", str(folder))[1]
        assert "2 waiting, 0 failed" in out and "their nodes do not see this folder" in out
        token = (folder / ".sweeps/token").read_text()
        words = [sys.executable, str(ROOT), "sweep", str(here / "grid.yaml"), "--output", str(folder)]
        done = subprocess.run(["srun", "-w", "n1", *words, "--expect", token], capture_output=True, text=True)
        assert done.returncode != 0 and f"Error: node n1 has no {folder}/.sweeps/token" in done.stderr
        assert not list(folder.rglob("seed*"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asked_for
def test_a_script_does_the_same(cluster, here):
    write(epochs=1, seeds=1)
    code, out, _ = sweep("grid.yaml", "--script", "--output", "there")
    Path("grid.sh").write_text(out)
    slurm("sbatch", "grid.sh")
    wait(queue_is_empty)
    assert len(what_counts(here / "there")) == 4


@asked_for
def test_a_task_that_runs_out_of_time_goes_on_from_its_last_checkpoint(cluster, here):
    write(epochs=3000, seeds=1, methods="coop")  # a minute or more
    assert sweep("grid.yaml", "--output", "local")[0] == 0
    sweep("grid.yaml", "--on", "slurm", "--output", "there", "--time", "1")
    log = Path("there/.sweeps/grid/logs")
    job = (log.parent / "jobs").read_text().split()[-1]
    wait(lambda: any("Requeued job" in path.read_text() for path in log.glob("*.out")), 180)
    slurm("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    assert list((here / "there").rglob("*.pth.tar-300")) and not list((here / "there").rglob("*.pth.tar-3000"))
    assert not list((here / "there").rglob(".owner"))  # it ended in order
    wait(queue_is_empty, 600)
    assert "this job is timed-out" in next(log.glob("*.out")).read_text()
    assert "will resume training" in next((here / "there").glob("base2new/train_base/**/log.txt")).read_text()
    assert what_counts(here / "there") == what_counts(here / "local") and len(what_counts(here / "local")) == 2


@asked_for
def test_a_sweep_through_every_fault_has_each_run_once_and_the_same_bits(cluster, here, record):
    write(epochs=12, seeds="1, 2, 3, 4", methods="zsclip, coop, mocoop")
    assert sweep("grid.yaml", "--output", "local")[0] == 0
    sweep("grid.yaml", "--on", "slurm", "--output", "there")
    faults = []

    def both_at_work():
        return len(tasks("RUNNING")) == 2 and len(list((here / "there").rglob(".owner"))) >= 2

    def fault(name):
        wait(both_at_work)
        faults.append(name)
        return tasks("RUNNING")

    fault("a node without power")
    cluster("kill", "n1")
    time.sleep(3)
    cluster("revive", "n1")
    cancelled = fault("a task cancelled")[0]
    slurm("scancel", cancelled)
    fault("a node drained")
    slurm("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=test")
    wait(lambda: "n2" not in slurm("squeue", "--noheader", "--states=RUNNING", "--format=%N"))
    slurm("scontrol", "update", "NodeName=n2", "State=RESUME")
    fault("a task preempted")
    slurm("srun", "--partition=high", "sleep", "2")
    fault("the controller without power")
    cluster("kill", "controller")
    time.sleep(5)
    cluster("revive", "controller")
    mend()
    wait(queue_is_empty, 900)
    assert "waiting" in sweep("grid.yaml", "--status", "--output", "there")[1]
    sweep("grid.yaml", "--on", "slurm", "--output", "there", "--partition", "kind")  # what was cancelled
    wait(lambda: tasks("RUNNING"))
    slurm("srun", "--partition=high", "--ntasks=2", "sleep", "2")  # preempted with notice, while Python starts
    wait(queue_is_empty, 600)
    out = sweep("grid.yaml", "--status", "--output", "there")[1]
    logs = [path.read_text() for path in sorted(Path("there/.sweeps/grid/logs").glob("*.out"))]
    assert out.splitlines()[0] == "12 items: 12 done, 0 running, 0 waiting, 0 failed", "\n\n".join([out, *logs])
    there, local = what_counts(here / "there"), what_counts(here / "local")
    assert len(local) == 24 and there == local
    assert not list((here / "there").rglob(".owner")) and not list((here / "there").rglob("failure.json"))
    record("a sweep on Slurm", f"24 runs; {', '.join(faults)}", "each run once, equal bit for bit to this machine's")
