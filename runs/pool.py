"""Runs of train.py, one after the other or several at once, in processes that start warm.

Importing torch and open_clip takes longer than many runs on the demo world. So they are imported once, here, and every
run is a fork of this process (on Linux; elsewhere a fresh process). Apart from that, a run is the same as `python
train.py` with the same arguments. Finished runs are skipped, unfinished ones continued.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from yacs.config import CfgNode

from ..config import ConfigError
from ..toolbox.dassl.files import DONE, LOG
from ..toolbox.dassl.utils import cores
from ..trainers.records import CONFIG, read_accuracies
from .board import Board
from .errors import LESS_MEMORY
from .folder import check_same_config, hold, is_finished, note_failure, up_to_date
from .owner import is_at_work

ROOT = Path(__file__).resolve().parent.parent
Main = Callable[[Sequence[str]], int]  # a run: the arguments of train.py -> exit code
UNLESS_DONE = "--unless-done"  # argument of train.py: do nothing if another process has finished the run meanwhile
ConfigOf = Callable[[Sequence[str]], tuple[CfgNode, CfgNode]]  # the same -> the run's config, and the defaults


@dataclass(frozen=True)
class Job:
    """One call of train.py.

    folder, arguments: of the run.
    model: folder of the run whose model it tests; None = of no other run.
    title: what it is, in a few words; the folder if empty.
    """

    folder: Path
    arguments: tuple[str, ...]
    model: Path | None = None
    title: str = ""

    @property
    def name(self) -> str:
        """What it is, for people."""
        return self.title or str(self.folder)


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are to be run: those not up to date, and the tests of models that are (re)trained among them."""
    changing = {job.folder for job in jobs if not up_to_date(job.folder, job.model)}
    return [job for job in jobs if job.folder in changing or job.model in changing]


def check_done(job: Job, config_of: ConfigOf) -> None:
    """Refuse to take a finished run for this job if it ran with other options, configs or images.

    Args:
        job, config_of: see `run_jobs`.

    Raises:
        ConfigError: naming the differing keys; or the job's arguments are wrong.
    """
    if (job.folder / CONFIG).is_file():
        try:
            check_same_config(job.folder, *config_of(job.arguments), "finished run:")
        except ConfigError as error:
            raise ConfigError(
                [*error.problems, "In the scripts, TAG=<name> keeps runs with other options apart."]
            ) from None


def check_jobs(jobs: Sequence[Job], todo: Sequence[Job], config_of: ConfigOf) -> None:
    """Refuse what cannot work, before anything starts.

    Args:
        jobs: all jobs.
        todo: those that are to be run.
        config_of: see `run_jobs`.

    Raises:
        ConfigError: two jobs have one folder, a model to be tested is not there, a finished run was another one.
    """
    folders = {job.folder for job in jobs}
    if len(folders) < len(jobs):
        twice = sorted({str(f) for f in folders if sum(job.folder == f for job in jobs) > 1})
        raise ConfigError(
            [f"two different runs would have the folder {twice[0]}; give one of the data sets another name"]
        )
    trained = {job.folder for job in todo}
    for job in jobs:
        if job.folder not in trained:
            check_done(job, config_of)
        elif job.model is not None and job.model not in trained and not is_finished(job.model):
            raise ConfigError([f"the run to be tested is not finished: {job.model} (train it first)"])


def start_line(job: Job) -> str:
    """The line that says that a run starts or goes on."""
    return f"{'going on with' if (job.folder / LOG).exists() else 'starting'} {job.folder}"


def clear_done(job: Job) -> None:
    """Remove the DONE of a run that is to be run again, unless another process is at work in its folder."""
    if not is_finished(job.folder):
        return
    try:
        with hold(job.folder, patience=0):
            if not up_to_date(job.folder, job.model):
                (job.folder / DONE).unlink(missing_ok=True)
    except ConfigError:  # held by another process: the run itself waits for it and says so
        pass


def skipped_line(job: Job) -> str:
    """The line that says that a run is skipped."""
    return f"done already: {job.folder} (delete it to run it again)"


