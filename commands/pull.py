"""`mocoop pull OWNER/NAME`: a classifier from the Hugging Face Hub."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="mocoop pull",
        description="Fetch a classifier from the Hugging Face Hub. It is checked, and nothing in it is executed.",
    )
    add = parser.add_argument
    add("repo", metavar="OWNER/NAME[@REVISION]")
    add("--out", type=Path, metavar="FILE", help="default: NAME.safetensors where you are")
    add("--overwrite", action="store_true", help="replace an existing file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = build_parser().parse_args(argv)
    from ..classifier.hub import parse, pull

    out = args.out or Path(parse(args.repo)[0].split("/")[1] + ".safetensors")
    pull(args.repo, out, args.overwrite)
    print(f"Wrote {out} ({out.stat().st_size:,} bytes)")
    return 0
