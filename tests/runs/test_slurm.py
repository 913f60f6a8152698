"""What goes to Slurm, with stand-ins for its commands; `test_slurm_for_real` has the real ones."""

import os
import pickle
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import mocoop
import pytest
from mocoop.config import ConfigError
from mocoop.runs import slurm
from mocoop.toolbox.dassl.errors import ExpectedError, WrongValue

ROOT = Path(mocoop.__file__).parent


@pytest.fixture()
def commands(tmp_path, monkeypatch):
    """A function that puts a stand-in for a command of Slurm first on the PATH; without calls, there is none."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm.shutil, "which", lambda name: (folder / name).is_file() and str(folder / name) or None)

    def make(name, text):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    return make


def test_what_a_task_asks_for():
    asked = slurm.request_of({"gpus": 1, "cpus": 8, "memory": "32G", "time": "1-02:30:00", "more": {"qos": "long"}})
    assert asked.minutes == (24 + 2) * 60 + 30
    assert asked.flags() == {
        "gpus-per-node": 1,
        "cpus-per-task": 8,
        "mem": "32G",
        "time": 1590,
        "requeue": True,
        "qos": "long",
    }
    assert slurm.request_of({}).flags() == {"cpus-per-task": 1, "time": 240, "requeue": True}
    assert slurm.request_of({"time": "90"}).minutes == 90
    assert str(asked) == "1 GPU, 8 cores, 32G of memory, 1590 min"
    assert str(slurm.request_of({})) == "no GPU, 1 core, 240 min"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"gpu": 1}, "unknown key 'gpu'; did you mean gpus?"),
        ({"cpus": 0}, "cpus: expected a whole number from 1 on, found 0"),
        ({"gpus": "one"}, "gpus: expected a whole number from 0 on, found 'one'"),
        ({"gpus": True}, "gpus: expected a whole number from 0 on, found True"),
        ({"time": 86400}, "time: expected a text in quotes, on one line, found 86400"),  # what YAML makes of 24:00:00
        ({"time": "a day"}, "time: expected [DAYS-]HOURS:MINUTES[:SECONDS], or minutes, found 'a day'"),
        ({"memory": 32}, "memory: expected a text in quotes, on one line, found 32"),
        ({"memory": "lots"}, "memory: expected a number with K, M, G or T after it, found 'lots'"),
        ({"memory": "-5"}, "memory: expected a number with K, M, G or T after it, found '-5'"),
        ({"partition": "a\nrm x"}, "partition: expected a text in quotes, on one line"),
        ({"more": "qos"}, "more: expected options of sbatch"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(words, said):
    with pytest.raises(ConfigError) as error:
        slurm.request_of(words)
    assert said in str(error.value)


def test_items_are_dealt_over_the_tasks():
    assert slurm.deal([4, 5, 9], 1000) == [[4], [5], [9]]
    assert slurm.deal([1, 2, 3, 4, 5], 2) == [[1, 3, 5], [2, 4]]


def test_a_node_knows_the_shared_folder_by_its_token(tmp_path):
    token = slurm.make_token(tmp_path / "shared")
    assert slurm.make_token(tmp_path / "shared") == token and len(token) == 32
    slurm.check_shared(tmp_path / "shared", token)
    for place in ("absent", "other"):
        if place == "other":
            slurm.make_token(tmp_path / place)
        with pytest.raises(WrongValue, match=f"node .* has .*{place}/.sweeps/token.*all nodes share.*nothing was run"):
            slurm.check_shared(tmp_path / place, token)


def test_a_disk_of_one_machine_is_noticed():
    assert slurm.kind_of_disk(Path("/dev/shm/runs")) == "tmpfs"
    assert slurm.kind_of_disk(Path("/proc/here")) is None


def test_the_file_of_a_submitted_sweep_stays_what_it_was(tmp_path):
    grid = tmp_path / "mine.yaml"
    grid.write_text("seeds: [1]")
    first = slurm.freeze(grid, tmp_path / "state")
    grid.write_text("seeds: [2]")
    second = slurm.freeze(grid, tmp_path / "state")
    assert (first.read_text(), second.read_text()) == ("seeds: [1]", "seeds: [2]") and first.name == "mine.yaml"


def test_the_script_is_a_whole_one(tmp_path):
    asked = slurm.request_of({"gpus": 1, "cpus": 4, "at_once": 3, "tasks": 5, "time": "60", "more": {"comment": "a b"}})
    command = slurm.command_of(tmp_path / "my grid.yaml", tmp_path / "out", Path("/d"), "t0")
    text = slurm.script("mine", command, 12, asked, tmp_path / "state")
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash" and lines[1].startswith("# 12 items of the sweep mine")
    assert [line for line in lines if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=sweep-mine",
        "#SBATCH --array=1-5%3",
        f"#SBATCH --output={tmp_path}/state/logs/%A_%a_0_log.out",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:USR2@60",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --time=60",
        "#SBATCH --requeue",
        "#SBATCH --comment='a b'",
    ]
    (call,) = [line for line in lines if line.endswith(" &")]
    words = shlex.split(call.replace("$SLURM_ARRAY_TASK_ID", "2"))
    assert words == [
        *(
            sys.executable,
            str(ROOT),
            "sweep",
            f"{tmp_path}/my grid.yaml",
            "--output",
            f"{tmp_path}/out",
            "--data",
            "/d",
        ),
        *("--expect", "t0", "--shard", "2/5", "&"),
    ]
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert (tmp_path / "state/logs").is_dir()  # else Slurm could not open the task's output


RUN = (
    "import signal, sys, time; signal.signal(signal.SIGUSR2, lambda *a: sys.exit(130)); open(sys.argv[1], 'w').close();"
)


@pytest.mark.parametrize(("restarts", "again"), [(0, True), (slurm.MOST_STOPS, False)])
def test_the_script_stops_its_run_and_queues_itself_again(tmp_path, commands, restarts, again):
    commands("scontrol", f'echo "$@" > {tmp_path}/called')
    command = [sys.executable, "-c", RUN + "time.sleep(60)", str(tmp_path / "ready")]
    text = slurm.script("mine", command, 2, slurm.Request(), tmp_path)
    env = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": str(restarts)}
    process = subprocess.Popen(["bash", "-c", text], env={**os.environ, **env})
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)  # a warning only
    process.send_signal(signal.SIGUSR2)
    assert process.wait(timeout=30) == 1
    assert (tmp_path / "called").exists() == again
    if again:
        assert (tmp_path / "called").read_text() == "requeue 7_2\n"


def test_the_script_ends_as_its_run_does(tmp_path):
    text = slurm.script("mine", [sys.executable, "-c", "raise SystemExit(3)"], 1, slurm.Request(), tmp_path)
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": "1"}
    assert subprocess.run(["bash", "-c", text], env=env).returncode == 3


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert path.exists()


def test_a_task_that_is_stopped_waits_for_its_run_to_end_and_is_called_again(tmp_path, monkeypatch):
    """As submitit does it: its handler runs while the call waits, and pickles what comes next."""
    pytest.importorskip("submitit", reason="no submitit: pip install -e '.[cluster]'")
    ended = tmp_path / "ended"
    code = "import signal, sys, time, pathlib\n"
    code += f"def end(*a): time.sleep(0.3); pathlib.Path({str(ended)!r}).touch(); sys.exit(130)\n"
    code += "signal.signal(signal.SIGUSR2, end)\nopen(sys.argv[1], 'w').close()\ntime.sleep(60)"
    call, seen = slurm.Call([sys.executable, "-c", code, str(tmp_path / "ready")]), []

    def handler(signum, frame):
        seen.append((call.checkpoint(), ended.exists()))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        monkeypatch.setattr(subprocess, "Popen", started_then(tmp_path / "ready", lambda: signal.setitimer(0, 0.2)))
        with pytest.raises(SystemExit) as end:
            call()
    finally:
        signal.signal(signal.SIGALRM, before)
    ((again, was_ended),) = seen
    assert end.value.code == 130 and was_ended
    assert again.function.command == call.command and again.function is not call


def started_then(ready, do):
    """A Popen after which, once its process is ready, something is done."""
    popen = subprocess.Popen

    def start(*args, **kwargs):
        process = popen(*args, **kwargs)
        wait_for(ready)
        do()
        return process

    return start


def test_a_notice_of_preemption_does_not_end_a_command_that_is_still_starting():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); raise SystemExit(7)"
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            slurm.Call([sys.executable, "-c", code])()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 7


def test_the_call_needs_nothing_of_ours_on_the_node(tmp_path, monkeypatch):
    """Its pickle is read where no `mocoop` can be imported."""
    cloudpickle = pytest.importorskip("cloudpickle", reason="no submitit: pip install -e '.[cluster]'")
    cloudpickle.register_pickle_by_value(slurm)
    try:
        (tmp_path / "call.pkl").write_bytes(cloudpickle.dumps(slurm.Call(["sh", "-c", "exit 5"])))
    finally:
        cloudpickle.unregister_pickle_by_value(slurm)
    code = "import sys; sys.modules['mocoop'] = None; import pickle; pickle.load(open('call.pkl', 'rb'))()"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 5
    with pytest.raises(SystemExit):
        pickle.loads((tmp_path / "call.pkl").read_bytes())()


def test_without_slurm_the_message_says_what_else_there_is(commands):
    pytest.importorskip("submitit", reason="no submitit: pip install -e '.[cluster]'")
    with pytest.raises(ExpectedError, match="no Slurm on this machine .sbatch, .*--on local, or --shard I/N"):
        slurm.check_ready()


def test_what_slurm_refuses_is_one_message(commands, tmp_path):
    pytest.importorskip("submitit", reason="no submitit: pip install -e '.[cluster]'")
    for name in ("srun", "squeue", "scontrol"):
        commands(name, "exit 0")
    commands("sbatch", "echo 'sbatch: error: invalid partition specified: gpus' >&2; exit 1")
    with pytest.raises(ExpectedError, match="Slurm does not take the job: .*invalid partition specified: gpus"):
        slurm.submit("mine", [["true"]] * 2, slurm.Request(), tmp_path)
    assert slurm.submitted(tmp_path) == []


def test_what_is_submitted_is_an_array_of_calls(commands, tmp_path):
    pytest.importorskip("submitit", reason="no submitit: pip install -e '.[cluster]'")
    for name in ("srun", "squeue", "scontrol"):
        commands(name, "exit 0")
    commands("sbatch", f"cp $1 {tmp_path}/script; echo Submitted batch job 41")
    asked = slurm.request_of({"cpus": 2, "partition": "low", "at_once": 2, "time": "30"})
    assert slurm.submit("mine", [["true"], ["false"], ["true"]], asked, tmp_path) == "41"
    assert slurm.submitted(tmp_path) == ["41"]
    lines = (tmp_path / "script").read_text().splitlines()
    for line in ("array=0-2%2", "cpus-per-task=2", "partition=low", "time=30", "signal=USR2@60", "job-name=sweep-mine"):
        assert f"#SBATCH --{line}" in lines
    assert lines[-len(slurm.AFTER) :] == slurm.AFTER and lines[-len(slurm.AFTER) - 4].startswith("srun ")
    assert "#SBATCH --requeue" in lines and len(list((tmp_path / "logs").glob("41_*_submitted.pkl"))) == 3
    assert slurm.traces(tmp_path) == []  # nothing has begun


def test_the_queue_counts_tasks_of_the_sweeps_jobs(commands, tmp_path):
    for name in ("srun", "sbatch", "scontrol"):
        commands(name, "exit 0")
    commands(
        "squeue",
        "printf '7 RUNNING None\\n7 PENDING Priority\\n7 PENDING launch failed requeued held\\n8 RUNNING x\\n'",
    )
    assert slurm.queue(["7", "6"]) == {"RUNNING": 1, "PENDING": 1, "HELD": 1} and not slurm.queue([])
    commands("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(ExpectedError, match="the queue cannot be read: Unable to contact"):
        slurm.queue(["7"])
