"""What tables and figures are made of: finished runs, and what is missing or wrong among them."""

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from ..methods import table
from ..runs.layout import TRANSFERS, Setting


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        setting, seed: which.
        folder: where it lies (None: read from a CSV file).
        metrics: {split: {metric: number}}.
        load_routing: reads {split: MoCoOp's routing record}, see `trainers/mocoop.py`; records of all runs at once
            would fill the memory where there are many.
    """

    setting: Setting
    seed: int
    folder: str | None
    metrics: dict[str, dict[str, float]]
    load_routing: Callable[[], dict[str, dict]] = dict

    @cached_property
    def routing(self) -> dict[str, dict]:
        """{split: MoCoOp's routing record}, read once."""
        return self.load_routing()


@dataclass
class Results:
    """All that was found.

    Attributes:
        runs: the finished runs, sorted.
        split: the split whose accuracy counts.
        seen: seeds of every setting that have a run folder, finished or not.
        notes: what is unfinished.
        problems: what is wrong, by setting; such a setting has no values, as its runs are not one experiment.
        damaged: what is wrong with single runs, which are left out.
    """

    runs: list[Run]
    split: str = "test"
    seen: dict[Setting, set[int]] = field(default_factory=dict)
    notes: dict[Setting, list[str]] = field(default_factory=dict)
    problems: dict[Setting, list[str]] = field(default_factory=dict)
    damaged: dict[Setting, list[str]] = field(default_factory=dict)

    def __post_init__(self):
        self._by_setting: dict[Setting, list[Run]] = {}
        for run in self.runs:
            self._by_setting.setdefault(run.setting, []).append(run)
            self.seen.setdefault(run.setting, set()).add(run.seed)

    def of(self, setting: Setting) -> list[Run]:
        """The finished runs of a setting, none if they are not one experiment."""
        return [] if setting in self.problems else self._by_setting.get(setting, [])

    def values(self, setting: Setting) -> dict[int, float]:
        """Accuracy in percent by seed."""
        return {run.seed: run.metrics[self.split]["accuracy"] for run in self.of(setting)}

    def errors(self) -> list[str]:
        """Everything that is wrong, one message each."""
        return [text for table in (self.damaged, self.problems) for key in sorted(table) for text in table[key]]


def select_dataset(found: Iterable[tuple[Setting, int, str]], dataset: str | None) -> list[tuple[Setting, int, str]]:
    """The runs on one data set, those from it to others, and the source runs that belong to these."""
    found = list(found)
    if dataset is None:
        return found
    kept = {setting for setting, _, _ in found if dataset in (setting.place.dataset, setting.place.part)}
    sources = {setting.place.part for setting in kept if setting.place.protocol in TRANSFERS}
    kept |= {s for s, _, _ in found if s.place.protocol == "source" and s.place.dataset in sources}
    return [item for item in found if item[0] in kept]


def method_order(method: str, config: str) -> tuple[int, str, str]:
    """Sorting key of methods: as in the table of names, others after them."""
    names = list(table())
    return names.index(method) if method in names else len(names), method, config


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a finite number that floats hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_percentage(value: object) -> bool:
    """Whether a value is a number from 0 to 100."""
    return is_number(value) and 0 <= value <= 100


def are_numbers(values: list) -> bool:
    """`is_number` for all values of a list, fast: there may be millions."""
    try:
        return {*map(type, values)} <= {int, float} and all(map(math.isfinite, values))
    except OverflowError:  # a whole number that no float holds
        return False
