"""Tables as text, Markdown and LaTeX, and every run's numbers as CSV."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import atomic_write
from .reading import LAYOUT, Place, Results, Run, Setting
from .statistics import Difference, ci95, mean_std
from .tables import Cell, Comparison, Row, Table, fewer, spaced

STYLES = {"text": "simple", "markdown": "github", "latex": "latex_booktabs"}  # ours -> tabulate's
FIELDS = ("protocol", "part", "dataset", "shots", "method", "config", "seed", "split", "metric", "value")
ROUTING_FIELDS = (*FIELDS[:8], "expert", "template", "share")


def title(table: Table, interval: bool = False) -> str:
    """What stands above a table."""
    spread = "half-width of the 95% interval (Student's t)" if interval else "population std"
    remark = f", {table.remark}" if table.remark else ""
    return f"{table.name}, accuracy in %, mean ± {spread} over seeds{remark} ({table.split} split)"


def number(cell: Cell | None, row: Row, plain: bool = False, interval: bool = False) -> str:
    """A cell as text: mean ± spread, and how many seeds there are if some of the row lack; "-" for nothing."""
    if cell is None:
        return "-"
    if plain or not cell.values:
        return f"{cell.mean:.2f}"
    values = list(cell.values.values())
    spread = ci95(values) if interval else mean_std(values)[1]
    few = f" [{len(values)}]" if fewer(cell, row) else ""
    return f"{cell.mean:.2f}" + ("" if spread is None else f" ± {spread:.2f}") + few


def tabulated(body: list[list[str]], head: Sequence[str], left: set[str], style: str) -> str:
    """A table in one of our styles; the columns named in `left` are left-aligned."""
    from tabulate import tabulate

    align = ["left" if name in left else "right" for name in head]
    text = tabulate(body, head, tablefmt=STYLES[style], colalign=align, disable_numparse=True)
    return text.replace("±", r"$\pm$") if style == "latex" else text


LEFT = {"Data set", "Source", "Method", "Config", "Seeds", "Difference"}


def render_table(table: Table, style: str = "text", interval: bool = False) -> str:
    """A table without its title.

    Args:
        table: of `tables.tables_of`.
        style: "text", "markdown" or "latex" (needs the package booktabs).
        interval: ± is the half-width of the 95% interval of the mean instead of the population std.
    """
    head = [*table.heads, "Method", "Config", "Seeds", *table.columns]
    body = []
    for row in table.rows:
        numbers = [
            number(cell, row, column in table.plain, interval)
            for cell, column in zip(row.cells, table.columns, strict=True)
        ]
        seeds = "published" if row.published else spaced(row.seeds) or "-"
        body.append([*row.group, row.method, row.config, seeds, *numbers])
    return tabulated(body, head, LEFT, style)


def difference(value: Difference | None) -> str:
    """A difference with its 95% interval."""
    if value is None:
        return "-"
    return f"{value.mean:+.2f}" + ("" if value.half_width is None else f" [{value.low:+.2f}, {value.high:+.2f}]")


def render_comparisons(table: Table, comparisons: Sequence[Comparison], style: str = "text") -> str:
    """Paired differences (of the table that they were made from) as a table."""
    head = [*table.heads, "Difference", "Seeds", *table.columns]
    body = []
    for one in comparisons:
        seeds = sorted({seed for value in one.differences if value for seed in value.seeds})
        names = " - ".join(f"{row.method} ({row.config})" for row in (one.first, one.second))
        body.append([*one.group, names, spaced(seeds) or "-", *map(difference, one.differences)])
    return tabulated(body, head, LEFT, style)


# ---- CSV


def setting_fields(run: Run) -> tuple:
    """The columns that say which run it is, up to the seed."""
    place = run.setting.place
    names = (place.protocol, place.part, place.dataset, place.shots)
    return (*names, run.setting.method, run.setting.config, run.seed)


def csv_text(results: Results, protocols: Iterable[str] = tuple(LAYOUT)) -> str:
    """Every metric of every finished run at full precision, one line each."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(FIELDS)
    for run in results.runs:
        if run.setting.place.protocol in protocols:
            for split, metrics in run.metrics.items():
                writer.writerows((*setting_fields(run), split, key, value) for key, value in metrics.items())
    return file.getvalue()


