"""Runs from an output folder: which are finished, what they reached, and what is wrong with them.

Numbers come from `results.json` at full precision, never from logs. Nothing is silently dropped: unfinished runs become
notes; damaged and mixed ones become problems.
"""

import math
import re
import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path

from ..config import ConfigError, parse_yaml
from ..config.merge import shown
from ..runs.folder import differing, is_finished
from ..runs.layout import Setting, expected, find_runs
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import printable, read_json, unreadable
from ..trainers.records import CONFIG, RESULTS
from .csv_file import read_csv
from .records import Results, Run, select_dataset

STATED_SEED = re.compile(r"SEED: (-?\d+)\s*$", re.MULTILINE)
OWN_KEYS = ("SEED", "OUTPUT_DIR", "RESUME")  # of a config; they differ from run to run


def collect(output: str | Path, dataset: str | None = None, split: str = "test") -> Results:
    """Read an output folder, or a CSV file that `--out` wrote.

    Args:
        output: the folder that holds `base2new/`, `fewshot/`, ..., or a file.
        dataset: only this data set, and what was trained on it; None = all.
        split: the split whose accuracy counts.

    Raises:
        ValueError: there is no run (or the file is not such a CSV).
        FileNotFoundError: neither folder nor file.
    """
    output = Path(output)
    if output.is_file():
        return read_csv(output, dataset, split)
    found = select_dataset(find_runs(output), dataset)
    if not found:
        raise WrongValue(f"no runs found; expected folders {expected(output, dataset)}")
    below = len(str(output))  # what is above the output folder is not shown
    good, refused = [], []
    for run in found:
        (refused if unreadable(str(run[2])[below:]) else good).append(run)
    results = read_runs(good, split)
    if refused:
        results.damaged.setdefault(refused[0][0], []).append(strange_names([folder for *_, folder in refused]))
    return results


def strange_names(folders: Sequence[Path]) -> str:
    """The problem with run folders whose names a table could not show, or LaTeX would take for more than a name."""
    names = ", ".join(printable(str(folder)) for folder in folders[:10])
    return f"{len(folders)} run folders have control characters in their names and are left out: {names}; rename them"


def read_runs(found: Sequence[tuple[Setting, int, Path]], split: str) -> Results:
    """Read the run folders that `find_runs` found, in its order."""
    runs, seen, notes, damaged, problems = [], {}, {}, {}, {}
    for setting, group in groupby(found, key=itemgetter(0)):
        folders = [(seed, folder, read_config(folder)) for _, seed, folder in group]
        seen[setting] = {seed for seed, *_ in folders}
        if wrong := check_seeds(folders) + check_one_config(folders):
            problems[setting] = wrong
        for seed, folder, _ in folders:
            if not is_finished(folder):
                notes.setdefault(setting, []).append(f"unfinished: {folder}")
                continue
            try:
                metrics, routed = read_record(folder, split)
            except ValueError as error:
                damaged.setdefault(setting, []).append(str(error))
                continue
            runs.append(Run(setting, seed, folder, metrics, partial(read_routing, folder) if routed else dict))
    return Results(runs, split, seen, notes, problems, damaged)


def read_routing(folder: Path) -> dict[str, dict]:
    """MoCoOp's routing records by split, from the `results.json` of a run that `read_record` has found good."""
    record = read_json(folder / RESULTS)
    return {name: part["routing"] for name, part in record.items() if isinstance(part, dict) and "routing" in part}


def read_record(folder: Path, split: str) -> tuple[dict[str, dict[str, float]], bool]:
    """What a finished run wrote into `results.json`: numbers by split, and whether it has routing records.

    Raises:
        ValueError: the file is absent, half-written, or lacks the split's accuracy; the message names the file.
    """
    path = folder / RESULTS
    try:
        record = read_json(path)
        accuracy = record[split]["accuracy"]
    except FileNotFoundError:
        raise WrongValue(f"{path} does not exist, though the run says it is finished; delete {folder}") from None
    except (ValueError, TypeError, OSError) as error:
        raise WrongValue(f"{path} is half-written or damaged ({error}); delete {folder} and run it again") from None
    except KeyError as error:
        raise WrongValue(f"{path} has no entry {error} (split {split!r})") from None
    if not is_number(accuracy) or not 0 <= accuracy <= 100:
        raise WrongValue(f"{path}: the accuracy of split {split!r} is {shown(accuracy)}, expected a number in percent")
    parts = {name: part for name, part in record.items() if isinstance(part, dict)}
    metrics = {name: {key: value for key, value in part.items() if is_number(value)} for name, part in parts.items()}
    routed = [name for name, part in parts.items() if "routing" in part]
    for name in routed:
        if not is_routing(parts[name]["routing"]):
            raise WrongValue(f"{path}: the routing of split {name!r} is damaged; delete {folder} and run it again")
    return metrics, bool(routed)


