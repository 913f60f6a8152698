"""Items of a sweep as tasks of a Slurm array: what is asked for, what is submitted, what is in the queue. No torch.

A task is the same command on a node, `mocoop sweep GRID --items ...`; submitit submits the array and puts a task that
is preempted or runs out of time into the queue again. The files of this are below `<output>/.sweeps/`.
"""

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from ..config import ConfigError
from ..toolbox.dassl.errors import ExpectedError, WrongValue, optional
from ..toolbox.dassl.utils import did_you_mean, write_text

ROOT = Path(__file__).resolve().parent.parent
FOLDER, TOKEN, JOBS, LOGS = ".sweeps", "token", "jobs", "logs"
STOP = signal.SIGUSR2  # what Slurm sends before it ends a task
NOTICE = 60  # seconds before the end of a task's time at which it does
MOST_TASKS = 1000  # of an array, on a cluster whose MaxArraySize is Slurm's own
MOST_STOPS = 20  # after as many ends of its time a task is given up: perhaps not even one epoch fits into it
HELD = "HELD"  # state of a task that waits for somebody to release it
TIME = re.compile(r"(?:(?P<days>[0-9]+)-)?(?P<hours>[0-9]+):(?P<minutes>[0-9]{2})(?::[0-9]{2})?|(?P<only>[0-9]+)")
# After a notice of preemption came while Python was starting, which ended it: Slurm queues a task again that it has to
# end itself, but not one that is over by then.
AFTER = ["code=$?", "if [ $code = 143 ]; then sleep 600; fi", "exit $code"]
LOCAL = {"btrfs", "ext2", "ext3", "ext4", "overlay", "tmpfs", "xfs", "zfs"}  # file systems of a single machine


@dataclass(frozen=True)
class Request:
    """What a task of a sweep asks for; the key `slurm` of a sweep's file, or arguments.

    Attributes:
        gpus, cpus: of a task.
        memory: of a task, in Slurm's words ("32G"); None = the cluster's default.
        time: limit of a task, [DAYS-]HOURS:MINUTES[:SECONDS], or minutes. A task that reaches it is queued again and
            goes on, so short times, for which places are found sooner, do no harm.
        partition, account: where, and on whose budget; None = the cluster's default.
        at_once: most tasks that run at one time; None = all.
        tasks: most tasks of the array; with more items, a task does several.
        more: further options of sbatch, e.g. {"constraint": "a100", "qos": "long"}.
    """

    gpus: int = 0
    cpus: int = 1
    memory: str | None = None
    time: str = "4:00:00"
    partition: str | None = None
    account: str | None = None
    at_once: int | None = None
    tasks: int = MOST_TASKS
    more: dict[str, object] = field(default_factory=dict)

    @property
    def minutes(self) -> int:
        """The time in minutes."""
        found = TIME.fullmatch(self.time)
        if found["only"]:
            return int(found["only"])
        return (int(found["days"] or 0) * 24 + int(found["hours"])) * 60 + int(found["minutes"])

    def __str__(self) -> str:
        gpus = f"{self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else "no GPU"
        cores = f"{self.cpus} core{'s' * (self.cpus > 1)}"
        return ", ".join(filter(None, (gpus, cores, self.memory and f"{self.memory} of memory", f"{self.minutes} min")))

    def flags(self) -> dict[str, object]:
        """Options of sbatch."""
        known = {
            "gpus-per-node": self.gpus or None,
            "cpus-per-task": self.cpus,
            "mem": self.memory,
            "time": self.minutes,
            "partition": self.partition,
            "account": self.account,
            "requeue": True,
        }
        return {name: value for name, value in known.items() if value is not None} | self.more


MEMORY = re.compile(r"[0-9]+[KMGT]?", re.I)  # as sbatch takes it
COUNTS = ("gpus", "cpus", "at_once", "tasks")


