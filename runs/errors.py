"""Which errors a command prints as one message, and which keep their traceback."""

import errno
from collections.abc import Iterator

from ..toolbox.dassl.errors import ExpectedError

LESS_MEMORY = (
    "Encode fewer prompts at once with TRAIN.TEXT_CHUNK (e.g. 64), use a smaller DATALOADER.TEST.BATCH_SIZE or PREC "
    "amp, or a smaller DATALOADER.TRAIN_X.BATCH_SIZE (which makes it another experiment). "
    "The same command goes on from the last checkpoint."
)
NO_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED")  # of the CPU, of CUDA, of its libraries
FULL = (errno.ENOSPC, errno.EDQUOT)
MORE_SPACE = "Make room, and the same command goes on from what was saved last."


def out_of_memory(error: BaseException) -> bool:
    """Whether the CPU or the GPU ran out of memory (torch has an own class only for the GPU)."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY))
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, what that was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def disk_full(error: BaseException) -> bool:
    """Whether a full disk, or an exhausted quota, is a cause of an error."""
    return any(isinstance(cause, OSError) and cause.errno in FULL for cause in causes(error))


def explain(error: BaseException, when_full: str = MORE_SPACE, less_memory: str = LESS_MEMORY) -> str | None:
    """The message to print for an expected error, None for an unexpected one.

    Args:
        error: what was raised.
        when_full, less_memory: what to do if the disk is full, and if the memory is used up.

    Expected are: every `ExpectedError` (a config that cannot run, data with faults, a checkpoint of another method),
    every OSError (an unreadable image, a full disk, a folder without permission), lack of memory. Anything else, such
    as a KeyError from a lookup or an error from inside torch, is a fault whose traceback is needed.
    """
    if out_of_memory(error):
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"Out of memory ({first}).\n{less_memory}"
    if disk_full(error):
        return f"The disk is full ({error}).\n{when_full}"
    if isinstance(error, OSError | ExpectedError):
        return str(error) or type(error).__name__
    return None