def is_routing(part: object) -> bool:
    """Whether a value is MoCoOp's record of routing: experts, their shares [G], and those by class [C][G] if there."""
    if not isinstance(part, dict) or not is_names(part.get("experts")) or not part["experts"]:
        return False
    by_class = part.get("by_class") or []
    names = part.get("classnames") or [""] * len(by_class) if isinstance(by_class, list) else None
    if not is_names(names) or len(names) != len(by_class):
        return False
    rows = [part.get("share"), *by_class]
    whole = all(isinstance(row, list) and len(row) == len(part["experts"]) for row in rows)
    return whole and are_numbers([*chain.from_iterable(rows)])


def is_names(value: object) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a finite number that floats hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def are_numbers(values: list) -> bool:
    """`is_number` for all values of a list, fast: there may be millions."""
    try:
        return {*map(type, values)} <= {int, float} and all(map(math.isfinite, values))
    except OverflowError:  # a whole number that no float holds
        return False


def check_seeds(folders: Sequence[tuple[int, Path, str | None]]) -> list[str]:
    """Problems if two folders of one setting hold the same seed, or a folder holds another seed than its name says.

    Args:
        folders: seed by the folder's name, folder, text of its config.
    """
    first, problems = {}, []
    for seed, folder, text in folders:
        actual = stated_seed(text or "", seed)
        if actual in first:
            problems.append(f"seed {actual} is there twice: {first[actual]} and {folder}; delete one")
        elif actual != seed:
            problems.append(f"{folder} holds a run of seed {actual} ({CONFIG}); give the folder its name, or delete it")
        first.setdefault(actual, folder)
    return problems


def stated_seed(text: str, otherwise: int) -> int:
    """The seed that the text of a config states."""
    start = 0 if text.startswith("SEED: ") else text.find("\nSEED: ") + 1
    stated = STATED_SEED.match(text, start)
    return int(stated[1]) if stated else otherwise


def read_config(folder: Path) -> str | None:
    """The text of a run's config, None if it has none."""
    path = folder / CONFIG
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def check_one_config(folders: Sequence[tuple[int, Path, str | None]]) -> list[str]:
    """Problems if the runs of one setting had different configs (one per differing run, naming the keys).

    Args:
        folders: see `check_seeds`.
    """
    first, problems = None, []
    for _, folder, text in folders:
        if text is None:
            continue
        for key in OWN_KEYS:
            text = without_line(text, key)
        if first is None:
            first, where = text, folder
        elif text != first:  # most are equal, and parsing them all would take seconds
            try:
                keys = differing_keys(first, text)
            except ValueError as error:
                problems.append(f"{folder / CONFIG} or {where / CONFIG} is damaged: {error}")
                continue
            if keys:
                problems.append(f"{folder} ran with another config than {where}: {', '.join(keys)}")
    return problems


def without_line(text: str, key: str) -> str:
    """The text of a config without the line of a key at its top level."""
    start = 0 if text.startswith(f"{key}:") else text.find(f"\n{key}:") + 1
    if start == 0 and not text.startswith(f"{key}:"):
        return text
    end = text.find("\n", start)
    return text[:start] + (text[end + 1 :] if end >= 0 else "")


def differing_keys(old: str, new: str) -> list[str]:
    """The keys that matter and whose values differ between two configs given as YAML text.

    Raises:
        ValueError: one of them is not a YAML mapping.
    """
    try:
        flat = [parse_yaml(text.encode(), "one of them") for text in (old, new)]
    except ConfigError as error:
        raise WrongValue(error.problems[0]) from None
    for config in flat:
        config.pop("SEED", None)
    return differing(flat[0], flat[1], flat[1])
