"""The figures of a report: from labelled images, or those that were held out while training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..classifier.calibration import evaluate
from ..classifier.classifier import Classifier, Predicted
from ..classifier.experts import Routing, has_router, survey
from ..classifier.images import Skipped
from ..classifier.labels import Label, labelled, positions
from ..toolbox.dassl.errors import WrongValue

MISTAKES = 24  # shown


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the image, its true label and probability, the answer and its probability."""

    image: str
    label: Label
    probability: float
    answer: Label
    confidence: float


@dataclass(frozen=True)
class ClassRow:
    """One class. Accuracy and precision are fractions, None where there is nothing to divide by.

    Attributes:
        images: of this class; accuracy: share of them that are answered so (recall).
        precision: share of the answers "this class" that are right.
        taken_for: the wrong answer that is most frequent, None without one; times: how often.
        expert: number (from 1) of the expert with the largest mean weight; weight: that.
    """

    label: Label
    images: int
    accuracy: float | None
    precision: float | None
    taken_for: Label | None
    times: int
    expert: int | None = None
    weight: float | None = None


@dataclass(frozen=True)
class Measured:
    """What is known of a classifier's answers.

    Attributes:
        source: which images, in words; classes: C labels; figures: see `Evaluation.figures`.
        confusion: [C][C], true class by answer; reliability: see `calibration.reliability`, None if not kept.
        mistakes: the most confident ones first; routing: None for a method without a router, or if not measured.
        seen: whether the images themselves are at hand; skipped: images that could not be read.
    """

    source: str
    classes: list[Label]
    figures: dict[str, float | int | None]
    confusion: list[list[int]]
    reliability: list[dict[str, float]] | None
    mistakes: list[Mistake] = field(default_factory=list)
    routing: Routing | None = None
    seen: bool = False
    skipped: int = 0

    def rows(self) -> list[ClassRow]:
        """The per-class table, in the order of the classes."""
        table = torch.tensor(self.confusion)
        answers = table.sum(dim=0).tolist()
        by_class = self.routing.by_class if self.routing else [None] * len(self.classes)
        return [self._row(c, table[c].tolist(), answers[c], by_class[c]) for c in range(len(self.classes))]

    def _row(self, c: int, row: Sequence[int], answered: int, weights: Sequence[float] | None) -> ClassRow:
        images, right = sum(row), row[c]
        wrong = [0 if other == c else count for other, count in enumerate(row)]
        most = max(range(len(row)), key=lambda other: wrong[other])
        heaviest = max(range(len(weights)), key=lambda g: weights[g]) if weights else None
        return ClassRow(
            label=self.classes[c],
            images=images,
            accuracy=right / images if images else None,
            precision=right / answered if answered else None,
            taken_for=self.classes[most] if wrong[most] else None,
            times=wrong[most],
            expert=None if heaviest is None else heaviest + 1,
            weight=None if heaviest is None else weights[heaviest],
        )

    def confused(self, count: int) -> list[tuple[Label, Label, int, float]]:
        """The pairs (true class, answer, images, share of the class's images) that occur most, at most `count`."""
        table = torch.tensor(self.confusion)
        support = table.sum(dim=1)
        wrong = table.clone().fill_diagonal_(0)
        best = wrong.flatten().topk(min(count, wrong.numel()))
        places = [(int(i) // len(self.classes), int(i) % len(self.classes)) for i in best.indices]
        return [
            (self.classes[a], self.classes[b], times, times / int(support[a]))
            for (a, b), times in zip(places, best.values.tolist(), strict=True)
            if times
        ]


def from_images(classifier: Classifier, folder: str | Path, batch_size: int = 64) -> Measured:
    """The figures on a folder of labelled images (where it has `train/` and `test/`, `test/` is taken).

    Raises:
        FileNotFoundError, DataError: there is no such folder, or nothing in it; WrongValue: a class is not known, or no
            image can be read.
    """
    found = labelled(folder, None, "test", None)
    classes = classifier.classes_.tolist()
    truth = positions(found.labels, classes)
    skipped: list[Skipped] = []
    stream = classifier.stream(found.images, batch_size, "skip", skipped)
    batches = list(with_bar(stream, len(found.images)))
    if not batches:
        raise WrongValue(f"{folder}: none of its {len(found.images)} images can be read ({skipped[0].reason})")
    indices = [index for batch in batches for index in batch.indices]
    names = [name for batch in batches for name in batch.names]
    probabilities = torch.cat([batch.probabilities for batch in batches])
    labels = torch.tensor([truth[index] for index in indices])
    result = evaluate(probabilities, labels, classes, classifier.threshold_)
    seen = ((batch.indices, batch.names, batch.features) for batch in batches)
    return Measured(
        source=f"{len(indices):,} labelled images of the folder “{Path(folder).resolve().name}”",
        classes=classes,
        figures=result.figures(),
        confusion=result.confusion,
        reliability=result.reliability,
        mistakes=worst_mistakes(names, probabilities, labels, classes),
        routing=survey(classifier.model, classes, seen, truth) if has_router(classifier.model) else None,
        seen=True,
        skipped=len(skipped),
    )


def with_bar(batches: Iterator[Predicted], images: int) -> Iterator[Predicted]:
    """The batches, with a progress bar on a terminal."""
    with tqdm(total=images, unit="image", disable=None, leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.indices))


def worst_mistakes(
    names: Sequence[str], probabilities: Tensor, labels: Tensor, classes: Sequence[Label], count: int = MISTAKES
) -> list[Mistake]:
    """The wrong answers with the highest probabilities.

    Args:
        names: N; probabilities: [N, C]; labels: [N]; classes: C labels; count: how many, at most.
    """
    confidence, answer = probabilities.max(dim=1)
    wrong = (answer != labels).nonzero()[:, 0]
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:count].tolist()
    return [
        Mistake(
            image=names[i],
            label=classes[int(labels[i])],
            probability=float(probabilities[i, labels[i]]),
            answer=classes[int(answer[i])],
            confidence=float(confidence[i]),
        )
        for i in order
    ]


def from_held_out(classifier: Classifier) -> Measured | None:
    """The figures on images that were held out in turn while training; None if there are none."""
    kept = classifier.figures_
    if not kept.get("held_out") or not kept.get("confusion"):
        return None
    return Measured(
        source="the training images, each held out while the others trained (cross-validation)",
        classes=classifier.classes_.tolist(),
        figures=kept["held_out"],
        confusion=kept["confusion"],
        reliability=kept.get("reliability"),
    )
