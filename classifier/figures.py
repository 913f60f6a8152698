"""Pictures of an evaluation: confusion matrix and reliability diagram. They need matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..results.figures import new_figure, save
from .calibration import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 40  # classes that a confusion matrix shows with their names
COUNTED = 20  # up to so many the numbers of images stand in its cells
BLUE, GREY = "#0072B2", "#BBBBBB"


def shown_classes(confusion: Sequence[Sequence[int]], most: int = MOST) -> list[int]:
    """The classes that a confusion matrix shows: all, or of more than `most` those with most mistakes, in order.

    A mistake counts for both classes, the one that it is and the one that it was taken for.

    Args:
        confusion: [C][C], images of true class (row) by answer (column).
    """
    table = np.asarray(confusion)
    if len(table) <= most:
        return list(range(len(table)))
    wrong = table.sum(axis=0) + table.sum(axis=1) - 2 * table.diagonal()
    return sorted(np.argsort(-wrong, kind="stable")[: most - 1].tolist())


def gathered(confusion: Sequence[Sequence[int]], shown: Sequence[int]) -> np.ndarray:
    """The confusion matrix of some classes [K, K]; with a last row and column for all others, if there are such."""
    table = np.asarray(confusion)
    if len(shown) == len(table):
        return table
    place = np.full(len(table), len(shown))
    place[list(shown)] = np.arange(len(shown))
    found = np.zeros((len(shown) + 1, len(shown) + 1), dtype=table.dtype)
    np.add.at(found, (place[:, None], place[None, :]), table)
    return found


def draw_confusion(evaluation: Evaluation, paths: Sequence[Path]) -> None:
    """Draw the confusion matrix, rows divided by their images, into files of several kinds.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    shown = shown_classes(evaluation.confusion)
    table = gathered(evaluation.confusion, shown)
    count, others = len(table), len(evaluation.classes) - len(shown)
    names = [str(evaluation.classes[c]) for c in shown] + ([f"{others} others"] if others else [])
    names = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    side = 3.2 + 0.24 * count
    figure = new_figure(side, side)
    axes = figure.subplots()
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(count), names, rotation=90, fontsize=8)
    axes.set_yticks(range(count), names, fontsize=8)
    axes.set(xlabel="answer", ylabel="class")
    title = f"the {len(shown)} of {len(evaluation.classes)} classes with most mistakes" if others else "all classes"
    axes.set_title(f"{title}; accuracy {100 * evaluation.accuracy:.1f}%", fontsize=10)
    if count <= COUNTED:
        for (row, column), images in np.ndenumerate(table):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(images) if images else "", ha="center", va="center", fontsize=7, color=colour)
    for path in paths:
        save(figure, path)


def draw_reliability(evaluation: Evaluation, path: Path) -> None:
    """Draw accuracy by confidence, and beneath it how many images have such a confidence.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    figure = new_figure(4.6, 5.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bars(above, evaluation, "accuracy")
    above.plot([0, 1], [0, 1], "--", color="black", linewidth=1, label="calibrated")
    points = [(row["confidence"], row["accuracy"]) for row in evaluation.reliability]
    above.plot(*zip(*points, strict=True), "o", color="black", markersize=3, label="mean of the bin")
    above.set(ylabel="accuracy", ylim=(0, 1), title=f"calibration error (ECE) {100 * evaluation.ece:.1f}%")
    above.legend(fontsize=8, loc="upper left")
    bars(below, evaluation, "share")
    below.set(xlabel="probability of the answer", ylabel="share of images", xlim=(0, 1))
    save(figure, path)


def bars(axes: Axes, evaluation: Evaluation, what: str) -> None:
    """A bar for each bin of the reliability diagram."""
    low, high, values = ([row[key] for row in evaluation.reliability] for key in ("low", "high", what))
    width = [b - a for a, b in zip(low, high, strict=True)]
    axes.bar(low, values, width, align="edge", color=BLUE if what == "accuracy" else GREY, edgecolor="white")
