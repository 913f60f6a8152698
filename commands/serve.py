"""`mocoop serve RUN`: a page to try a trained classifier in, and the same as JSON over HTTP."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .arguments import add_run, open_run


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="mocoop serve",
        description="A page to try a trained classifier in, and the same as JSON: POST /predict, POST /predict/batch, "
        "GET /health, GET /model.",
    )
    add_run(parser)
    add = parser.add_argument
    add("--port", type=port, default=8000, help="0 = any that is free (default: %(default)s)")
    add("--host", default="127.0.0.1", help="who else may reach it, 0.0.0.0 for all (default: this machine alone)")
    add("--max-mb", type=float, default=20, metavar="MB", help="largest image file (default: %(default)s)")
    return parser


def port(text: str) -> int:
    """The number of a port, for argparse."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 65535, got {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = build_parser().parse_args(argv)
    from ..serving.server import serve

    serve(open_run(args), args.host, args.port, args.max_mb)
    return 0