def request_of(values: Mapping[str, object]) -> Request:
    """A request from the words of a sweep's file or of the arguments.

    Raises:
        ConfigError: listing all that is wrong.
    """
    names = [one.name for one in fields(Request)]
    problems = [f"slurm: unknown key {key!r}{did_you_mean(str(key), names)}" for key in values if key not in names]
    for name in COUNTS:
        value, least = values.get(name, 1), 0 if name == "gpus" else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            problems.append(f"slurm: {name}: expected a whole number from {least} on, found {value!r}")
    for name in ("memory", "time", "partition", "account"):
        value = values.get(name, "")
        if not isinstance(value, str) or not value.isprintable():
            problems.append(f"slurm: {name}: expected a text in quotes, on one line, found {value!r}")
    memory = values.get("memory")
    if isinstance(memory, str) and not MEMORY.fullmatch(memory):
        problems.append(f"slurm: memory: expected a number with K, M, G or T after it, found {memory!r}")
    time = values.get("time")
    if isinstance(time, str) and not TIME.fullmatch(time):
        problems.append(f"slurm: time: expected [DAYS-]HOURS:MINUTES[:SECONDS], or minutes, found {time!r}")
    if not isinstance(values.get("more", {}), dict):
        problems.append(f"slurm: more: expected options of sbatch as KEY: VALUE lines, found {values['more']!r}")
    if problems:
        raise ConfigError(problems)
    return Request(**values)


# ---- the files of a sweep that leaves this machine


def make_token(output: Path) -> str:
    """The text by which a node knows that it sees the same output folder; made on first use.

    Raises:
        OSError: the folder cannot be written to.
    """
    path = output / FOLDER / TOKEN
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(uuid.uuid4().hex)
    except FileExistsError:
        pass
    return path.read_text(encoding="utf-8").strip()


def check_shared(output: Path, token: str) -> None:
    """Refuse to work on a node that does not see the output folder of the machine that submitted.

    Args:
        output: the folder of all runs; token: what `make_token` gave there.

    Raises:
        WrongValue: the token is not there, or is another one.
    """
    path = output / FOLDER / TOKEN
    found = path.read_text(encoding="utf-8").strip() if path.is_file() else None
    if found != token:
        what = "has no" if found is None else "has another"
        raise WrongValue(
            f"node {os.uname().nodename} {what} {path}, which the submitting machine wrote: the output folder must lie "
            "on a file system that all nodes share (--output); nothing was run here"
        )


def kind_of_disk(path: Path) -> str | None:
    """The kind of the file system that a folder lies on if that is one of a single machine; None if not, or unknown."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return None
    real = Path(os.path.realpath(path))
    above = [(len(place), kind) for place, kind in mounts if real.is_relative_to(place)]
    kind = max(above, default=(0, None), key=lambda pair: pair[0])[1]
    return kind if kind in LOCAL else None


def state_folder(output: Path, name: str) -> Path:
    """The folder of what is kept of a sweep's submissions; `name`: of its grid."""
    return output / FOLDER / name


def freeze(grid: Path, folder: Path) -> Path:
    """A copy of a sweep's file, so that the numbers of its items stay what they were when tasks were submitted.

    Args:
        grid: the file; folder: see `state_folder`.
    """
    text = grid.read_text(encoding="utf-8")
    copy = folder / hashlib.sha256(text.encode()).hexdigest()[:12] / grid.name
    if not copy.exists():
        write_text(text, copy)
    return copy


# ---- tasks


def command_of(grid: Path, output: Path, data: Path, token: str) -> list[str]:
    """What a task calls, without its items.

    Args:
        grid: the frozen file; output, data: folders; token: see `make_token`.
    """
    folders = ["--output", str(output), "--data", str(data)]
    return [sys.executable, str(ROOT), "sweep", str(grid), *folders, "--expect", token]


def deal(numbers: Sequence[int], tasks: int) -> list[list[int]]:
    """Numbers of items dealt over at most so many tasks."""
    return [list(numbers[first::tasks]) for first in range(min(tasks, len(numbers)))]


