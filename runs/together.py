"""One run on several processes, seen from one of them; nothing here imports torch in a process that is alone.

The processes are started by `launch` (`mocoop train --gpus N`) or by torchrun. The first of them prints, logs, locks
and writes. When one fails, it says why, and all others end without a word.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yacs.config import CfgNode

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def together() -> bool:
    """Whether this process is one of several that torchrun or `launch` has started."""
    return all(name in os.environ for name in TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1


def wrong_environment() -> str:
    """What is wrong with the environment if it says that this process is one of several, but not so that they can meet.

    They would wait for each other without end, or each do the whole run.
    """
    given = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE") if name in os.environ}
    if len(given) < 2 or given["WORLD_SIZE"] == "1":
        return ""
    shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
    if not all(value.isascii() and value.isdigit() for value in given.values()):
        return f"{shown}: expected whole numbers, as torchrun sets them; start with torchrun, or unset both"
    rank, size = map(int, given.values())
    if rank >= size:
        return f"{shown}: expected a RANK from 0 to {size - 1}; start with torchrun, or unset both"
    if lacking := [name for name in TORCHRUN if name not in os.environ]:
        said = f"{shown} say that this is one of {size} processes, but {', '.join(lacking)} are not set"
        return f"{said}; start with torchrun or --gpus {size}, or unset both"
    return ""


def is_first() -> bool:
    """Whether this process prints, logs, locks and writes."""
    return not together() or os.environ["RANK"] == "0"


@contextmanager
def quiet() -> Iterator[None]:
    """Meet the other processes, if there are any; of all, only the first shows what is printed from now on."""
    if together():
        from ..trainers import ranks

        ranks.meet()
    if is_first():
        yield
        return
    shown = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = sys.stderr = nowhere
        try:
            yield
        finally:
            sys.stdout, sys.stderr = shown


def has_the_word(error: BaseException) -> bool:
    """Whether this process is the one to say why its run ends; alone it always is."""
    if not together():
        return True
    from ..trainers import ranks

    if isinstance(error, ranks.RankLost) and ranks.STORE in os.environ:
        return False  # `launch` knows which process ended, and how
    return ranks.first_to_say()


@contextmanager
def joined(cfg: CfgNode) -> Iterator[None]:
    """Be one of the processes of this run, until it is over; nothing alone.

    Args:
        cfg: of the run, frozen; where this is not the first, it is changed to write nothing.
    """
    if not together():
        yield
        return
    import torch

    from ..trainers import memory, ranks

    gpus = cfg.USE_CUDA and torch.cuda.is_available()
    if not gpus:  # the machine's memory is that of all of them
        beside = int(os.environ["LOCAL_WORLD_SIZE"]) * int(os.environ.get(memory.RUNS_AT_ONCE, 1))
        os.environ[memory.RUNS_AT_ONCE] = str(beside)
    if not is_first():
        cfg.defrost()
        cfg.TEST.COMPUTE_CMAT = False
        cfg.freeze()
    ranks.join(gpus)
    yield
    ranks.leave()  # (not after an error: who is left behind must notice at once)


@contextmanager
def claimed(cfg: CfgNode, defaults: CfgNode) -> Iterator[Path]:
    """The run's folder, claimed by the first process (see `folder.claim`); the others wait until it is."""
    from . import folder

    if not together():
        with folder.claim(cfg, defaults) as claimed:
            yield claimed
        return
    from ..trainers import ranks

    if not is_first():
        ranks.here().wait()
        yield Path(cfg.OUTPUT_DIR)
        return
    with folder.claim(cfg, defaults) as claimed:
        ranks.here().wait()
        yield claimed
