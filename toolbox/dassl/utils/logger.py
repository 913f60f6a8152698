"""Copy what is printed to a log file."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ..files import DONE, LOG
from .tools import check_writable

URGENT = ("Note", "Warning")  # what lines begin with that are shown beside a progress bar, too


class Logger:
    """A stand-in for `sys.stdout` that writes to the console and to a file, line by line.

    Unlike Dassl's it never closes the console, does not nest, and passes on everything else a stream can do. While it
    is `brief` (see the function of that name) the console shows only notes and warnings.

    Args:
        fpath: the log file, appended to; None for no file.
        console: where lines go besides; default the current `sys.stdout` (of a `Logger`, the console behind it).
    """

    def __init__(self, fpath: str | os.PathLike | None = None, console: TextIO | None = None) -> None:
        console = sys.stdout if console is None else console
        self.console = console.console if isinstance(console, Logger) else console
        self.file = None
        self.brief, self._line = False, ""
        if fpath is not None:
            check_writable(os.path.dirname(fpath))
            self.file = open(fpath, "a", buffering=1, encoding="utf-8")  # by line: a killed job keeps its tail

    def write(self, message: str) -> int:
        """Write to the console and the file; returns the number of characters, as a stream does.

        Raises:
            OSError: naming the file, if it cannot be written to; from then on only the console is.
        """
        if self.brief:
            self._show_urgent(message)
        else:
            self.console.write(message)
        self.write_file(message)
        return len(message)

    def write_file(self, message: str) -> None:
        """Write to the file only; errors as in `write`."""
        self._to_file("write", message)

    def _show_urgent(self, message: str) -> None:
        """Show whole lines that are notes or warnings, above the progress bars there may be."""
        from tqdm import tqdm

        *lines, self._line = (self._line + message).split("\n")
        for line in lines:
            if line.startswith(URGENT):
                tqdm.write(line, file=self.console)

    def flush(self) -> None:
        """Flush both; errors as in `write`."""
        self.console.flush()
        self._to_file("flush")

    def _to_file(self, action: str, *args: str) -> None:
        if self.file is None:
            return
        try:
            getattr(self.file, action)(*args)
        except OSError as error:
            file, self.file = self.file, None
            with suppress(OSError):  # what it still holds cannot be written either; at exit it would fail once more
                file.close()
            raise OSError(error.errno, f"Cannot write the log: {error.strerror}", file.name) from error

    def close(self) -> None:
        """Close the file; the console stays open."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:  # isatty, fileno, encoding, buffer, ...
        if name == "console":  # only while unpickling or half built; anything else would recurse
            raise AttributeError(name)
        return getattr(self.console, name)


@contextmanager
def brief() -> Iterator[None]:
    """While this lasts, a terminal shows only notes and warnings of what is printed; the log file gets everything.

    For parts of a run that have a progress bar. Without a `Logger`, or where its console is not a terminal, everything
    is printed as usual.
    """
    logger = sys.stdout
    ours = getattr(logger, "brief", None) is False  # neither Dassl's logger, nor brief already
    if not ours or logger.file is None or not logger.isatty():
        yield
        return
    logger.brief = True
    try:
        yield
    finally:
        logger.brief, logger._line = False, ""


def print_above_bars(line: str) -> None:
    """Print a line; if the console shows it, above the progress bars there may be."""
    if getattr(sys.stdout, "brief", False):
        print(line)
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stdout):
        print(line)


def setup_logger(output: str | os.PathLike | None = None) -> None:
    """Log everything printed from now on to a file as well; a second call changes the file.

    Args:
        output: a folder (the file is `log.txt` in it), a path ending in .txt or .log, or None for nothing. If the file
            exists and its folder holds no `DONE`, the run was interrupted: the log is continued after a line that says
            so, and parsers of `log.txt` see one log. (Dassl starts `log.txt-<time>`, which they overlook.) With `DONE`,
            a file with the time as suffix is begun; nothing is ever overwritten.

    Raises:
        OSError: naming the folder, if it cannot be written to.
    """
    if output is None:
        return
    fpath = os.fspath(output)
    if not fpath.endswith((".txt", ".log")):
        fpath = os.path.join(fpath, LOG)
    resumed = os.path.exists(fpath)
    if resumed and os.path.exists(os.path.join(os.path.dirname(fpath), DONE)):
        fpath, resumed = f"{fpath}-{time.strftime('%Y-%m-%d-%H-%M-%S')}", False
    logger = Logger(fpath)
    if resumed:
        logger.write_file(f"\n{'-' * 20} resumed {time.strftime('%Y-%m-%d %H:%M:%S')} {'-' * 20}\n")
    if isinstance(sys.stdout, Logger):
        sys.stdout.close()
    sys.stdout = logger
