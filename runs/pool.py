"""Runs of train.py, one after the other or several at once, in processes that start warm.

Importing torch and open_clip takes longer than many a run on the demo world. So they are imported once, here, and every
run is a fork of this process (on Linux; elsewhere a fresh process). Otherwise a run is what `python train.py` with the
same arguments is. Finished runs are skipped, unfinished ones go on.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

from .. import train
from ..config import ConfigError
from ..toolbox.dassl.utils import cores
from .errors import LESS_MEMORY
from .folder import CONFIG, DONE, check_same_config, is_finished, read_accuracies

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Job:
    """One call of train.py: the run's folder, the arguments, and the run whose model it tests (None: no other run)."""

    folder: Path
    arguments: tuple[str, ...]
    model: Path | None = None


def up_to_date(job: Job) -> bool:
    """Whether the job's run is finished and, if it tests a model, that model was not trained again since."""
    if not is_finished(job.folder):
        return False
    if job.model is None or not is_finished(job.model):
        return True
    return (job.model / DONE).stat().st_mtime <= (job.folder / DONE).stat().st_mtime


def unfinished(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are to be run: those not up to date, and the tests of models that are (re)trained among them."""
    changing = {job.folder for job in jobs if not up_to_date(job)}
    return [job for job in jobs if job.folder in changing or job.model in changing]


def check_done(job: Job) -> None:
    """Refuse to pass a finished run off as this job if it ran with other options, configs or images.

    Raises:
        ConfigError: naming the differing keys; or the job's arguments are wrong.
    """
    if (job.folder / CONFIG).is_file():
        args = train.build_parser().parse_intermixed_args(job.arguments)
        args.eval_only, args.model_dir = False, None  # the model may be gone by now
        try:
            check_same_config(job.folder, *train.build_config(args), "finished run:")
        except ConfigError as error:
            raise ConfigError(
                [*error.problems, "In the scripts, TAG=<name> keeps runs with other options apart."]
            ) from None


def check_jobs(jobs: Sequence[Job], todo: Sequence[Job]) -> None:
    """Refuse what cannot go well, before anything starts.

    Args:
        jobs: all jobs.
        todo: those that are to be run.

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
            check_done(job)
        elif job.model is not None and job.model not in trained and not is_finished(job.model):
            raise ConfigError([f"the run to be tested is not finished: {job.model} (train it first)"])


def announce(job: Job) -> None:
    """Say that a run starts or goes on."""
    print(f"{'going on with' if (job.folder / 'log.txt').exists() else 'starting'} {job.folder}", flush=True)


def note_done(job: Job) -> None:
    """Say that a run is skipped."""
    print(f"done already: {job.folder} (delete it to run it again)", flush=True)


def run_jobs(jobs: Sequence[Job], workers: int = 1, last: bool = False) -> int:
    """Run what is not finished yet, in order; a run that tests a model waits for that model.

    After a failure nothing new is started; the same command goes on from there.

    Args:
        jobs: what to run.
        workers: how many at once. One: its output is shown as it comes. More: a line per run and a progress bar.
        last: the caller has nothing to do afterwards, so a single run may take over this process.

    Returns:
        Exit code: 0, or 1 after a failure, 130 after an interrupt.
    """
    jobs = list(dict.fromkeys(jobs))
    todo = unfinished(jobs)
    try:
        check_jobs(jobs, todo)
    except ConfigError as error:
        print("Error: " + "\n".join(error.problems), file=sys.stderr)
        return 1
    for job in jobs:
        if job not in todo:
            note_done(job)
    if not todo:
        return 0
    if last and len(todo) == 1:
        return become(todo[0])
    return Crew(todo, workers).run()


def become(job: Job) -> int:
    """Turn this process into the job's run: nothing to share, so the plainest thing."""
    announce(job)
    (job.folder / DONE).unlink(missing_ok=True)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(ROOT / "train.py"), *job.arguments])


def preload() -> None:
    """Import what every run needs; nothing is computed, so no thread is started that a fork would lose."""
    import open_clip  # noqa: F401
    import torchvision  # noqa: F401


