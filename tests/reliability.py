"""What was tried against the code and what came of it: tests record it, `pytest --reliability FILE` writes the table.

A test takes the fixture `record` and calls `record(kind, what, outcome)`: the kind of trial ("archives", "kills"), what
was tried ("tar with a chain of links"), and what came of it ("refused, nothing written"); `tries` if it was more than
one. Trials of a test that fails are written as FAILED, whatever it recorded. Works with pytest-xdist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from mocoop.toolbox.dassl.utils import write_text

PROPERTY = "reliability"
HEAD = """# What was tried, and what came of it

Written by the suite (`pytest --reliability=docs/RELIABILITY.md`); each line is counted while its test runs.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `--reliability` and `--kills`."""
    parser.addoption(
        "--reliability",
        metavar="FILE",
        help="write what was tried and what came of it to FILE (with =, also where the file exists)",
    )
    parser.addoption(
        "--kills", metavar="N", type=int, default=2, help="kill runs N times at random moments (default 2)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect in the process that sees all reports (with xdist, not in its workers)."""
    if config.getoption("--reliability") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Collector(Path(config.getoption("--reliability")).absolute()))


@pytest.fixture()
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`record(kind, what, outcome, tries=1)`: count a trial."""

    def add(kind: str, what: str, outcome: str, tries: int = 1) -> None:
        request.node.user_properties.append((PROPERTY, (kind, what, outcome, tries)))

    return add


class Collector:
    """Counts trials by kind, what and outcome, and writes them at the end."""

    def __init__(self, path: Path):
        self.path, self.counts = path, Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the trials out of a test's report."""
        if report.when != "call":
            return
        for name, value in report.user_properties:
            if name == PROPERTY:
                kind, what, outcome, tries = value
                self.counts[kind, what, outcome if report.passed else "FAILED"] += tries

    def pytest_sessionfinish(self) -> None:
        """Write the table, whole or not at all."""
        write_text(table(self.counts), self.path)


def table(counts: dict[tuple[str, str, str], int]) -> str:
    """The page: a section per kind, a line per trial."""
    page = [HEAD]
    for kind in sorted({kind for kind, _, _ in counts}):
        lines = sorted((what, outcome, n) for (k, what, outcome), n in counts.items() if k == kind)
        page.append(f"## {kind[0].upper()}{kind[1:]}: {sum(n for *_, n in lines):,} tries\n")
        page += ["| tried | times | what came of it |", "|---|---:|---|"]
        page += [f"| {escaped(what)} | {n:,} | {escaped(outcome)} |" for what, outcome, n in lines]
        page.append("")
    return "\n".join(page)


def escaped(text: str) -> str:
    """`text` fit for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", r"\|")
