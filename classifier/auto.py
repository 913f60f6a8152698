"""Which method suits a few labelled images: cross-validation on these images only, within a given time.

What is compared is what one would get: each method with its own settings, on the same folds. Test images play no part.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from .. import methods
from ..clip import Backbone
from ..toolbox.dassl.errors import WrongValue
from .training import Plan, TrainingImages, Watch, held_out_logits, known_settings, settings, train


@dataclass
class Tried:
    """A method in the comparison.

    Attributes:
        method: its name; accuracy: share of held-out images that were right; nll: their mean log-loss (both None where
            it was not tried); seconds: what the comparison of it took; note: why it was not tried.
        logits, labels: of the held-out images, [n, C] and [n].
    """

    method: str
    accuracy: float | None = None
    nll: float | None = None
    seconds: float = 0.0
    note: str = ""
    logits: Tensor | None = None
    labels: Tensor | None = None

    def row(self) -> dict[str, object]:
        """What to show and to save."""
        return {name: getattr(self, name) for name in ("method", "accuracy", "nll", "seconds", "note")}


def plans(
    names: Sequence[str], backbone: Backbone, candidates: Sequence[str] | None, given: Mapping[str, object]
) -> list[Plan]:
    """A plan for each candidate; a user's settings hold for all methods that know them.

    Args:
        names: C class names; backbone: CLIP; candidates: names of methods (None = all); given: settings.

    Raises:
        MethodError: a candidate is not known.
        WrongValue: no candidate knows a setting, or its value makes no sense.
    """
    rows = [methods.named(name) for name in candidates] if candidates else list(methods.table().values())
    known = {row.name: {name for part in known_settings(row) for name in part} for row in rows}
    if unknown := [name for name in given if not any(name in every for every in known.values())]:
        raise WrongValue(f"no method among {', '.join(known)} has a setting {unknown[0]!r}")
    found = []
    for row in rows:
        own = {name: value for name, value in given.items() if name in known[row.name]}
        found.append(Plan(row, backbone, list(names), *settings(row, backbone.name, own)))
    return found


def compare(
    candidates: Sequence[Plan],
    data: TrainingImages,
    folds: int,
    seconds: float,
    seed: int = 1,
    watch: Watch | None = None,
) -> tuple[Plan, list[Tried]]:
    """The best candidate by held-out accuracy (of equal ones: by log-loss), and all that was tried, best first.

    Args:
        candidates: the methods; the first one is always tried.
        data: all labelled images; folds: K; seconds: for everything, the training of the best on all images included.
        seed: of folds and trainings; watch: see `training.train`.

    Raises:
        WrongValue: no image can be held out.
    """
    end, tried = time.monotonic() + seconds, []
    for plan in candidates:
        start = time.monotonic()
        record = attempt(plan, data, folds, seed, end - start if tried else None, watch)
        record.seconds = time.monotonic() - start
        tried.append(record)
    tried.sort(key=lambda r: (r.accuracy is None, -(r.accuracy or 0), r.nll or 0))
    if tried[0].accuracy is None:
        raise WrongValue(f"no method could be tried: {tried[0].method}: {tried[0].note}")
    return next(plan for plan in candidates if plan.row.name == tried[0].method), tried


def attempt(
    plan: Plan, data: TrainingImages, folds: int, seed: int, left: float | None, watch: Watch | None = None
) -> Tried:
    """Cross-validate one method if there is time for it.

    Args:
        plan: the method; data: all labelled images; folds: K; seed: of folds and trainings.
        left: seconds; None = it takes what it takes; watch: see `training.train`.

    Raises:
        WrongValue: no image can be held out.
    """
    record = Tried(plan.row.name)
    try:
        needed = expected_seconds(plan, data, folds, seed) if left is not None else 0.0
        if left is not None and needed > left:
            record.note = f"would take about {needed:.0f} s, {max(0, left):.0f} s are left"
            return record
        logits, labels = held_out_logits(plan, data, folds, seed, watch)
    except (ValueError, FloatingPointError) as error:  # not with this backbone or these names, or it diverged
        record.note = str(error)
        return record
    if not len(labels):
        raise WrongValue("no image can be held out: every class has one only; choose a method by name")
    record.logits, record.labels = logits, labels
    record.accuracy = float((logits.argmax(dim=1) == labels).double().mean())
    record.nll = float(F.cross_entropy(logits, labels))
    return record


def expected_seconds(plan: Plan, data: TrainingImages, folds: int, seed: int) -> float:
    """What comparing a method and training it on all images will take, from the second of two steps.

    Raises:
        ValueError: the method cannot be used with this backbone or these names.
    """
    model, count = plan.model(seed), len(data.labels)
    if not list(model.parameters()):
        return 0.0
    once = dataclasses.replace(plan.recipe, epochs=1, warmup_epochs=0)
    clock = [time.monotonic()]
    for _ in range(2):  # the first step also stores features
        train(model, data, range(min(count, once.batch_size)), once, seed)
        clock.append(time.monotonic())
    steps = max(1, count // once.batch_size) * plan.recipe.epochs
    return (clock[2] - clock[1]) * steps * folds  # K trainings on (K - 1) / K of the images, and one on all


def table(tried: Sequence[Tried | Mapping[str, object]]) -> str:
    """What was tried, as a table; accuracies in percent."""
    rows = [entry.row() if isinstance(entry, Tried) else entry for entry in tried]
    lines = [
        [
            row["method"],
            "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}",
            "" if row["nll"] is None else f"{row['nll']:.3f}",
            f"{row['seconds']:.1f}",
            row["note"],
        ]
        for row in rows
    ]
    return tabulate(lines, ["method", "held-out %", "log-loss", "seconds", "note"], disable_numparse=True)
