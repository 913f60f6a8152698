"""`python -m mocoop.results OUTPUT`: print tables, write them and figures."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..runs.errors import explain
from ..runs.layout import PROTOCOLS
from ..toolbox.dassl.errors import WrongValue
from .csv_file import csv_text
from .published import add_published
from .reading import collect
from .records import Results
from .render import latex_float, page, render_comparisons, write_tables
from .tables import Table, compare, tables_of


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m mocoop.results", description="Tables and figures of finished runs."
    )
    parser.add_argument(
        "output", nargs="?", default="output", type=Path, help="output folder, or a results.csv (default: output)"
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, help="only this protocol (default: all that have runs)")
    parser.add_argument("--dataset", help="only this data set, and what was trained on it (default: all)")
    parser.add_argument("--split", default="test", help="split whose accuracy counts (default: test)")
    parser.add_argument("--format", choices=["text", "markdown", "latex", "csv"], default="text")
    parser.add_argument(
        "--ci95", action="store_true", help="± is the half-width of the 95%% interval, not the population std"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="paired differences A - B with 95%% intervals; METHOD or METHOD/CONFIG",
    )
    parser.add_argument("--published", action="store_true", help="add published averages, marked as such")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write all tables (md, tex, csv) and figures there")
    parser.add_argument(
        "--figures", nargs="+", choices=["png", "pdf", "svg"], default=["png"], help="kinds of figures (default: png)"
    )
    parser.add_argument("--no-figures", action="store_true", help="with --out: tables only (needs no matplotlib)")
    return parser.parse_args(argv)


def chosen_tables(results: Results, args: argparse.Namespace) -> list[Table]:
    """The tables that were asked for.

    Raises:
        ValueError: there are no runs of that protocol, or no runs that have a table.
    """
    made = [t for name in ([args.protocol] if args.protocol else PROTOCOLS) for t in tables_of(results, name)]
    if not made:
        there = sorted({setting.place.protocol for setting in results.seen})
        raise WrongValue(f"no runs found of {args.protocol or 'a protocol with a table'}; there are {', '.join(there)}")
    if args.published:
        for table in made:
            add_published(table)
    return made


def show(made: Sequence[Table], style: str, interval: bool) -> None:
    """Print tables with their notes."""
    print("\n\n".join(page(table, style, interval) for table in made))


def show_comparisons(made: Sequence[Table], names: Sequence[str], style: str) -> None:
    """Print paired differences.

    Raises:
        ValueError: no table has both.
    """
    found = [(table, compare(table, *names)) for table in made]
    if not any(comparisons for _, comparisons in found):
        there = sorted({f"{row.method}/{row.config}" for table in made for row in table.rows if not row.published})
        raise WrongValue(f"no table has both {names[0]} and {names[1]}; there are {', '.join(there)}")
    words = f"Paired differences {names[0]} - {names[1]} in percentage points, 95% intervals by Student's t over seeds"
    if style != "latex":
        print(f"\n{words}")
    for table, comparisons in found:
        if comparisons:
            text = render_comparisons(table, comparisons, style)
            if style == "latex":
                print("\n" + latex_float(text, f"{table.name}. {words}", f"{table.name} differences"))
            else:
                print(f"\n{table.name}\n\n{text}")


def report(results: Results, args: argparse.Namespace) -> None:
    """Print and write what was asked for.

    Raises:
        ValueError: there is nothing of that kind.
        ImportError: figures are wanted and matplotlib is not installed.
    """
    made = chosen_tables(results, args)
    if args.format == "csv":
        print(csv_text(results, (*{table.protocol for table in made}, "source")), end="")
    else:
        show(made, args.format, args.ci95)
        if args.compare:
            show_comparisons(made, args.compare, args.format)
    if args.out:
        write_out(results, made, args)


def write_out(results: Results, made: Sequence[Table], args: argparse.Namespace) -> None:
    """Write the files of --out.

    Raises:
        ImportError: figures are wanted and matplotlib is not installed.
    """
    written = write_tables(results, made, args.out, args.ci95)
    try:
        if not args.no_figures:
            from .figures import draw_all

            for suffix in args.figures:
                written += draw_all(results, args.out, made, args.ci95, suffix)
    finally:
        print(f"\nWritten: {' '.join(map(str, written))}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; exit code 1 if nothing was found or a run's files are damaged."""
    args = parse(argv)
    problems = []
    try:
        results = collect(args.output, args.dataset, args.split)
        problems = results.errors()
        report(results, args)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        problems = [*problems, message]
    for problem in problems:
        print(f"Error: {problem}", file=sys.stderr)
    return 1 if problems else 0
