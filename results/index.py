"""A cache of what finished runs wrote, so that an output folder with very many runs is read again in seconds.

It is only a cache: one line per run whose files were whole, in `.results_index.jsonl` of the output folder, with the
state of the files that it was read from (time of change, size, number). A run whose files have another state is read
anew; an index that is damaged, of another version or not writable is done without. Deleting it loses nothing.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from ..toolbox.dassl.utils import atomic_write
from ..trainers.records import CONFIG, RESULTS
from .records import are_numbers

INDEX = ".results_index.jsonl"
HEAD = {"mocoop results index": 1}
FEWEST = 1000  # runs; fewer are read in less than a second
# A file that changes again within the tick of the file system's clock keeps its time: too new ones are not indexed.
SETTLED = 2.0  # seconds
MOST_BYTES = 2**31


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index knows of a run.

    Attributes:
        state: see `state_of`.
        seed: that its config states, None if it states none.
        digest: of its config without what differs from seed to seed, "" if it has no config.
        metrics: {split: {metric: number}}; routed: whether there are routing records.
    """

    state: list
    seed: int | None
    digest: str
    metrics: dict[str, dict[str, float]]
    routed: bool


def state_of(folder: str) -> list | None:
    """The state of the two files of a run: their times of change [ns], sizes [bytes] and numbers.

    Returns:
        None if there is none of the second, or a time so new that the file may change unseen.
    """
    state = []
    for name in (CONFIG, RESULTS):
        try:
            found = os.stat(f"{folder}/{name}")
        except OSError:
            if name == RESULTS:
                return None
            state += [0, -1, 0]
            continue
        state += [found.st_mtime_ns, found.st_size, found.st_ino]
    newest = max(state[0], state[3]) / 1e9
    return state if abs(time.time() - newest) > SETTLED else None


class Index:
    """The entries of an output folder: looked up, added to, and written back if there is anything new.

    Args:
        output: the folder.
        runs: how many runs it holds; with fewer than `FEWEST` nothing is read or written.
    """

    def __init__(self, output: Path, runs: int):
        self.path = output / INDEX
        self.used = runs >= FEWEST
        self.old = read_index(self.path) if self.used else {}
        self.new: dict[str, Entry] = {}
        self._below = len(str(output)) + 1

    def get(self, folder: str) -> Entry | None:
        """The entry of a run folder (below the output folder), None if there is none of its files' present state."""
        entry = self.old.get(folder[self._below :]) if self.used else None
        if entry is None or entry.state != state_of(folder):
            return None
        self.new[folder[self._below :]] = entry
        return entry

    def add(self, folder: str, state: list | None, entry: Entry) -> None:
        """Remember a run; `state`: as it was before its files were read, None = it is not to be remembered."""
        if self.used and state is not None:
            self.new[folder[self._below :]] = entry

    def save(self, whole: bool) -> None:
        """Write the index if there is news. One that cannot be written is done without: it is only a cache.

        Args:
            whole: whether all runs of the folder were asked for; entries of others are then of runs that are gone.
        """
        entries = self.new if whole else {**self.old, **self.new}
        if not self.used or entries == self.old:
            return
        try:
            with atomic_write(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.write(json.dumps(HEAD) + "\n")
                for folder, e in entries.items():
                    row = [folder, e.state, e.seed, e.digest, e.metrics, e.routed]
                    file.write(json.dumps(row, separators=(",", ":")) + "\n")
        except OSError:
            return


def read_index(path: Path) -> dict[str, Entry]:
    """The entries of an index file by run folder; none if it is absent, damaged, or of another version."""
    entries: dict[str, Entry] = {}
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return {}
        with open(path, encoding="utf-8") as file:
            if json.loads(next(file, "null")) != HEAD:
                return {}
            for line in file:
                folder, *rest = json.loads(line)
                entries[folder] = Entry(*rest)
                if not is_entry(folder, entries[folder]):
                    return {}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
    return entries


def is_entry(folder: object, entry: Entry) -> bool:
    """Whether what a line of the index says has the right types."""
    return (
        isinstance(folder, str)
        and isinstance(entry.state, list)
        and isinstance(entry.seed, int | None)
        and isinstance(entry.digest, str)
        and isinstance(entry.routed, bool)
        and isinstance(entry.metrics, dict)
        and all(isinstance(part, dict) for part in entry.metrics.values())
        and all(are_numbers([*part.values()]) for part in entry.metrics.values())
    )
