"""`mocoop list methods|datasets|backbones|keys`: what there is."""

import argparse
import sys
from collections.abc import Sequence

from .. import methods
from ..config import CONFIGS
from ..toolbox.dassl.errors import ExpectedError


def rows(what: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of one list."""
    if what == "methods":
        return ["Method", "Scripts", "Trained", "Paper"], [
            [row.name, row.script, "yes" if row.trained else "no", row.paper] for row in methods.table().values()
        ]
    if what == "datasets":
        return ["Data set", "Config"], [[name, str(path)] for name, path in dataset_files()]
    if what == "keys":
        from ..plugin import all_keys

        return ["Key", "Default", "Meaning"], [
            [path, repr(key.default) if len(repr(key.default)) < 24 else "…", key.meaning]
            for path, key in all_keys().items()
        ]
    from ..clip import available_models

    return ["Backbone"], [[name] for name in available_models()]


def dataset_files() -> list[tuple[str, str]]:
    """What the scripts call each data set, and its config in the checkout."""
    return [(path.stem, f"configs/datasets/{path.name}") for path in sorted((CONFIGS / "datasets").glob("*.yaml"))]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a list; returns the exit code."""
    parser = argparse.ArgumentParser(prog="mocoop list", description="What there is.")
    parser.add_argument("what", choices=["methods", "datasets", "backbones", "keys"])
    what = parser.parse_args(argv).what
    try:
        heads, body = rows(what)
    except ExpectedError as error:  # a package's method that cannot be used
        print(f"Error: {error}", file=sys.stderr)
        return 1
    from tabulate import tabulate  # (a tenth of a second, which help need not wait for)

    print(tabulate(body, heads, tablefmt="plain", disable_numparse=True))
    return 0
