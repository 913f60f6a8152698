"""What a report shows, gathered from a classifier, its run's folder and, if given, labelled images."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..classifier.classifier import Classifier
from ..classifier.experts import ExpertRecord, has_router, no_router
from ..classifier.labels import Label
from ..classifier.sheets import thumbnail
from ..classifier.words import NAME, WARNING, PromptWords, why_no_words
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import read_json
from ..trainers.records import ENVIRONMENT, read_epochs
from .card import Fact, facts, limits
from .charts import LineChart, ReliabilityChart, line_chart, reliability_chart
from .measured import ClassRow, Measured, Mistake, from_evaluation, from_held_out, from_images

MATRIX = 30  # classes up to which the confusion matrix and the routing table are shown whole
PAIRS = 40  # most confused pairs shown
PICTURES = 10  # of each expert
EXPERTS = 24  # with pictures
PROMPTS = 12  # whose words are shown
WORDS = 3  # for each vector
SIDE, QUALITY = 160, 80  # of pictures: pixels, JPEG


@dataclass(frozen=True)
class Picture:
    """A small picture inside of the page; uri is None if the image is gone or cannot be read any more."""

    uri: str | None
    name: str


@dataclass(frozen=True)
class ShownMistake:
    """A mistake with its picture."""

    mistake: Mistake
    picture: Picture


@dataclass(frozen=True)
class ShownExpert:
    """An expert: its templates, the words of its context vectors, its figures and pictures if images were given."""

    number: int
    templates: list[str]
    words: PromptWords | None
    record: ExpertRecord | None
    effect: float | None
    pictures: list[tuple[Picture, float]]


@dataclass(frozen=True)
class Content:
    """All that the page shows.

    Attributes:
        title: name of the run; facts: the model card; limits: sentences; settings: the model's arguments as JSON.
        measured, rows: figures and per-class table; None and [] if nothing was measured.
        interval: 95% interval of the accuracy, as fractions (Wilson's).
        matrix: the confusion matrix, None if there are too many classes; pairs: the most confused pairs.
        reliability, curves: diagrams; mistakes, experts, prompts: see there; templates: of a zero-shot method.
        no_experts, no_words, warning: what to say in their place, or beside them.
    """

    title: str
    method: str
    backbone: str
    facts: list[Fact]
    limits: list[str]
    settings: str
    measured: Measured | None
    interval: tuple[float, float] | None
    rows: list[ClassRow]
    matrix: list[list[int]] | None
    pairs: list[tuple[Label, Label, int, float]]
    reliability: ReliabilityChart | None
    mistakes: list[ShownMistake]
    experts: list[ShownExpert]
    routing_table: bool
    no_experts: str
    prompts: list[PromptWords]
    more_prompts: int
    no_words: str
    warning: str
    name_mark: str
    templates: list[str]
    curves: list[LineChart]


def gather(classifier: Classifier, run: str | Path, images: str | Path | None = None, batch_size: int = 64) -> Content:
    """Everything that the report of a classifier shows.

    Args:
        classifier: the loaded one; run: the folder or file that it is from.
        images: a folder of labelled images; None = what `mocoop evaluate` has left in the run's folder, else what was
            measured while training, if anything.
        batch_size: images encoded at once.

    Raises:
        FileNotFoundError, DataError, WrongValue: `images` is no such folder; a record of the run is damaged.
    """
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    epochs, env = read_epochs(folder), read_environment(folder)
    measured = measure(classifier, folder, images, batch_size)
    model = classifier.model
    no_words = why_no_words(model)
    words = [] if no_words else classifier.words(WORDS)
    small = measured is not None and len(measured.classes) <= MATRIX
    return Content(
        title=Path(run).resolve().name,
        method=model.method,
        backbone=model.backbone.name,
        facts=facts(classifier, env, len(epochs)),
        limits=limits(classifier, measured),
        settings=json.dumps(model.arguments(), indent=2, ensure_ascii=False),
        measured=measured,
        interval=None if measured is None else wilson(measured.figures["accuracy"], measured.figures["images"]),
        rows=[] if measured is None else measured.rows(),
        matrix=measured.confusion if small else None,
        pairs=[] if measured is None else measured.confused(PAIRS),
        reliability=reliability_chart(measured.reliability) if measured and measured.reliability else None,
        mistakes=[] if measured is None else [show_mistake(mistake) for mistake in measured.mistakes],
        experts=show_experts(classifier, words, measured),
        routing_table=small and measured.routing is not None,
        no_experts="" if has_router(model) else no_router(model),
        prompts=[] if has_router(model) else words[:PROMPTS],
        more_prompts=0 if has_router(model) else max(0, len(words) - PROMPTS),
        no_words=no_words,
        warning=WARNING,
        name_mark=NAME,
        templates=list(model.arguments().get("templates", [])),
        curves=learning_curves(epochs),
    )


def measure(classifier: Classifier, folder: Path, images: str | Path | None, batch_size: int = 64) -> Measured | None:
    """The figures of a report: on `images`; without, those that the run's folder has; None if there are none."""
    if images is not None:
        return from_images(classifier, images, batch_size)
    return from_evaluation(classifier, folder) or from_held_out(classifier)


def read_environment(folder: Path) -> dict[str, object]:
    """The run's env.json, {} if there is none.

    Raises:
        WrongValue: it is damaged.
    """
    path = folder / ENVIRONMENT
    if not path.exists():
        return {}
    try:
        found = read_json(path)
    except ValueError as error:
        raise WrongValue(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise WrongValue(f"{path} is damaged: expected an object")
    return found


def wilson(accuracy: float, images: int) -> tuple[float, float]:
    """The 95% interval of an accuracy measured on so many images (Wilson 1927), as fractions."""
    from scipy.stats import binomtest

    found = binomtest(round(accuracy * images), images).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


# ---- pictures
# ----------------------------------------------------------------------------------------------------------------


def show_picture(path: str) -> Picture:
    """An image as a small JPEG inside of the page."""
    small = thumbnail(path, SIDE)
    if small is None:
        return Picture(None, Path(path).name)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY, optimize=True)
    return Picture("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(), Path(path).name)


def show_mistake(mistake: Mistake) -> ShownMistake:
    """A mistake with its picture."""
    return ShownMistake(mistake, show_picture(mistake.image))


def show_experts(classifier: Classifier, words: Sequence[PromptWords], measured: Measured | None) -> list[ShownExpert]:
    """The experts with words, figures and pictures, in the order of the model; [] without a router."""
    if not has_router(classifier.model):
        return []
    routing = None if measured is None else measured.routing
    shown = []
    for g, group in enumerate(classifier.model.groups):
        record = routing.experts[g] if routing else None
        given = record.images[:PICTURES] if record and g < EXPERTS else []
        lost = None if record is None or record.left_out is None else routing.accuracy - record.left_out
        pictures = [(show_picture(entry.image), entry.weight) for entry in given]
        shown.append(ShownExpert(g + 1, list(group), words[g] if words else None, record, lost, pictures))
    return shown


# ---- training
# ----------------------------------------------------------------------------------------------------------------


def learning_curves(epochs: Sequence[Mapping[str, object]]) -> list[LineChart]:
    """Diagrams of loss and accuracy over epochs; those that were not recorded are left out."""
    losses = [name for name in names_in(epochs) if name == "loss" or name.startswith("loss_")]
    charts = [
        line_chart("Loss", "epoch", {name: column(epochs, name) for name in losses}),
        line_chart("Accuracy on the training batches, %", "epoch", {"accuracy": column(epochs, "acc")}, y_top=100),
    ]
    return [chart for chart in charts if chart]


def names_in(epochs: Sequence[Mapping[str, object]]) -> list[str]:
    """The names of entries, in the order in which they first occur."""
    return list(dict.fromkeys(name for record in epochs for name in record))


def column(epochs: Sequence[Mapping[str, object]], name: str) -> list[tuple[float, float]]:
    """(epoch, value) of one entry where it is a number."""
    return [
        (float(record["epoch"]), float(record[name]))
        for record in epochs
        if isinstance(record.get(name), int | float) and not isinstance(record[name], bool)
    ]