def routing_text(results: Results) -> str:
    """Mean routing weight of each expert in every run that has experts, as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(ROUTING_FIELDS)
    for run in results.runs:
        for split, routing in run.routing.items():
            rows = zip(range(len(routing["share"])), routing["experts"], routing["share"], strict=True)
            writer.writerows((*setting_fields(run), split, *row) for row in rows)
    return file.getvalue()


def read_csv(path: Path, dataset: str | None = None, split: str = "test") -> Results:
    """The results that `csv_text` wrote, without routing.

    Args:
        path: of the file.
        dataset, split: see `reading.collect`.

    Raises:
        ValueError: it is no such file, or holds no run (of the data set, with the split).
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            found = read_lines(path, csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise WrongValue(f"{path} is not a CSV of results: {error}") from None
    return results_of(path, found, dataset, split)


def read_lines(path: Path, reader: csv.DictReader) -> dict[tuple[Setting, int], dict]:
    """(Setting, seed) -> split -> metric -> number, from the lines of a CSV file."""
    if tuple(reader.fieldnames or ()) != FIELDS:
        raise WrongValue(f"{path} is not a CSV of results: expected the columns {','.join(FIELDS)}")
    found: dict[tuple[Setting, int], dict] = {}
    for line in reader:
        try:
            place = Place(line["protocol"], line["part"], line["dataset"], int(line["shots"]))
            key = Setting(place, line["method"], line["config"]), int(line["seed"])
            value = float(line["value"])
            if None in line or not math.isfinite(value) or place.protocol not in LAYOUT:
                raise ValueError("expected a protocol's name, as many fields as columns, and a finite value")
        except (TypeError, ValueError) as error:
            raise WrongValue(f"{path}, line {reader.line_num}: {error}") from None
        metrics = found.setdefault(key, {}).setdefault(line["split"], {})
        if line["metric"] in metrics:
            raise WrongValue(f"{path}, line {reader.line_num}: {key[0]}, seed {key[1]} is there twice")
        metrics[line["metric"]] = int(value) if line["value"].isdigit() else value
    return found


def results_of(path: Path, found: dict[tuple[Setting, int], dict], dataset: str | None, split: str) -> Results:
    """The runs of a CSV file that are on a data set and have a split."""
    from .reading import chosen

    kept = [
        Run(setting, seed, None, found[setting, seed])
        for setting, seed, _ in chosen([(*key, path) for key in sorted(found)], dataset)
        if "accuracy" in found[setting, seed].get(split, {})
    ]
    if not kept:
        raise WrongValue(f"no runs found in {path} (data set {dataset or 'any'}, split {split!r})")
    return Results(kept, split)


def write_text(path: Path, text: str) -> Path:
    """Write a file at once; returns its path."""
    with atomic_write(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
    return path


def write_tables(results: Results, tables: Sequence[Table], folder: Path, interval: bool = False) -> list[Path]:
    """Write the tables of each protocol as Markdown and LaTeX, and all numbers as `results.csv` (and `routing.csv`).

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for protocol in dict.fromkeys(table.protocol for table in tables):
        own = [table for table in tables if table.protocol == protocol]
        pages = [
            f"{title(t, interval)}\n\n{render_table(t, 'markdown', interval)}\n"
            + "".join(f"\nNote: {n}\n" for n in t.notes)
            for t in own
        ]
        written.append(write_text(folder / f"{protocol}.md", "\n".join(pages)))
        pages = [f"% {title(t, interval)}\n{render_table(t, 'latex', interval)}\n" for t in own]
        written.append(write_text(folder / f"{protocol}.tex", "\n".join(pages)))
    written.append(write_text(folder / "results.csv", csv_text(results)))
    if any(run.routing for run in results.runs):
        written.append(write_text(folder / "routing.csv", routing_text(results)))
    return written
