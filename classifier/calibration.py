"""How far probabilities can be trusted: temperature, threshold of "unsure", and the figures of an evaluation.

Guo, Pleiss, Sun, Weinberger: "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599: temperature, ECE.
All is fitted on logits of images that the model was not trained on. Accuracies are fractions, 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

BINS = 15  # of the expected calibration error, as in the paper
FIGURES = ("images", "accuracy", "nll", "brier", "ece", "answered", "precision")  # one number for all classes
RANGE = 10.0  # the temperature is sought from 1 / RANGE to RANGE


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T that makes softmax(logits / T) fit best by log-loss.

    Where no image is wrong, the log-loss falls without end as T does, which says nothing; T is then at least 1.

    Args:
        logits: [N, C] of held-out images; labels: [N]; N = 0 gives 1.
    """
    if not len(labels):
        return 1.0
    from scipy.optimize import minimize_scalar  # (half a second, which prediction need not wait for)

    wrong = bool((logits.argmax(dim=1) != labels).any())

    def loss(log_t: float) -> float:
        return float(F.cross_entropy(logits.double() / math.exp(log_t), labels))

    low = -math.log(RANGE) if wrong else 0.0
    return math.exp(minimize_scalar(loss, bounds=(low, math.log(RANGE)), method="bounded").x)


def fit_threshold(probabilities: Tensor, labels: Tensor, precision: float | None) -> float:
    """The lowest probability from which answers on held-out images are right as often as wanted.

    Args:
        probabilities: [N, C]; labels: [N]; precision: wanted, 0 to 1; None = answers are always given.

    Returns:
        0 if all answers together are good enough; above 1 (never answered) if no part of them is.
    """
    if precision is None:
        return 0.0
    confidence, answer = probabilities.max(dim=1)
    order = confidence.argsort(descending=True)
    right = (answer == labels)[order].double().cumsum(dim=0) / torch.arange(1, len(labels) + 1)
    sorted_confidence = confidence[order]
    ends = torch.ones(len(labels), dtype=torch.bool)
    ends[:-1] = sorted_confidence[:-1] > sorted_confidence[1:]  # equal probabilities are answered alike
    good = ((right >= precision) & ends).nonzero()[:, 0]
    if not len(good):
        return 2.0
    return 0.0 if int(good[-1]) == len(labels) - 1 else float(sorted_confidence[good[-1]])


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Mean distance between confidence and accuracy over bins of equal width (§2 of the paper).

    Args:
        probabilities: [N, C]; labels: [N]; bins: over (0, 1].
    """
    return sum(
        row["share"] * abs(row["accuracy"] - row["confidence"]) for row in reliability(probabilities, labels, bins)
    )


def reliability(probabilities: Tensor, labels: Tensor, bins: int = BINS) -> list[dict[str, float]]:
    """The reliability diagram: of each bin that is not empty its bounds, share of images, confidence and accuracy."""
    confidence, answer = probabilities.double().max(dim=1)
    right = (answer == labels).double()
    place = (confidence * bins).ceil().clamp(1, bins) - 1
    rows = []
    for k in place.unique().tolist():
        inside = place == k
        rows.append(
            {
                "low": k / bins,
                "high": (k + 1) / bins,
                "share": float(inside.double().mean()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
            }
        )
    return rows


class Judged(NamedTuple):
    """An image with its true label, the answer, and the probability of that."""

    image: str
    label: str | int
    answer: str | int
    probability: float


@dataclass
class Evaluation:
    """What a classifier does on labelled images. Accuracies are fractions.

    Attributes:
        images: N; classes: C labels in order.
        accuracy: share of images whose most probable class is right.
        nll: mean log-loss; brier: mean squared distance between probabilities and truth, summed over classes;
            ece: expected calibration error.
        answered: share of images with a probability of at least the threshold; precision: accuracy of these (None if
            there are none).
        per_class: accuracy of each class (None where there was no image); support: images of each class.
        confusion: [C][C], images of true class (row) by answer (column).
        reliability: see there; skipped: images that could not be read.
        judged: every image with its answer (what `to_dict` leaves out).
    """

    images: int
    classes: list
    accuracy: float
    nll: float
    brier: float
    ece: float
    answered: float
    precision: float | None
    per_class: list[float | None]
    support: list[int]
    confusion: list[list[int]]
    reliability: list[dict[str, float]]
    skipped: list = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return {name: value for name, value in asdict(self).items() if name != "judged"}

    def figures(self) -> dict[str, float | int | None]:
        """The numbers that are one for all classes."""
        return {name: getattr(self, name) for name in FIGURES}

    def __str__(self) -> str:
        lines = [[name, "-" if value is None else f"{value:.4g}"] for name, value in self.figures().items()]
        return tabulate(lines, disable_numparse=True, tablefmt="plain")


def evaluate(probabilities: Tensor, labels: Tensor, classes: Sequence, threshold: float = 0.0) -> Evaluation:
    """The figures of N predictions.

    Args:
        probabilities: [N, C]; labels: [N], whole numbers below C; classes: C labels; threshold: of an answer.
    """
    count, C = len(labels), len(classes)
    confidence, answer = probabilities.max(dim=1)
    right = answer == labels
    confusion = torch.bincount(labels * C + answer, minlength=C * C).view(C, C)
    support = confusion.sum(dim=1).tolist()
    sure = confidence >= threshold
    chosen = probabilities.double()
    return Evaluation(
        images=count,
        classes=list(classes),
        accuracy=float(right.double().mean()),
        nll=float(-chosen.gather(1, labels[:, None]).clamp(min=torch.finfo(torch.float32).tiny).log().mean()),
        brier=float((chosen - F.one_hot(labels, C)).square().sum(dim=1).mean()),
        ece=expected_calibration_error(probabilities, labels),
        answered=float(sure.double().mean()),
        precision=float(right[sure].double().mean()) if sure.any() else None,
        per_class=[int(confusion[c, c]) / n if n else None for c, n in enumerate(support)],
        support=support,
        confusion=confusion.tolist(),
        reliability=reliability(probabilities, labels),
    )
