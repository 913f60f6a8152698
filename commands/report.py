"""`mocoop report RUN`: one self-contained HTML page about a trained model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .arguments import add_reading, add_run, open_run

NAME = "report.html"


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="mocoop report",
        description="One HTML page that opens from disk and needs no network: model card, figures of each class, "
        "confusion, calibration, the most confident mistakes, experts, learning curves.",
    )
    add_run(parser)
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="labelled images, a folder for each class, to measure on and show (default: what `mocoop evaluate` "
        "has left in RUN, else what was measured on held-out images while training; neither shows the experts' images)",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help=f"where it goes (default: {NAME} in RUN, or here)")
    add_reading(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    args = build_parser().parse_args(argv)
    from ..report.content import gather
    from ..report.page import render
    from ..toolbox.dassl.utils import write_text

    target = args.out or (Path(args.run) / NAME if Path(args.run).is_dir() else Path(NAME))
    text = render(gather(open_run(args), args.run, args.images, args.batch_size))
    write_text(text, target)
    print(f"Written: {target} ({len(text.encode()) / 1e6:.1f} MB)")
    return 0