def follow_parent() -> None:
    """End this process when its parent is gone, lest a run goes on that a second start would run as well."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def share(workers: int, slot: int) -> None:
    """In the process of a run beside others: its part of the cores, of the memory and of the GPUs.

    Args:
        workers: runs at once; slot: which of them this is, from 0.
    """
    import torch

    threads, gpus = threads_for(workers), torch.cuda.device_count()
    if threads is not None:
        torch.set_num_threads(threads)
    if gpus > 1:
        torch.cuda.set_device(slot % gpus)
    os.environ["MOCOOP_RUNS_AT_ONCE"] = str(-(-workers // max(1, gpus)))  # see trainers/memory.py


def work(arguments: tuple[str, ...], workers: int, slot: int, console: str | None) -> None:
    """In the process of a run: run it.

    Args:
        arguments: of train.py.
        workers: runs at once; slot: which of them this is (see `share`).
        console: file that gets the output; None = where ours goes.
    """
    threading.Thread(target=follow_parent, daemon=True).start()
    if console is not None:
        sys.stdout = sys.stderr = open(console, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        os.dup2(sys.stdout.fileno(), 1)  # what libraries write past Python
        os.dup2(sys.stdout.fileno(), 2)
    if workers > 1:
        share(workers, slot)
    sys.argv = [str(ROOT / "train.py"), *arguments]
    sys.exit(train.main(arguments))


def threads_for(workers: int) -> int | None:
    """Threads of a run, so that all share the cores; None (torch decides) for a single one or OMP_NUM_THREADS."""
    if workers == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, cores() // workers)


@dataclass
class Crew:
    """The runs of one call: what waits, what is at work, how it ended."""

    todo: list[Job]
    workers: int
    code: int = 0
    at_work: dict = field(default_factory=dict)

    def run(self) -> int:
        """Run all; returns the exit code."""
        from tqdm import tqdm

        linux = sys.platform.startswith("linux")
        self.context = multiprocessing.get_context("fork" if linux else "spawn")
        self.several = self.workers > 1
        tqdm.monitor_interval = 0  # its watching thread would not survive a fork
        with tempfile.TemporaryDirectory() as consoles:
            self.consoles = Path(consoles)
            # Shown where there is a terminal, as every bar of ours; a single run shows its own.
            self.bar = tqdm(total=len(self.todo), unit="run", disable=None if self.several else True)
            try:
                if linux:
                    preload()
                self.loop()
            except KeyboardInterrupt:
                self.code = 130
                self.stop()
            finally:
                self.bar.close()
        return self.code

    def loop(self) -> None:
        """Start what can be started, wait for what ends, until nothing is left or something failed."""
        while self.todo or self.at_work:
            while len(self.at_work) < self.workers and self.code == 0 and self.start_next():
                pass
            if not self.at_work:
                break
            for sentinel in wait(list(self.at_work)):
                self.ended(*self.at_work.pop(sentinel)[:-1])

    def start_next(self) -> bool:
        """Start the first run whose model is there; False if none can start."""
        busy = {job.folder for job in self.todo} | {job.folder for _, job, *_ in self.at_work.values()}
        job = next((job for job in self.todo if job.model not in busy), None)
        if job is None:
            return False
        self.todo.remove(job)
        if up_to_date(job):  # another call has run it in the meantime
            note_done(job)
            self.bar.update()
            return True
        if not self.several:
            announce(job)
        (job.folder / DONE).unlink(missing_ok=True)
        console = str(self.consoles / str(len(self.todo))) if self.several else None
        slot = min(set(range(self.workers)) - {at[-1] for at in self.at_work.values()})
        process = self.context.Process(target=work, args=(job.arguments, self.workers, slot, console))
        process.start()
        self.at_work[process.sentinel] = process, job, console, time.time(), slot
        return True

    def ended(self, process: multiprocessing.Process, job: Job, console: str | None, began: float) -> None:
        """Say how a run ended."""
        process.join()
        if process.exitcode != 0:
            self.code = self.code or (130 if process.exitcode == 130 else 1)
            tail = Path(console).read_text(errors="replace") if console and Path(console).exists() else ""
            died = f" (signal {-process.exitcode})" if process.exitcode < 0 else ""
            print(f"{last_words(tail)}\nFailed{died}: {job.folder}".lstrip(), file=sys.stderr)
            if process.exitcode == -signal.SIGKILL:  # nobody was left to say it
                fewer = "Fewer runs at once need less memory (JOBS). " if self.workers > 1 else ""
                print(f"Most likely the memory was used up. {fewer}{LESS_MEMORY}", file=sys.stderr)
            return
        if self.several:
            accuracy = ", ".join(f"{split} {value:.1f}%" for split, value in read_accuracies(job.folder).items())
            self.bar.write(f"{time.time() - began:4.0f} s  {accuracy}  {job.folder}", file=sys.stdout)
            sys.stdout.flush()
        self.bar.update()

    def stop(self) -> None:
        """After an interrupt, which the runs got too: wait for them; a second interrupt ends them at once."""
        processes = [process for process, *_ in self.at_work.values()]
        try:
            for process in processes:
                process.join()
        except KeyboardInterrupt:
            for process in processes:
                process.kill()
        print("Interrupted. The same command again goes on.", file=sys.stderr)


def last_words(console: str) -> str:
    """From a run's output: its error message if it has one, else the last lines."""
    lines = console.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("Error:")]
    return "\n".join(lines[errors[-1] :] if errors else lines[-20:])
