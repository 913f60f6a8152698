"""Runs from an output folder: which are finished, what they reached, and what is wrong with them.

Numbers come from `results.json` at full precision, never from logs. Nothing is dropped in silence: unfinished runs
become notes, damaged ones and mixed ones problems.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config import ConfigError, parse_yaml
from ..config.merge import shown
from ..runs.folder import differing, is_finished
from ..runs.layout import Setting, expected, find_runs
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import printable, read_json, unreadable
from ..trainers.records import CONFIG, RESULTS
from .csv_file import read_csv
from .records import Results, Run, chosen


def collect(output: str | Path, dataset: str | None = None, split: str = "test") -> Results:
    """Read an output folder, or a CSV file that `--out` wrote.

    Args:
        output: the folder that holds `base2new/`, `fewshot/`, ..., or a file.
        dataset: only this data set, and what was trained on it; None = all.
        split: the split whose accuracy counts.

    Raises:
        ValueError: no run at all is there (or the file is no such CSV).
        FileNotFoundError: neither folder nor file.
    """
    output = Path(output)
    if output.is_file():
        return read_csv(output, dataset, split)
    found = chosen(find_runs(output), dataset)
    if not found:
        raise WrongValue(f"no runs found; expected folders {expected(output, dataset)}")
    good = [run for run in found if not unreadable(str(run[2].relative_to(output)))]
    results = read_runs(good, split)
    if refused := [run for run in found if run not in good]:
        results.damaged.setdefault(refused[0][0], []).append(strange_names([folder for *_, folder in refused]))
    return results


def strange_names(folders: Sequence[Path]) -> str:
    """The problem with run folders whose names a table could not show, or LaTeX would take for more than a name."""
    names = ", ".join(printable(str(folder)) for folder in folders[:10])
    return f"{len(folders)} run folders have control characters in their names and are left out: {names}; rename them"


def read_runs(found: Sequence[tuple[Setting, int, Path]], split: str) -> Results:
    """Read the run folders that `find_runs` found."""
    runs, seen, notes, damaged, folders = [], {}, {}, {}, {}
    for setting, seed, folder in found:
        seen.setdefault(setting, set()).add(seed)
        folders.setdefault(setting, []).append((seed, folder))
        if not is_finished(folder):
            notes.setdefault(setting, []).append(f"unfinished: {folder}")
            continue
        try:
            runs.append(Run(setting, seed, folder, *read_record(folder, split)))
        except ValueError as error:
            damaged.setdefault(setting, []).append(str(error))
    problems = {
        setting: check_seeds(some) + check_one_config([f for _, f in some]) for setting, some in folders.items()
    }
    return Results(runs, split, seen, notes, {key: texts for key, texts in problems.items() if texts}, damaged)


def read_record(folder: Path, split: str) -> tuple[dict[str, dict[str, float]], dict[str, dict]]:
    """What a finished run wrote into `results.json`: numbers and routing by split.

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
    routing = {name: part["routing"] for name, part in parts.items() if "routing" in part}
    for name, part in routing.items():
        if not is_routing(part):
            raise WrongValue(f"{path}: the routing of split {name!r} is damaged; delete {folder} and run it again")
    return metrics, routing


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
    return whole and all(is_number(value) for row in rows for value in row)


def is_names(value: object) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a finite number that floats hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_seeds(folders: Sequence[tuple[int, Path]]) -> list[str]:
    """Problems if two folders of one setting hold the same seed, or a folder holds another seed than its name says."""
    first, problems = {}, []
    for seed, folder in folders:
        text = read_config(folder)
        stated = re.search(r"^SEED: (-?\d+)\s*$", text, re.MULTILINE) if text else None
        actual = int(stated[1]) if stated else seed
        if actual in first:
            problems.append(f"seed {actual} is there twice: {first[actual]} and {folder}; delete one")
        elif actual != seed:
            problems.append(f"{folder} holds a run of seed {actual} ({CONFIG}); give the folder its name, or delete it")
        first.setdefault(actual, folder)
    return problems


def read_config(folder: Path) -> str | None:
    """The text of a run's config, None if it has none."""
    path = folder / CONFIG
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def check_one_config(folders: Sequence[Path]) -> list[str]:
    """Problems if the runs of one setting had different configs (one per differing run, naming the keys)."""
    first, problems = None, []
    for folder in folders:
        text = read_config(folder)
        if text is None:
            continue
        text = re.sub(r"^(SEED|OUTPUT_DIR|RESUME):.*\n", "", text, flags=re.MULTILINE)
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
