"""Runs from an output folder: which are finished, what they reached, and what is wrong with them.

Numbers come from `results.json` at full precision, never from logs. Nothing is silently dropped: unfinished runs become
notes; damaged and mixed ones become problems.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path

from ..config import ConfigError, parse_yaml
from ..config.merge import shown
from ..runs.folder import differing
from ..runs.layout import Setting, expected, find_runs
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.files import DONE
from ..toolbox.dassl.utils import printable, read_json, unreadable
from ..trainers.records import CONFIG, RESULTS
from .csv_file import read_csv
from .index import Entry, Index, state_of
from .records import Results, Run, are_numbers, is_number, is_percentage, select_dataset

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
        (refused if unreadable(run[2][below:]) else good).append(run)
    index = Index(output, len(found))
    results = read_runs(good, split, index)
    index.save(whole=dataset is None)
    if refused:
        results.damaged.setdefault(refused[0][0], []).append(strange_names([folder for *_, folder in refused]))
    return results


def strange_names(folders: Sequence[str]) -> str:
    """The problem with run folders whose names a table could not show, or LaTeX would take for more than a name."""
    names = ", ".join(printable(folder) for folder in folders[:10])
    return f"{len(folders)} run folders have control characters in their names and are left out: {names}; rename them"


def read_runs(found: Sequence[tuple[Setting, int, str]], split: str, index: Index) -> Results:
    """Read the run folders that `find_runs` found, in its order; `index`: what is known of them."""
    runs, seen, notes, damaged, problems = [], {}, {}, {}, {}
    for setting, group in groupby(found, key=itemgetter(0)):
        folders = []
        for _, seed, folder in group:
            entry, wrong = read_run(folder, split, index)
            folders.append((seed, folder, entry))
            if wrong:
                damaged.setdefault(setting, []).append(wrong)
            elif not entry.metrics:
                notes.setdefault(setting, []).append(f"unfinished: {folder}")
            else:
                load = partial(read_routing, folder) if entry.routed else dict
                runs.append(Run(setting, seed, folder, entry.metrics, load))
        seen[setting] = {seed for seed, *_ in folders}
        if wrong := check_seeds(folders) + check_one_config(folders):
            problems[setting] = wrong
    return Results(runs, split, seen, notes, problems, damaged)


def read_run(folder: str, split: str, index: Index) -> tuple[Entry, str]:
    """What a run folder holds, from the index if its files are as they were; without metrics if it is unfinished.

    Returns:
        The entry, and what is wrong with the run's record ("" if nothing is).
    """
    finished = os.path.isfile(f"{folder}/{DONE}")
    known = index.get(folder) if finished else None
    if known is not None and is_percentage(known.metrics.get(split, {}).get("accuracy")):
        return known, ""
    state = state_of(folder) if finished else None
    text = read_config(folder)
    of_config = stated_seed(text or ""), digest(text)
    if not finished:
        return Entry([], *of_config, {}, False), ""
    try:
        metrics, routed = read_record(folder, split)
    except ValueError as error:
        return Entry([], *of_config, {}, False), str(error)
    entry = Entry(state or [], *of_config, metrics, routed)
    index.add(folder, state, entry)
    return entry, ""


def digest(text: str | None) -> str:
    """Of a config without the lines that differ from run to run; "" for None."""
    if text is None:
        return ""
    for key in OWN_KEYS:
        text = without_line(text, key)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_routing(folder: str | Path) -> dict[str, dict]:
    """MoCoOp's routing records by split, from the `results.json` of a run that `read_record` has found good."""
    record = read_json(Path(folder, RESULTS))
    return {name: part["routing"] for name, part in record.items() if isinstance(part, dict) and "routing" in part}


def read_record(folder: str | Path, split: str) -> tuple[dict[str, dict[str, float]], bool]:
    """What a finished run wrote into `results.json`: numbers by split, and whether it has routing records.

    Raises:
        ValueError: the file is absent, half-written, or lacks the split's accuracy; the message names the file.
    """
    path = os.path.join(folder, RESULTS)
    try:
        record = read_json(path)
        accuracy = record[split]["accuracy"]
    except FileNotFoundError:
        raise WrongValue(f"{path} does not exist, though the run says it is finished; delete {folder}") from None
    except (ValueError, TypeError, OSError) as error:
        raise WrongValue(f"{path} is half-written or damaged ({error}); delete {folder} and run it again") from None
    except KeyError as error:
        raise WrongValue(f"{path} has no entry {error} (split {split!r})") from None
    if not is_percentage(accuracy):
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


def check_seeds(folders: Sequence[tuple[int, str, Entry]]) -> list[str]:
    """Problems if two folders of one setting hold the same seed, or a folder holds another seed than its name says.

    Args:
        folders: seed by the folder's name, folder, what it holds.
    """
    first, problems = {}, []
    for seed, folder, entry in folders:
        actual = seed if entry.seed is None else entry.seed
        if actual in first:
            problems.append(f"seed {actual} is there twice: {first[actual]} and {folder}; delete one")
        elif actual != seed:
            problems.append(f"{folder} holds a run of seed {actual} ({CONFIG}); give the folder its name, or delete it")
        first.setdefault(actual, folder)
    return problems


def stated_seed(text: str) -> int | None:
    """The seed that the text of a config states."""
    start = 0 if text.startswith("SEED: ") else text.find("\nSEED: ") + 1
    stated = STATED_SEED.match(text, start)
    return int(stated[1]) if stated else None


def read_config(folder: str) -> str | None:
    """The text of a run's config, None if it has none."""
    path = Path(folder, CONFIG)
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def check_one_config(folders: Sequence[tuple[int, str, Entry]]) -> list[str]:
    """Problems if the runs of one setting had different configs (one per differing run, naming the keys).

    Args:
        folders: see `check_seeds`.
    """
    with_config = [(folder, entry.digest) for _, folder, entry in folders if entry.digest]
    if not with_config:
        return []
    where, first = with_config[0]
    alike, problems = {first}, []  # most are equal, and parsing them all would take seconds
    for folder, text in with_config:
        if text not in alike:
            wrong = different(where, folder)
            alike |= set() if wrong else {text}
            problems += [wrong] if wrong else []
    return problems


def different(first: str, folder: str) -> str:
    """What the config of a run has other than that of the first run of its setting, "" if nothing that matters."""
    try:
        keys = differing_keys(read_config(first) or "", read_config(folder) or "")
    except ValueError as error:
        return f"{Path(folder, CONFIG)} or {Path(first, CONFIG)} is damaged: {error}"
    return f"{folder} ran with another config than {first}: {', '.join(keys)}" if keys else ""


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
        for key in OWN_KEYS:
            config.pop(key, None)
    return differing(flat[0], flat[1], flat[1])
