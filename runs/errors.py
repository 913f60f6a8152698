"""Which errors a command prints as one message, and which keep their traceback."""

import errno
import linecache
from collections.abc import Iterator
from pathlib import Path

from ..toolbox.dassl.errors import ExpectedError

ROOT = Path(__file__).resolve().parent.parent
LESS_MEMORY = (
    "Encode fewer prompts at once with TRAIN.TEXT_CHUNK (e.g. 64), use a smaller DATALOADER.TEST.BATCH_SIZE or PREC "
    "amp, or a smaller DATALOADER.TRAIN_X.BATCH_SIZE (which makes it another experiment). "
    "The same command goes on from the last checkpoint."
)
NO_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED")  # of the CPU, of CUDA, of its libraries
FULL = (errno.ENOSPC, errno.EDQUOT)
MORE_SPACE = "Make room, and the same command goes on from the last saved epoch."
# In these folders errors for the user are not marked yet; there, whatever a `raise` statement makes counts as one.
UNMARKED = ("clip", "datasets", "trainers")
KINDS = (ValueError, KeyError, RuntimeError, TypeError, ImportError, FloatingPointError)


def raised_in_unmarked(error: BaseException) -> bool:
    """Whether a `raise` statement in one of the `UNMARKED` folders made the error."""
    if not isinstance(error, KINDS) or error.__traceback__ is None:
        return False
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = Path(trace.tb_frame.f_code.co_filename).resolve()
    ours = file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in UNMARKED
    return ours and linecache.getline(str(file), trace.tb_lineno).lstrip().startswith("raise ")


def deliberate(error: BaseException) -> bool:
    """Whether the error's message is for the user (`toolbox.dassl.errors.ExpectedError`, or see `UNMARKED`).

    Anything else, such as a KeyError from a lookup or an error from inside torch, is a fault whose traceback is needed.
    """
    return isinstance(error, ExpectedError) or raised_in_unmarked(error)


def out_of_memory(error: BaseException) -> bool:
    """Whether the CPU or the GPU ran out of memory (torch has an own class only for the GPU)."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY))
    )


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, what that was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def disk_full(error: BaseException) -> bool:
    """Whether a disk without room, or a used up quota, is at the bottom of an error."""
    return any(isinstance(cause, OSError) and cause.errno in FULL for cause in chain(error))


def explain(error: BaseException) -> str | None:
    """The message to print for an expected error, None for an unexpected one.

    Expected are: errors that this project raises on purpose (a config that cannot run, missing data, a checkpoint of
    another method), every OSError (an unreadable image, a full disk, a folder without permission), lack of memory.
    """
    if out_of_memory(error):
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"Out of memory ({first}).\n{LESS_MEMORY}"
    if disk_full(error):
        return f"The disk is full ({error}).\n{MORE_SPACE}"
    if isinstance(error, OSError) or deliberate(error):
        text = error.args[0] if isinstance(error, KeyError) and error.args else error  # a KeyError's str() has quotes
        return str(text) or type(error).__name__
    return None
