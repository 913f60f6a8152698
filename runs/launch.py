"""One run on several processes of this machine, started and watched by one that says how it ended.

torchrun does the same, but has a report of its own, of many lines, when a process fails.
"""

import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from ..config import ConfigError
from ..toolbox.dassl.utils import cores
from .folder import how_to_continue
from .pool import end_with_parent, preload
from .together import TORCHRUN

AT_A_CORE = 8  # processes that may share a core, where there is no GPU
GRACE = 10.0  # seconds that the others have to end by themselves once one has failed
Main = Callable[[Sequence[str]], int]  # the arguments of train.py -> exit code


def on_gpus(count: int, use_cuda: bool) -> bool:
    """Whether each of so many processes has a GPU; if not, they share the CPU, and a line says so.

    Raises:
        ConfigError: there are some GPUs, but fewer; or there is none, and the processes are far more than cores.
    """
    import torch

    found = torch.cuda.device_count() if use_cuda else 0
    if 0 < found < count:
        raise ConfigError([f"--gpus {count}: this machine has {found}; give a smaller number"])
    most = AT_A_CORE * cores()
    if found == 0 and count > most:
        raise ConfigError(
            [f"--gpus {count}: no GPU is used, and this machine has {cores()} cores; give at most {most}"]
        )
    if found == 0:
        print(f"Note: no GPU is used; {count} processes share the CPU")
    return found > 0


def launch(main: Main, argv: Sequence[str], count: int, folder: Path, use_cuda: bool) -> int:
    """Run a command line of train.py in several processes.

    Args:
        main, argv: of train.py.
        count: processes; folder: that the run goes on from; use_cuda: USE_CUDA of its config.

    Returns:
        Exit code: 0, or that of the process that failed first (1 if it was killed).

    Raises:
        ConfigError: there are fewer GPUs.
    """
    from ..trainers.ranks import first_to_say

    gpus = on_gpus(count, use_cuda)
    fork = sys.platform.startswith("linux") and not gpus  # (CUDA does not live through a fork)
    context = multiprocessing.get_context("fork" if fork else "spawn")
    if fork:
        preload()
    with tempfile.TemporaryDirectory() as meeting:
        store = str(Path(meeting) / "store")
        started = [
            context.Process(target=one_of_several, args=(main, list(argv), rank, count, store)) for rank in range(count)
        ]
        try:
            for process in started:
                process.start()
            failed = wait_for(started)
        except KeyboardInterrupt:  # they got it too
            end(started)
            return 130
        if failed is None:
            return 0
        end(started)
        code = started[failed].exitcode
        if first_to_say(store):
            print(f"\nError: {how_it_ended(failed, count, code)}\n{how_to_continue(folder)}", file=sys.stderr)
    return code if code > 0 else 1


def one_of_several(main: Main, argv: Sequence[str], rank: int, count: int, store: str) -> None:
    """In one of the processes: what torchrun would set, then the command line."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    where = dict(zip(TORCHRUN, (rank, rank, count, count, "localhost", 0), strict=True))
    os.environ.update({name: str(value) for name, value in where.items()}, MOCOOP_STORE=store)
    if sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever this machine's name stands for
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, cores() // count))
    sys.exit(main(argv))


def wait_for(started: Sequence[multiprocessing.Process]) -> int | None:
    """Wait until all processes have ended well, or until one has failed: its number.

    Of several that have failed by then it is one that was killed: the others end because of it.
    """
    left = {process.sentinel: process for process in started}
    while left:
        ended = [left.pop(sentinel) for sentinel in wait(list(left))]
        for process in ended:
            process.join()
        failed = [process for process in ended if process.exitcode != 0]
        if failed:
            return started.index(min(failed, key=lambda process: process.exitcode))
    return None


def end(started: Sequence[multiprocessing.Process]) -> None:
    """Let processes end by themselves, as those do that wait for one that has ended; the others are ended."""
    for stop in (lambda process: None, multiprocessing.Process.terminate, multiprocessing.Process.kill):
        left = [process for process in started if process.is_alive()]
        for process in left:
            stop(process)
        for process in left:
            process.join(GRACE / len(left))


def how_it_ended(rank: int, count: int, code: int) -> str:
    """Which process of a run ended, and what that most likely means."""
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    memory = " Most likely the memory was used up; TRAIN.TEXT_CHUNK (e.g. 64) needs less." if code == -9 else ""
    return f"process {rank + 1} of the {count} of this run {how}, and the run with it.{memory}"
