"""Tables from the runs in an output folder: `python -m mocoop.results output/`.

Numbers come from the runs' `results.json` at full precision, never from logs. As in the papers, +- is the population
standard deviation over seeds and H is the harmonic mean of the averaged base and the averaged new accuracy. A run that
is missing or unfinished is named, not dropped in silence.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .plugin import TRAINERS
from .runs import CONFIG, differing, is_finished

BASE, NEW = "train_base", "test_new"


@dataclass(frozen=True, order=True)
class Setting:
    """What the seeds of one row of a table share."""

    dataset: str
    shots: int
    trainer: str
    config: str


@dataclass(frozen=True)
class Run:
    """One run folder: `<output>/<protocol>/<part>/<dataset>/shots_<n>/<trainer>/<config>/seed<k>`."""

    part: str
    setting: Setting
    seed: int
    folder: Path


@dataclass(frozen=True)
class Row:
    """One row of the base-to-new table; accuracies in percent, None where no seed has both halves."""

    setting: Setting
    seeds: tuple[int, ...]
    base: tuple[float, float] | None
    new: tuple[float, float] | None
    h: float | None


@dataclass(frozen=True)
class Table:
    """Rows, what is missing or unfinished (notes), and what is wrong (problems)."""

    rows: list[Row]
    notes: list[str]
    problems: list[str]


def find_runs(output: Path, protocol: str) -> list[Run]:
    """All run folders of a protocol, finished or not, sorted."""
    runs = []
    for folder in sorted((output / protocol).glob("*/*/shots_*/*/*/seed*")):
        part, dataset, shots, trainer, config, seed = folder.relative_to(output / protocol).parts
        numbers = shots.removeprefix("shots_"), seed.removeprefix("seed")
        if folder.is_dir() and all(number.lstrip("-").isdigit() for number in numbers):
            runs.append(Run(part, Setting(dataset, int(numbers[0]), trainer, config), int(numbers[1]), folder))
    return runs


def read_accuracy(folder: Path, split: str) -> float:
    """The accuracy in percent that a finished run reached on a split.

    Raises:
        ValueError: results.json is absent, half-written, or lacks the split; the message names the file.
    """
    path = folder / "results.json"
    try:
        accuracy = json.loads(path.read_text(encoding="utf-8"))[split]["accuracy"]
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist, though the run says it is finished; delete {folder}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path} is half-written or damaged ({error}); delete {folder} and run it again") from None
    except KeyError as error:
        raise ValueError(f"{path} has no entry {error} (split {split!r})") from None
    if not isinstance(accuracy, int | float) or not math.isfinite(accuracy):
        raise ValueError(f"{path}: the accuracy of split {split!r} is {accuracy!r}, expected a number")
    return float(accuracy)


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation (NumPy's default, as in CoOp's parser)."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))


def harmonic(base: float, new: float) -> float:
    """H = 2 base new / (base + new); 0 if both are 0."""
    return 2 * base * new / (base + new) if base + new > 0 else 0.0


def read_part(runs: Sequence[Run], split: str) -> tuple[dict[int, float], list[str], list[str]]:
    """Accuracy by seed of some runs of one setting and part, the unfinished ones, and problems."""
    found, notes, problems = {}, [], []
    for run in runs:
        if not is_finished(run.folder):
            notes.append(f"unfinished: {run.folder}")
            continue
        try:
            found[run.seed] = read_accuracy(run.folder, split)
        except ValueError as error:
            problems.append(str(error))
    return found, notes, problems


def check_one_config(runs: Sequence[Run]) -> list[str]:
    """Problems if the seeds of one setting and part ran with different configs (one per differing run)."""
    import yaml

    from .config import flatten

    first, problems = None, []
    for run in runs:
        if not (run.folder / CONFIG).is_file():
            continue
        config = flatten(yaml.safe_load((run.folder / CONFIG).read_text(encoding="utf-8")))
        config.pop("SEED", None)
        if first is None:
            first, where = config, run.folder
            continue
        keys = differing(first, config, config)
        if keys:
            problems.append(f"{run.folder} ran with another config than {where}: {', '.join(keys)}")
    return problems


def base2new(output: Path, split: str = "test", dataset: str | None = None) -> Table:
    """The base-to-new table of an output folder.

    Args:
        output: the folder that holds `base2new/`.
        split: the split whose accuracy counts.
        dataset: only this data set; None = all.

    Raises:
        ValueError: no run at all is there.
    """
    runs = [run for run in find_runs(output, "base2new") if dataset in (None, run.setting.dataset)]
    if not runs:
        where = output / "base2new" / BASE / (dataset or "<data set>")
        raise ValueError(f"no runs found; expected folders {where}/shots_<n>/<method>/<config>/seed<k>")
    order = list(TRAINERS)
    settings = sorted(
        {run.setting for run in runs},
        key=lambda s: (s.dataset, s.shots, order.index(s.trainer) if s.trainer in order else len(order), s),
    )
    table = Table([], [], [])
    for setting in settings:
        parts = [[run for run in runs if run.setting == setting and run.part == part] for part in (BASE, NEW)]
        add_row(table, setting, parts, split)
    return table


def add_row(table: Table, setting: Setting, parts: list[list[Run]], split: str) -> None:
    """Add the row of one setting, and what there is to say about its runs.

    Args:
        table: gets the row, notes and problems.
        setting: of the row.
        parts: the runs on base classes, the runs on new classes.
        split: see `base2new`.
    """
    accuracy = []
    for part in parts:
        found, notes, problems = read_part(part, split)
        accuracy.append(found)
        table.notes.extend(notes)
        table.problems.extend(problems + check_one_config(part))
    seeds = {run.seed for part in parts for run in part}
    for name, part in zip((BASE, NEW), parts, strict=True):
        for seed in sorted(seeds - {run.seed for run in part}):
            table.notes.append(f"missing: {name} of {describe(setting)}, seed {seed}")
    both = tuple(sorted(accuracy[0].keys() & accuracy[1].keys()))
    if not both:
        table.rows.append(Row(setting, (), None, None, None))
        return
    base, new = (mean_std([found[seed] for seed in both]) for found in accuracy)
    table.rows.append(Row(setting, both, base, new, harmonic(base[0], new[0])))


def describe(setting: Setting) -> str:
    """A setting in words."""
    return f"{setting.trainer} ({setting.config}) on {setting.dataset}, {setting.shots} shots"


def render(rows: Sequence[Row], style: str) -> str:
    """The base-to-new table as text.

    Args:
        rows: of the table.
        style: "text" or "markdown".
    """
    from tabulate import tabulate

    def number(value: tuple[float, float] | None) -> str:
        return "-" if value is None else f"{value[0]:.2f} ± {value[1]:.2f}"

    head = ["Data set", "Shots", "Method", "Config", "Seeds", "Base", "New", "H"]
    body = [
        [
            row.setting.dataset,
            row.setting.shots,
            row.setting.trainer,
            row.setting.config,
            " ".join(map(str, row.seeds)) or "-",
            number(row.base),
            number(row.new),
            "-" if row.h is None else f"{row.h:.2f}",
        ]
        for row in rows
    ]
    align = ["left", "right", "left", "left", "left", "right", "right", "right"]
    kind = {"text": "simple", "markdown": "github"}[style]
    return tabulate(body, head, tablefmt=kind, colalign=align, disable_numparse=True)


PROTOCOLS = {"base2new": (base2new, render)}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; exit code 1 if nothing was found or a run's files are damaged."""
    parser = argparse.ArgumentParser(prog="python -m mocoop.results", description="Tables from finished runs.")
    parser.add_argument("output", nargs="?", default="output", type=Path, help="output folder (default: output)")
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), default="base2new")
    parser.add_argument("--dataset", help="only this data set (default: all)")
    parser.add_argument("--split", default="test", help="split whose accuracy counts (default: test)")
    parser.add_argument("--format", choices=["text", "markdown"], default="text")
    args = parser.parse_args(argv)
    build, show = PROTOCOLS[args.protocol]
    try:
        table = build(args.output, args.split, args.dataset)
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"Base-to-new, accuracy in %, mean ± population std over seeds, H of the averages ({args.split} split)\n")
    print(show(table.rows, args.format))
    for note in table.notes:
        print(f"Note: {note}")
    for problem in table.problems:
        print(f"Error: {problem}", file=sys.stderr)
    return 1 if table.problems else 0


if __name__ == "__main__":
    sys.exit(main())
