"""The figures of a report: from labelled images, from `mocoop evaluate`'s files, or held out while training."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..classifier.calibration import FIGURES, evaluate
from ..classifier.classifier import Classifier, Predicted
from ..classifier.experts import Routing, has_router, survey
from ..classifier.images import Skipped
from ..classifier.labels import Label, as_known, labelled, positions
from ..classifier.recorded import fault_of_figures
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import read_json

MISTAKES = 24  # shown
EVALUATION, PREDICTIONS = "evaluation.json", "predictions.csv"  # of `mocoop evaluate`, in the run's folder


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the image, its true label and probability (None if not kept), the answer and its probability."""

    image: str
    label: Label
    probability: float | None
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
    truth = positions(as_known(found.labels, classes), classes)
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


# ---- what `mocoop evaluate` left
# ---------------------------------------------------------------------------------------------------------


def from_evaluation(classifier: Classifier, folder: Path) -> Measured | None:
    """The figures that `mocoop evaluate` has left in a run's folder; None if there are none.

    Raises:
        WrongValue: the files are damaged, or of another classifier.
    """
    path = folder / EVALUATION
    if not path.exists():
        return None
    try:
        record = read_json(path)
        check_record(record, classifier)
    except ValueError as error:
        raise WrongValue(f"{path} cannot be used: {error}. Run `mocoop evaluate` again, or delete it") from error
    return Measured(
        source=f"{record['images']:,} labelled images of the folder “{Path(str(record.get('folder', ''))).name}”",
        classes=record["classes"],
        figures={name: record[name] for name in FIGURES},
        confusion=record["confusion"],
        reliability=record["reliability"],
        mistakes=written_mistakes(folder / PREDICTIONS, classifier.classes_.tolist()),
        seen=True,
        skipped=len(record.get("skipped", [])),
    )


def check_record(record: object, classifier: Classifier) -> None:
    """Refuse an evaluation that is not whole, or not of this classifier.

    Raises:
        WrongValue: naming what is wrong.
    """
    if not isinstance(record, Mapping):
        raise WrongValue("expected an object")
    if missing := [name for name in (*FIGURES, "classes", "confusion", "reliability") if name not in record]:
        raise WrongValue(f"it lacks {', '.join(missing)}")
    classes = classifier.classes_.tolist()
    for name, expected in (("method", classifier.model.method), ("temperature", classifier.temperature_)):
        if record.get(name, expected) != expected:
            raise WrongValue(f"it is of another classifier: {name} is {record[name]!r} there, {expected!r} here")
    if record["classes"] != classes:
        raise WrongValue("it is of a classifier with other classes")
    for name in FIGURES:
        if not (isinstance(record[name], int | float) or (name == "precision" and record[name] is None)):
            raise WrongValue(f"{name} is no number")
    table = record["confusion"]
    rows = isinstance(table, list) and all(isinstance(row, list) and len(row) == len(classes) for row in table)
    if not rows or len(table) != len(classes) or not all(type(count) is int for row in table for count in row):
        raise WrongValue(f"its confusion matrix has not {len(classes)} x {len(classes)} whole numbers")
    check_bins(record["reliability"])
    figures = {"held_out": {name: record[name] for name in FIGURES}, "reliability": record["reliability"]}
    if fault := fault_of_figures({**figures, "confusion": table}, len(classes)):
        raise WrongValue("expected " + fault.replace("figures.held_out.", "").replace("figures.", ""))


def check_bins(rows: object) -> None:
    """Refuse a reliability diagram that is not as `calibration.reliability` makes it.

    Raises:
        WrongValue: it is not.
    """
    names = ("low", "high", "share", "confidence", "accuracy")
    good = isinstance(rows, list) and all(
        isinstance(row, Mapping) and all(isinstance(row.get(name), int | float) for name in names) for row in rows
    )
    if not good:
        raise WrongValue(f"its reliability is no list of {', '.join(names)}")


def written_mistakes(path: Path, classes: Sequence[Label], count: int = MISTAKES) -> list[Mistake]:
    """The most confident wrong answers of a predictions.csv, [] if there is none.

    Raises:
        WrongValue: it is damaged.
    """
    if not path.exists():
        return []
    named = {str(label): label for label in classes}
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            wrong = [
                Mistake(row["image"], named[row["label"]], None, named[row["answer"]], float(row["probability"]))
                for row in csv.DictReader(file)
                if row["label"] != row["answer"]
            ]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise WrongValue(f"{path} is damaged ({error!r:.200}): run `mocoop evaluate` again") from error
    return sorted(wrong, key=lambda mistake: -mistake.confidence)[:count]
