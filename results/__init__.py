"""Tables and figures from the runs in an output folder: `python -m mocoop.results output/`.

From Python:

    from mocoop import results
    found = results.collect("output")                      # every run, at full precision
    (table,) = results.tables_of(found, "base2new")        # rows of cells that keep each seed's value
    results.render_table(table, "markdown")
    results.compare(table, "MoCoOp", "CoOp")               # paired differences with 95% intervals
    results.figures.draw_all(found, Path("figures"))       # needs matplotlib

Numbers come from the runs' `results.json`, never from logs. As in the papers, ± is the population standard deviation
over seeds, H is the harmonic mean of the averaged base and the averaged new accuracy, and an average over data sets is
the mean of their means. A run that is missing or unfinished is named, never silently dropped.
"""

from ..runs.layout import PROTOCOLS, Place, Setting, main_config
from . import figures, published
from .command import main
from .csv_file import csv_text, read_csv
from .published import add_published
from .reading import collect
from .records import Results, Run
from .render import page, render_comparisons, render_table, title, write_tables
from .statistics import Difference, ci95, harmonic, mean_std, paired_difference
from .tables import Cell, Comparison, Row, Table, compare, compare_rows, tables_of

__all__ = [
    "PROTOCOLS",
    "Cell",
    "Comparison",
    "Difference",
    "Place",
    "Results",
    "Row",
    "Run",
    "Setting",
    "Table",
    "add_published",
    "ci95",
    "collect",
    "compare",
    "compare_rows",
    "csv_text",
    "figures",
    "harmonic",
    "main",
    "main_config",
    "mean_std",
    "page",
    "paired_difference",
    "published",
    "read_csv",
    "render_comparisons",
    "render_table",
    "tables_of",
    "title",
    "write_tables",
]
