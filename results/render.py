"""Tables as text, Markdown and LaTeX."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..toolbox.dassl.utils import write_text
from .csv_file import csv_text, routing_text
from .records import Results
from .statistics import Difference, ci95, mean_std
from .tables import Cell, Comparison, Row, Table, has_fewer_seeds, joined

STYLES = {"text": "simple", "markdown": "github", "latex": "latex_booktabs"}  # ours -> tabulate's
LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "%_&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
)
BOLD = ("\N{LEFT DOUBLE ANGLE BRACKET}", "\N{RIGHT DOUBLE ANGLE BRACKET}")  # until tabulate has escaped the text


def title(table: Table, interval: bool = False) -> str:
    """What stands above a table."""
    spread = "half-width of the 95% interval (Student's t)" if interval else "population std"
    several = any(cell and len(cell.values) > 1 for row in table.rows for cell in row.cells)
    numbers = f"mean ± {spread} over seeds" if several else "one seed"
    remark = f", {table.remark}" if table.remark else ""
    return f"{table.name}, accuracy in %, {numbers}{remark} ({table.split} split)"


def number(cell: Cell | None, row: Row, plain: bool = False, interval: bool = False, best: bool = False) -> str:
    """A cell as text: mean ± spread (of one seed: the value), the number of seeds if some are missing; "-" if empty.

    The mean is in BOLD if the cell is the best of its group.
    """
    if cell is None:
        return "-"
    mean = f"{BOLD[0]}{cell.mean:.2f}{BOLD[1]}" if best else f"{cell.mean:.2f}"
    if plain or not cell.values:
        return mean
    values = list(cell.values.values())
    spread = ci95(values) if interval else mean_std(values)[1]
    few = f" [{len(values)}]" if has_fewer_seeds(cell, row) else ""
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
    caption = caption.translate(LATEX)
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
        seeds = "published" if row.published else joined(row.seeds) or "-"
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
        body.append([*one.group, names, joined(seeds) or "-", *map(difference, one.differences)])
    return tabulated(body, head, LEFT, style)


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
    if routing := routing_text(results):
        texts[folder / "routing.csv"] = routing
    for path, text in texts.items():
        write_text(text, path)
    return list(texts)