def run_jobs(jobs: Sequence[Job], main: Main, config_of: ConfigOf, workers: int = 1, sweep: bool = False) -> int:
    """Run what is not finished yet, in order; a run that tests a model waits for that model.

    After a failure nothing new is started; the same command goes on from there. A sweep goes on with other runs, and
    passes over those that other processes are at.

    Args:
        jobs: what to run.
        main: a run from its arguments; gives its exit code.
        config_of: its config from the same arguments, and the defaults of all keys.
        workers: how many at once. One: its output is shown as it comes. More: a line per finished run; on a terminal
            also a bar over all of them and a line per running one, elsewhere a line per started one.
        sweep: whether they are some of many; a failure is then also written into the run's folder.

    Returns:
        Exit code: 0, or 1 after a failure, 130 after an interrupt.
    """
    jobs = list(dict.fromkeys(jobs))
    todo = unfinished(jobs)
    try:
        check_jobs(jobs, todo, config_of)
    except ConfigError as error:
        print("Error: " + "\n".join(error.problems), file=sys.stderr)
        return 1
    for job in () if sweep else jobs:
        if job not in todo:
            print(skipped_line(job), flush=True)
    return Runner(todo, main, config_of, workers, sweep).run() if todo else 0


def interrupt_on(signum: int) -> None:
    """Take a signal as an interrupt from the keyboard: of this process, and of the runs that it has started.

    A second one is ignored, since batch systems send it to each process as well.
    """

    def interrupt(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        for child in multiprocessing.active_children():
            os.kill(child.pid, number)
        raise KeyboardInterrupt

    signal.signal(signum, interrupt)


def preload() -> None:
    """Import what every run needs; nothing is computed, so no thread is started that a fork would lose."""
    import torch._dynamo  # noqa: F401 (every optimizer imports it, which takes two seconds or more)

    from ..clip import tokenizer, upstream  # noqa: F401
    from ..trainers import base  # noqa: F401

    tokenizer._encoder()  # its table of merges


def end_with_parent() -> None:
    """End this process when its parent is gone: a second start would otherwise do the same run again beside it."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def take_share(workers: int, slot: int) -> None:
    """In the process of a run, take its share of the cores, the memory and the GPUs.

    Args:
        workers: runs at once; slot: which of them this is, from 0.
    """
    import torch

    from ..trainers.memory import RUNS_AT_ONCE

    threads, gpus = threads_for(workers), torch.cuda.device_count()
    if threads is not None:
        torch.set_num_threads(threads)
    if gpus > 1:
        torch.cuda.set_device(slot % gpus)
    os.environ[RUNS_AT_ONCE] = str(-(-workers // max(1, gpus)))


def run_in_process(main: Main, arguments: tuple[str, ...], workers: int, slot: int, console: Path | None) -> None:
    """In the process of a run: run it.

    Args:
        main, arguments: what it is.
        workers: runs at once; slot: which of them this is (see `take_share`).
        console: file that gets the output; None = where ours goes.
    """
    threading.Thread(target=end_with_parent, daemon=True).start()
    if console is not None:
        sys.stdout = sys.stderr = open(console, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        os.dup2(sys.stdout.fileno(), 1)  # what libraries write past Python
        os.dup2(sys.stdout.fileno(), 2)
    if workers > 1:
        take_share(workers, slot)
    sys.argv = [str(ROOT / "train.py"), *arguments]
    sys.exit(main(arguments))


def threads_for(workers: int) -> int | None:
    """Threads of a run, so that all share the cores; None (torch decides) for a single one or OMP_NUM_THREADS."""
    if workers == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, cores() // workers)


@dataclass
class Run:
    """A job at work: its process, what it prints to (None = where we do), when it began, which place it has."""

    job: Job
    process: multiprocessing.Process
    console: Path | None
    began: float
    slot: int


@dataclass
class Runner:
    """The runs of one call: what waits, what is at work, how it ended."""

    todo: list[Job]
    main: Main
    config_of: ConfigOf
    workers: int
    sweep: bool = False
    code: int = 0
    at_work: dict[int, Run] = field(default_factory=dict)  # by the sentinel of its process
    elsewhere: list[Job] = field(default_factory=list)  # what other processes are at, and the tests of its models

    def run(self) -> int:
        """Run all; returns the exit code."""
        from tqdm import tqdm

        linux = sys.platform.startswith("linux")
        self.context = multiprocessing.get_context("fork" if linux else "spawn")
        self.several = self.workers > 1 or self.sweep
        tqdm.monitor_interval = 0  # its watching thread would not survive a fork
        with tempfile.TemporaryDirectory() as consoles:
            self.consoles = Path(consoles)
            self.board = Board(len(self.todo), min(self.workers, len(self.todo)), self.several)
            try:
                if linux:
                    preload()
                self.loop()
                self.say_elsewhere()
            except KeyboardInterrupt:
                self.code = 130
                self.stop()
            finally:
                self.board.close()
        return self.code

    def loop(self) -> None:
        """Start what can be started, wait for what ends, until nothing is left or something failed."""
        while self.todo or self.at_work:
            while len(self.at_work) < self.workers and (self.code == 0 or self.sweep) and self.start_next():
                pass
            if not self.at_work:
                break
            for sentinel in wait(list(self.at_work), timeout=0.5 if self.board.shown else None):
                self.ended(self.at_work.pop(sentinel))
            self.board.update({run.slot: (run.job.name, run.console) for run in self.at_work.values()})

    def start_next(self) -> bool:
        """Start the first run whose model is there; False if none can start."""
        busy = {job.folder for job in self.todo} | {run.job.folder for run in self.at_work.values()}
        job = next((job for job in self.todo if job.model not in busy), None)
        if job is None:
            return False
        self.todo.remove(job)
        if self.sweep and is_at_work(job.folder):
            return self.pass_over(job)
        clear_done(job)
        if up_to_date(job.folder, job.model):  # another call has run it in the meantime
            return self.skip(job)
        if not self.board.shown:
            number = self.board.total - len(self.todo)
            self.board.say(f"[{number}/{self.board.total}] {start_line(job)}")
        console = self.consoles / str(len(self.todo)) if self.several else None
        slot = min(set(range(self.workers)) - {run.slot for run in self.at_work.values()})
        process = self.context.Process(
            target=run_in_process, args=(self.main, (*job.arguments, UNLESS_DONE), self.workers, slot, console)
        )
        process.start()
        self.at_work[process.sentinel] = Run(job, process, console, time.time(), slot)
        return True

    def skip(self, job: Job) -> bool:
        """Skip what another call has run; False, and a failure, if it ran with other options."""
        try:
            check_done(job, self.config_of)
        except ConfigError as error:
            self.code = 1
            self.board.say("Error: " + "\n".join(error.problems), error=True)
            return False
        self.board.say(skipped_line(job))
        self.board.done += 1
        return True

    def pass_over(self, job: Job) -> bool:
        """Leave a run, and the tests of its model, to the process that is at it."""
        tests = [other for other in self.todo if other.model == job.folder]
        self.elsewhere += [job, *tests]
        self.todo = [other for other in self.todo if other not in tests]
        return True

    def say_elsewhere(self) -> None:
        """Say what was passed over."""
        if self.elsewhere:
            first = self.elsewhere[0].folder
            self.board.say(f"Left to other processes that are at work: {len(self.elsewhere)} runs, e.g. {first}")

    def ended(self, run: Run) -> None:
        """Say how a run ended."""
        run.process.join()
        code, folder = run.process.exitcode, run.job.folder
        if code != 0:
            self.failed(run, code)
            return
        self.board.done += 1
        if self.several:
            accuracy = ", ".join(f"{split} {value:.1f}%" for split, value in read_accuracies(folder).items())
            self.board.say(f"{time.time() - run.began:4.0f} s  {accuracy}  {run.job.name}")

    def failed(self, run: Run, code: int) -> None:
        """Say how a run failed; in a sweep, also write it down, and give up the tests of its model."""
        folder = run.job.folder
        if self.sweep and is_at_work(folder):  # another process was faster
            self.pass_over(run.job)
            return
        self.code = self.code or (130 if code == 130 else 1)
        output = run.console.read_text(errors="replace") if run.console and run.console.exists() else ""
        text = error_or_last_lines(output)
        if code == -signal.SIGKILL:  # nobody was left to say it
            fewer = "Fewer runs at once need less memory (JOBS). " if self.workers > 1 else ""
            text += f"\nMost likely the memory was used up. {fewer}{LESS_MEMORY}"
        died = f" (signal {-code})" if code < 0 else ""
        self.board.say(f"{text}\nFailed{died}: {folder}".lstrip(), error=True)
        if self.sweep:
            self.todo = [job for job in self.todo if job.model != folder]
            if code != 130:
                note_failure(folder, code, text.strip())

    def stop(self) -> None:
        """After an interrupt, which the runs got too: wait for them; a second interrupt ends them at once."""
        processes = [run.process for run in self.at_work.values()]
        try:
            for process in processes:
                process.join()
        except KeyboardInterrupt:
            for process in processes:
                process.kill()
        self.board.close()
        if self.several or not self.at_work:  # a single run has said so itself
            again = "finished runs are kept, the others go on from their last checkpoint, if they have one yet"
            self.board.say(f"Interrupted. The same command again goes on: {again}.", error=True)


def error_or_last_lines(console: str) -> str:
    """From a run's output: its error message if it has one, else the last lines."""
    lines = console.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("Error:")]
    return "\n".join(lines[errors[-1] :] if errors else lines[-20:])
