"""How far a sweep is, and what the rest will cost by runs that were measured already. Nothing here imports torch."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from ..toolbox.dassl.files import DONE, LOG
from ..toolbox.dassl.utils import read_json
from ..trainers.records import ENVIRONMENT, read_epochs
from .board import progress_of, tail_of
from .folder import read_failure
from .layout import Setting, find_runs, read_path
from .owner import described, is_at_work, read_owner
from .pool import Job, unfinished
from .sweeps import Item

STATES = ("done", "running", "waiting", "failed")


@dataclass(frozen=True)
class State:
    """How an item is.

    Attributes:
        item: which.
        name: one of STATES.
        left: its runs that are not done.
        text: where it is, or why it failed; "" if there is nothing to say.
    """

    item: Item
    name: str
    left: tuple[Job, ...]
    text: str = ""


def state_of(item: Item) -> State:
    """How an item is, from the folders of its runs."""
    left = tuple(unfinished(item.jobs))
    if not left:
        return State(item, "done", left)
    for job in left:
        if is_at_work(job.folder):
            return State(item, "running", left, f"{where(job.folder)}, {described(read_owner(job.folder) or {})}")
    for job in left:
        reason = read_failure(job.folder)
        if reason is not None:
            return State(item, "failed", left, f"{job.folder}\n{reason}")
    begun = next((job.folder for job in left if (job.folder / LOG).exists()), None)
    text = f"stopped at {where(begun)}; goes on from its last checkpoint" if begun else ""
    return State(item, "waiting", left, text)


def where(folder: Path) -> str:
    """Where a run is, by its log."""
    return " ".join(progress_of(tail_of(folder / LOG))[1].split())


def last_lines(folder: Path, most: int = 3) -> list[str]:
    """The last lines of a run's log that are not empty."""
    return [line for line in tail_of(folder / LOG).splitlines() if line.strip()][-most:]


def report(states: Sequence[State], output: Path) -> list[str]:
    """The lines that `--status` prints.

    Args:
        states: of the sweep's items; output: the folder of all runs.
    """
    counts = Counter(state.name for state in states)
    lines = [f"{len(states)} items: " + ", ".join(f"{counts[name]} {name}" for name in STATES)]
    lines += shares(states, output)
    for state in states:
        if state.name == "running":
            lines += [f"running  {state.item.name}: {state.text}"]
        elif state.name == "waiting" and state.text:
            lines += [f"waiting  {state.item.name}: {state.text}"]
    for state in (state for state in states if state.name == "failed"):
        folder, _, reason = state.text.partition("\n")
        log = last_lines(Path(folder))
        lines += [f"failed   {state.item.name}", *indented([folder, *reason.splitlines()])]
        lines += indented(["last lines of its log:", *log]) if log else []
    return lines


def indented(lines: Iterable[str]) -> list[str]:
    """Lines below another."""
    return [f"         {line}" for line in lines]


def shares(states: Sequence[State], output: Path) -> list[str]:
    """A line for each method: how many of its runs are done."""
    total, left = Counter(), Counter()
    for state in states:
        method = state.item.method(output)
        total[method] += len(state.item.jobs)
        left[method] += len(state.left)
    width = max(map(len, total), default=0)
    return [
        f"  {method:{width}}  {runs - left[method]:4} of {runs:4} runs done ({(runs - left[method]) / runs:4.0%})"
        for method, runs in total.items()
    ]


# ---- cost


def seconds_of(folder: Path) -> float | None:
    """What a finished run took, None if that cannot be told.

    A run that was stopped and went on has only its last part in DONE, but all of its epochs in its records.
    """
    try:
        last = float(json.loads((folder / DONE).read_text(encoding="utf-8"))["seconds"])
        return max(last, sum(float(line.get("seconds", 0)) for line in read_epochs(folder)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def device_of(folder: Path) -> str:
    """What a run was computed on."""
    try:
        return str(read_json(folder / ENVIRONMENT)["device"])
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown device"


def measured(output: Path) -> tuple[dict[Setting, list[float]], set[str]]:
    """Setting -> seconds of its finished runs (one for each seed), and the devices they ran on."""
    found, devices = defaultdict(list), set()
    for setting, _, folder in find_runs(output):
        seconds = seconds_of(Path(folder))
        if seconds is not None:
            found[setting].append(seconds)
            devices.add(device_of(Path(folder)))
    return found, devices


def estimate(items: Sequence[Item], output: Path) -> list[str]:
    """The lines that `--dry-run` prints: what is left, and what it costs as far as runs like it were measured.

    Args:
        items: of the sweep; output: the folder of all runs.
    """
    left = [job for item in items for job in unfinished(item.jobs)]
    waiting = sum(bool(unfinished(item.jobs)) for item in items)
    total = sum(len(item.jobs) for item in items)
    lines = [f"{len(items)} items, {total} runs; to be done: {waiting} items, {len(left)} runs"]
    known, devices = measured(output)
    settings = [read_path(job.folder.relative_to(output))[0] for job in left]
    costs = [mean(known[setting]) for setting in settings if setting in known]
    if costs:
        lines.append(
            f"{len(costs)} of these were measured with another seed (on {', '.join(sorted(devices))}): "
            f"{duration(sum(costs))} one after the other, divided by how many go at once"
        )
    unknown = [setting for setting in settings if setting not in known]
    if unknown:
        lines.append(f"{len(unknown)} were not measured, so there is no estimate for them; for one, run one seed of:")
        lines += [f"  {setting}" for setting in dict.fromkeys(unknown)][:10]
    more = len(dict.fromkeys(unknown)) - 10
    return lines + ([f"  and {more} more kinds"] if more > 0 else [])


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