class Call:
    """A command on a node that can be stopped and called again; submitit pickles it.

    Args:
        command: with its arguments.
    """

    def __init__(self, command: list[str]):
        self.command = command

    def __call__(self) -> None:
        """Call it and wait for its end.

        Raises:
            SystemExit: with its exit code, if that is not 0.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm's notice of a preemption, which must not end the command
        self.process = subprocess.Popen(self.command)
        code = self.process.wait()
        if code:
            raise SystemExit(code)

    def checkpoint(self) -> object:
        """Stop it, for submitit: preempted or out of time; what it returns is called in its place next time."""
        from submitit.helpers import DelayedSubmission

        self.process.send_signal(signal.SIGUSR2)
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)  # `wait` is at work below this signal's handler
        return DelayedSubmission(type(self)(self.command))


def submit(name: str, commands: Sequence[list[str]], request: Request, folder: Path) -> str:
    """Submit an array of commands; returns the number of the job.

    Args:
        name: of the sweep; commands: one for each task; folder: see `state_folder`.

    Raises:
        ExpectedError: Slurm does not take the job (unknown partition, ...).
    """
    import cloudpickle
    import submitit

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a node's Python need not find a checkout
    executor = submitit.SlurmExecutor(folder / LOGS, max_num_timeout=MOST_STOPS)
    executor.update_parameters(
        job_name=f"sweep-{name}",
        time=request.minutes,  # in the flags as well; submitit counts the ends of it
        array_parallelism=request.at_once or len(commands),
        signal_delay_s=NOTICE,
        teardown=AFTER,
        additional_parameters=request.flags(),
    )
    try:
        with executor.batch():
            jobs = [executor.submit(Call(command)) for command in commands]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise ExpectedError(f"Slurm does not take the job: {error}") from error
    job = jobs[0].job_id.partition("_")[0]
    with open(folder / JOBS, "a", encoding="utf-8") as file:
        file.write(job + "\n")
    return job


def check_ready() -> None:
    """Refuse to go on where nothing can be submitted.

    Raises:
        MissingPackage: submitit is not installed.
        ExpectedError: see `check_slurm`.
    """
    optional("submitit", "cluster")
    check_slurm()


def check_slurm() -> None:
    """Refuse to go on where there is no Slurm.

    Raises:
        ExpectedError: its commands are not there.
    """
    missing = [name for name in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(name) is None]
    if missing:
        raise ExpectedError(
            f"there is no Slurm on this machine ({', '.join(missing)}: no such command); call this on a login node of "
            "the cluster, or use --on local, or --shard I/N with another scheduler"
        )


def submitted(folder: Path) -> list[str]:
    """The numbers of the jobs that a sweep has submitted; `folder`: see `state_folder`."""
    path = folder / JOBS
    return path.read_text(encoding="utf-8").split() if path.is_file() else []


def queue(jobs: Sequence[str]) -> Counter:
    """How many tasks of some jobs are in the queue, by Slurm's word for their state (RUNNING, PENDING, ...), or HELD.

    Slurm holds a task back that could not be launched, e.g. because its node died at that moment, until it is released.

    Raises:
        ExpectedError: the queue cannot be read.
    """
    if not jobs:
        return Counter()
    check_slurm()
    call = ["squeue", "--noheader", "--array", "--format=%F %T %r"]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise ExpectedError(f"the queue cannot be read: {done.stderr.strip()}")
    rows = (line.split(maxsplit=2) for line in done.stdout.splitlines())
    return Counter(HELD if "held" in reason.lower() else state for job, state, reason in rows if job in jobs)


def traces(folder: Path) -> list[Path]:
    """The logs that a sweep's last job has written; none if its nodes do not see the folder."""
    jobs = submitted(folder)
    return sorted((folder / LOGS).glob(f"{jobs[-1]}_*.out")) if jobs else []


SCRIPT = """\
#!/bin/bash
# {items} items of the sweep {name}, made by `mocoop sweep --script`; submit it with: sbatch FILE
{flags}

# Before its time ends, or when it is preempted, the task stops its run and goes into the queue again, to go on from its
# last checkpoint later. What Slurm stops without notice it queues again itself.
again() {{
    kill -s USR2 "$run"
    wait "$run"
    if (( ${{SLURM_RESTART_COUNT:-0}} < {stops} )); then
        scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
    fi
    exit 1
}}
trap again USR2
trap '' TERM

{command} --shard "$SLURM_ARRAY_TASK_ID/{tasks}" &
run=$!
wait "$run"
"""


def script(name: str, command: Sequence[str], items: int, request: Request, folder: Path) -> str:
    """An sbatch script whose array does all items, each task a fixed share.

    Args:
        name: of the sweep; command: see `command_of`; items: how many; folder: see `state_folder`.
    """
    tasks = min(items, request.tasks)
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    most = f"%{request.at_once}" if request.at_once else ""
    flags = {"job-name": f"sweep-{name}", "array": f"1-{tasks}{most}", "output": folder / LOGS / "%A_%a_0_log.out"}
    flags |= {"open-mode": "append", "signal": f"B:USR2@{NOTICE}", **request.flags()}
    lines = [
        f"#SBATCH --{key}" + ("" if value is True else f"={shlex.quote(str(value))}") for key, value in flags.items()
    ]
    return SCRIPT.format(
        items=items,
        name=name,
        flags="\n".join(lines),
        stops=MOST_STOPS,
        command=shlex.join(command),
        tasks=tasks,
    )
