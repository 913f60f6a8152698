"""Tables as text, Markdown and LaTeX, and every run's numbers as CSV."""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import write_text
from .reading import LAYOUT, Place, Results, Run, Setting
from .statistics import Difference, ci95, mean_std
from .tables import Cell, Comparison, Row, Table, fewer, spaced

STYLES = {"text": "simple", "markdown": "github", "latex": "latex_booktabs"}  # ours -> tabulate's
BOLD = ("\N{LEFT DOUBLE ANGLE BRACKET}", "\N{RIGHT DOUBLE ANGLE BRACKET}")  # until tabulate has escaped the text
FIELDS = ("protocol", "part", "dataset", "shots", "method", "config", "seed", "split", "metric", "value")
ROUTING_FIELDS = (*FIELDS[:8], "expert", "template", "share")


def title(table: Table, interval: bool = False) -> str:
    """What stands above a table."""
    spread = "half-width of the 95% interval (Student's t)" if interval else "population std"
    several = any(cell and len(cell.values) > 1 for row in table.rows for cell in row.cells)
    numbers = f"mean ± {spread} over seeds" if several else "one seed"
    remark = f", {table.remark}" if table.remark else ""
    return f"{table.name}, accuracy in %, {numbers}{remark} ({table.split} split)"


def number(cell: Cell | None, row: Row, plain: bool = False, interval: bool = False, best: bool = False) -> str:
    """A cell as text: mean ± spread (of one seed: the value), how many seeds if some of the row lack; "-" for nothing.

    The mean is in BOLD if the cell is the best of its group.
    """
    if cell is None:
        return "-"
    mean = f"{BOLD[0]}{cell.mean:.2f}{BOLD[1]}" if best else f"{cell.mean:.2f}"
    if plain or not cell.values:
        return mean
    values = list(cell.values.values())
    spread = ci95(values) if interval else mean_std(values)[1]
    few = f" [{len(values)}]" if fewer(cell, row) else ""
    return mean + ("" if len(values) == 1 else f" ± {spread:.2f}") + few


def best_cells(table: Table) -> set[tuple[int, int]]:
    """(row, column) of the highest mean, as printed, of each group of rows and column; published rows do not count.

    A group with one number has no best.
    """
    found: dict[tuple, dict[tuple[int, int], float]] = {}
    for i, row in enumerate(table.rows):
        for j, cell in enumerate(row.cells):
            if cell and not row.published:
                found.setdefault((row.group, j), {})[i, j] = round(cell.mean, 2)
    return {
        place
        for means in found.values()
        for place, mean in means.items()
        if len(means) > 1 and mean == max(means.values())
    }


def tabulated(body: list[list[str]], head: Sequence[str], left: set[str], style: str) -> str:
    """A table in one of our styles; the columns named in `left` are left-aligned."""
    from tabulate import tabulate

    align = ["left" if name in left else "right" for name in head]
    text = tabulate(body, head, tablefmt=STYLES[style], colalign=align, disable_numparse=True)
    if style != "latex":
        return text
    return text.replace("±", r"$\pm$").replace(BOLD[0], r"\textbf{").replace(BOLD[1], "}")


def latex_float(tabular: str, caption: str, name: str, notes: Sequence[str] = ()) -> str:
    """A tabular as a numbered table with caption and label; what to load and the notes are comments.

    Args:
        tabular: of `render_table` or `render_comparisons`.
        caption: plain text.
        name: made into the label, e.g. "Few-shot" into tab:few-shot.
        notes: plain text.
    """
    for plain, latex in (("%", r"\%"), ("_", r"\_"), ("&", r"\&"), ("#", r"\#"), ("±", r"$\pm$")):
        caption = caption.replace(plain, latex)
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    lines = [*(f"% Note: {note}" for note in notes), r"\begin{table}[t]  % \usepackage{booktabs}", r"\centering"]
    lines += [rf"\caption{{{caption}.}}", rf"\label{{tab:{label}}}", tabular, r"\end{table}"]
    return "\n".join(lines)


def page(table: Table, style: str = "text", interval: bool = False) -> str:
    """A table with its title and notes. In LaTeX the best number of each group and column is bold.

    Args:
        table, style, interval: see `render_table`.
    """
    text, head = render_table(table, style, interval), title(table, interval)
    if style == "latex":
        bold = "; bold: the highest" if best_cells(table) else ""
        return latex_float(text, head + bold, table.name, table.notes)
    apart = "\n\n" if style == "markdown" else "\n"
    return f"{head}\n\n{text}" + "".join(f"{apart}Note: {note}" for note in table.notes)


LEFT = {"Data set", "Source", "Method", "Config", "Seeds", "Difference"}


def render_table(table: Table, style: str = "text", interval: bool = False) -> str:
    """A table without its title.

    Args:
        table: of `tables.tables_of`.
        style: "text", "markdown" or "latex" (a tabular with the best numbers in bold; needs the package booktabs).
        interval: ± is the half-width of the 95% interval of the mean instead of the population std.
    """
    head = [*table.heads, "Method", "Config", "Seeds", *table.columns]
    best = best_cells(table) if style == "latex" else set()
    body = []
    for i, row in enumerate(table.rows):
        numbers = [
            number(cell, row, column in table.plain, interval, (i, j) in best)
            for j, (cell, column) in enumerate(zip(row.cells, table.columns, strict=True))
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


def write_tables(results: Results, tables: Sequence[Table], folder: Path, interval: bool = False) -> list[Path]:
    """Write the tables of each protocol as Markdown and LaTeX, and all numbers as `results.csv` (and `routing.csv`).

    Returns:
        The files.
    """
    texts = {}
    for protocol in dict.fromkeys(table.protocol for table in tables):
        own = [table for table in tables if table.protocol == protocol]
        for style, suffix in (("markdown", "md"), ("latex", "tex")):
            pages = [page(table, style, interval) + "\n" for table in own]
            texts[folder / f"{protocol}.{suffix}"] = "\n".join(pages)
    texts[folder / "results.csv"] = csv_text(results)
    if any(run.routing for run in results.runs):
        texts[folder / "routing.csv"] = routing_text(results)
    for path, text in texts.items():
        write_text(text, path)
    return list(texts)
