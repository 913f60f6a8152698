"""The files in a run's folder whose names come from Dassl, and what the names say. Imports no torch.

A folder holds the log and, for every registered model, a folder of checkpoints with a file that names the last of them.
"""

import os
import re

LOG = "log.txt"
DONE = "DONE"  # (not in Dassl) marks a finished run: its log is not continued
LAST = "checkpoint"  # names the checkpoint saved last
BEST = "model-best.pth.tar"
NUMBERED = "model.pth.tar"  # and its epoch
ROLLING = "model-rolling.pth.tar"  # and its epoch; kept between the checkpoints that were asked for, gone in the end


def numbered(epoch: int | str) -> str:
    """The name of the checkpoint after so many epochs."""
    return f"{NUMBERED}-{epoch}"


def rolling(epoch: int | str) -> str:
    """The name of the checkpoint after so many epochs that is replaced by the next."""
    return f"{ROLLING}-{epoch}"


def epoch_of(name: str) -> int | None:
    """After how many epochs a checkpoint of this name was saved; None if it does not say."""
    found = re.fullmatch(rf"({re.escape(NUMBERED)}|{re.escape(ROLLING)})-([0-9]+)", name)
    return int(found[2]) if found else None


def saved_epochs(folder: str | os.PathLike) -> list[int]:
    """The epochs of the numbered checkpoints in a model's folder, in order; none if there is no such folder."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(epoch_of(name) for name in names if name.startswith(f"{NUMBERED}-") and epoch_of(name) is not None)
