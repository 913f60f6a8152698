"""What a terminal shows while several runs are at work: a bar over all of them, and a line for each running one."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

# What CoOp and Dassl print of a run: how far an epoch is; that training is over, or the test begins.
STEP = re.compile(r"^epoch \[([0-9]+)/([0-9]+)\] batch \[([0-9]+)/([0-9]+)\]", re.M)
TESTS = re.compile(r"^(Finish training|Evaluate on the \*test\* set)", re.M)
BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


def progress_of(output: str) -> tuple[float, str]:
    """How far a run is.

    Args:
        output: the end of what it has printed.

    Returns:
        The fraction of its training that is done (0 to 1), and its present state in words.
    """
    fraction, state = 0.0, "starting"
    steps = list(STEP.finditer(output))
    if steps:
        epoch, epochs, batch, batches = map(int, steps[-1].groups())
        fraction = (epoch - 1 + batch / batches) / epochs
        state = f"epoch {epoch}/{epochs}  {fraction:4.0%}"
    if TESTS.search(output, steps[-1].end() if steps else 0):
        state = "testing"
    return fraction, state


def tail_of(path: Path, size: int = 4096) -> str:
    """The last bytes of a text file that is being written; empty if it is not there (yet)."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


class Board:
    """The bar and the lines.

    Args:
        total: number of runs.
        places: how many of them go at once.
        wanted: show them if there is a terminal; else they are never shown, and only `say` prints.

    Attributes:
        done: number of runs that are over, to be counted up by the caller.
        shown: whether there is a terminal to show them on.
    """

    def __init__(self, total: int, places: int, wanted: bool):
        look = {"disable": None if wanted else True, "dynamic_ncols": True}
        self.total, self.done = total, 0
        self.bar = tqdm(total=total, desc=f"0 of {total} runs", bar_format=BAR, **look)
        self.lines = [tqdm(bar_format="{desc}", position=place + 1, leave=False, **look) for place in range(places)]
        self.shown = not self.bar.disable

    def update(self, running: Mapping[int, tuple[str, Path]]) -> None:
        """Show what is running now.

        Args:
            running: place -> name of a run, and the file that it prints to.
        """
        if not self.shown:
            return
        width = max((len(name) for name, _ in running.values()), default=0)
        part = 0.0
        for place, line in enumerate(self.lines):
            text = ""
            if place in running:
                name, console = running[place]
                fraction, state = progress_of(tail_of(console))
                text, part = f"  {name:{width}}  {state}", part + fraction
            line.set_description_str(text)
        self.bar.n = self.done + part
        self.bar.set_description_str(f"{self.done} of {self.total} runs")

    def say(self, line: str, error: bool = False) -> None:
        """Print a line above the board."""
        tqdm.write(line, file=sys.stderr if error else sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Take the lines away and leave the bar as it is."""
        for bar in (*self.lines, self.bar):
            bar.close()
