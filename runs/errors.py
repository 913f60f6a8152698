"""Which errors a command prints as one message, and which keep their traceback."""

import linecache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LESS_MEMORY = (
    "Encode fewer prompts at once with TRAIN.TEXT_CHUNK (e.g. 64), use a smaller DATALOADER.TEST.BATCH_SIZE or PREC "
    "amp, or a smaller DATALOADER.TRAIN_X.BATCH_SIZE (which makes it another experiment). "
    "The same command goes on from the last checkpoint."
)
NO_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED")  # of the CPU, of CUDA, of its libraries
KINDS = (ValueError, KeyError, RuntimeError, TypeError, ImportError, FloatingPointError)


def innermost(error: BaseException) -> tuple[str, int]:
    """File and line number of the statement that raised `error`."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno


def deliberate(error: BaseException) -> bool:
    """Whether a `raise` statement of this project (or of its toolbox) made the error, with a message for the user.

    Anything else, such as a KeyError from a lookup or an error from inside torch, is a fault whose traceback is needed.
    """
    if not isinstance(error, KINDS) or error.__traceback__ is None:
        return False
    file, line = innermost(error)
    path = Path(file).resolve()
    ours = path.is_relative_to(ROOT) and "site-packages" not in path.relative_to(ROOT).parts  # a .venv in the checkout
    return ours and linecache.getline(file, line).lstrip().startswith("raise ")


def out_of_memory(error: BaseException) -> bool:
    """Whether the CPU or the GPU ran out of memory (torch has an own class only for the GPU)."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY))
    )


def explain(error: BaseException) -> str | None:
    """The message to print for an expected error, None for an unexpected one.

    Expected are: errors that this project raises on purpose (a config that cannot run, missing data, a checkpoint of
    another method), every OSError (an unreadable image, a full disk, a folder without permission), lack of memory.
    """
    if out_of_memory(error):
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"Out of memory ({first}).\n{LESS_MEMORY}"
    if isinstance(error, KeyError) and deliberate(error):
        return str(error.args[0])  # str() of a KeyError is the repr of its message
    if isinstance(error, OSError) or deliberate(error):
        return str(error) or type(error).__name__
    return None
