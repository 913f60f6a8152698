"""`mocoop push RUN OWNER/NAME`: a trained classifier and its model card to the Hugging Face Hub."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .arguments import add_run, open_run


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="mocoop push", description="Put a trained classifier and its model card on the Hugging Face Hub."
    )
    add_run(parser, device=False)
    add = parser.add_argument
    add("repo", metavar="OWNER/NAME", help="made if there is none")
    add("--private", action="store_true", help="for you alone, when it is made")
    add("--licence", metavar="ID", help="for the model card, such as mit")
    add("--overwrite", action="store_true", help="replace the classifier that is there (its history stays)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = build_parser().parse_args(argv)
    from ..classifier.hub import push

    print(f"Pushed to {push(open_run(args), args.repo, args.private, args.licence, args.overwrite)}")
    return 0
