"""What the experts of a method with a router do: each alone, the others without it, and which images each is given.

A method has a router if its model has `route(features)`; it then also has `groups` (templates of each expert), `topk`
and class features [G, C, D]. Axes: B images, G experts, C classes, D joint width.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from tabulate import tabulate
from torch import Tensor

from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import printable
from ..trainers.mocoop import topk_softmax
from ..trainers.model import PromptModel
from .labels import Label

SHOWN = 24  # images of each expert that are named


def has_router(model: PromptModel) -> bool:
    """Whether the method chooses among experts."""
    return hasattr(model, "route")


def no_router(model: PromptModel) -> str:
    """What to say of a method without one."""
    return f"{model.method} has no router: every image is scored with the same prompts, so there are no experts to show"


def alone_logits(model: PromptModel, features: Tensor) -> Tensor:
    """What each expert would score by itself: features [B, D] of norm 1 -> [B, G, C]."""
    return model.logit_scale * torch.einsum("bd,gcd->bgc", features, model.class_features())


def left_out_weights(scores: Tensor, k: int) -> Tensor:
    """The weights of the mixture when each expert in turn may not be chosen; the next best then takes its place.

    Args:
        scores: router logits [B, G], G >= 2; k: experts kept.

    Returns:
        [B, G left out, G], rows sum to 1, zero on the diagonal.
    """
    B, G = scores.shape
    itself = torch.eye(G, dtype=torch.bool, device=scores.device)
    without = scores[:, None].expand(B, G, G).masked_fill(itself, -torch.inf)
    return topk_softmax(without.flatten(0, 1), k).view(B, G, G)


def left_out_logits(alone: Tensor, scores: Tensor, k: int) -> Tensor:
    """What the others score when each expert in turn is left out: [B, G, C].

    Args:
        alone: of `alone_logits`, [B, G, C]; scores, k: see `left_out_weights`.
    """
    return torch.einsum("bgh,bhc->bgc", left_out_weights(scores, k), alone)


# ---- over labelled images
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """An image that an expert has a part in: its name, true label and answer, and the expert's weight."""

    image: str
    label: Label
    answer: Label
    weight: float


@dataclass(frozen=True)
class ExpertRecord:
    """One expert over labelled images. Accuracies are fractions.

    Attributes:
        template: that it was initialised from.
        share: mean weight over images; first: images whose heaviest expert it is.
        alone: accuracy of all images scored by it alone.
        left_out: accuracy without it; None if it is the only one.
        images: that it weighs most in, the heaviest first, at most `SHOWN`.
    """

    template: str
    share: float
    first: int
    alone: float
    left_out: float | None
    images: list[Given]


@dataclass(frozen=True)
class Routing:
    """Which experts labelled images go to, and what that is good for.

    Attributes:
        images: N; accuracy: of the mixture, a fraction.
        classes: C labels; by_class: mean weights [C][G] of each class's images, None where there are none.
        experts: G of them.
    """

    images: int
    accuracy: float
    classes: list[Label]
    by_class: list[list[float] | None]
    experts: list[ExpertRecord]

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            [g + 1, e.template, f"{e.share:.3f}", e.first, percent(e.alone), percent(e.left_out), self.effect(e)]
            for g, e in enumerate(self.experts)
        ]
        heads = ["", "expert", "mean weight", "heaviest in", "alone", "without it", "it brings"]
        head = f"Accuracy on {self.images} images: {percent(self.accuracy)}"
        return f"{head}\n{tabulate(rows, heads, disable_numparse=True)}\n\n{self.class_table()}"

    def effect(self, expert: ExpertRecord) -> str:
        """The points of accuracy that an expert brings: what is lost without it, as text."""
        return "-" if expert.left_out is None else f"{100 * (self.accuracy - expert.left_out):+.1f}"

    def class_table(self) -> str:
        """Mean weights, a row for each class, a column for each expert."""
        filled = [(label, row) for label, row in zip(self.classes, self.by_class, strict=True) if row]
        rows = [[printable(str(label)), *(f"{weight:.2f}" for weight in row)] for label, row in filled]
        return tabulate(rows, ["class", *range(1, len(self.experts) + 1)], disable_numparse=True)


def percent(fraction: float | None) -> str:
    """A fraction as text."""
    return "-" if fraction is None else f"{100 * fraction:.1f}%"


class _Sums:
    """What is added up over batches: weights [C, G] by class, counts, right answers, and the images of each expert."""

    def __init__(self, classes: int, experts: int):
        self.weights = torch.zeros(classes, experts, dtype=torch.float64)
        self.counts = torch.zeros(classes, dtype=torch.long)
        self.first, self.alone, self.without = (torch.zeros(experts, dtype=torch.long) for _ in range(3))
        self.right = 0
        self.top: list[list[tuple[float, int, str, int, int]]] = [[] for _ in range(experts)]


@torch.no_grad()
def survey(
    model: PromptModel,
    classes: Sequence[Label],
    batches: Iterable[tuple[Sequence[int], Sequence[str], Tensor]],
    truth: Sequence[int],
) -> Routing:
    """Follow labelled images through the router, in constant memory.

    Args:
        model: with a router; classes: its C labels.
        batches: (places in `truth`, names, image features [B, D] of norm 1).
        truth: the place of every image's class among the C.

    Raises:
        WrongValue: the method has no router, or there are no images.
    """
    if not has_router(model):
        raise WrongValue(no_router(model))
    sums, labels = _Sums(len(classes), len(model.groups)), torch.tensor(truth, dtype=torch.long)
    for indices, names, features in batches:
        _add(sums, model, list(indices), names, features, labels[list(indices)])
    count = int(sums.counts.sum())
    if not count:
        raise WrongValue("expected labelled images to follow through the router, found none that can be read")
    return Routing(
        images=count,
        accuracy=sums.right / count,
        classes=list(classes),
        by_class=[(row / n).tolist() if n else None for row, n in zip(sums.weights, sums.counts.tolist(), strict=True)],
        experts=[_record(sums, g, group[0], classes, count) for g, group in enumerate(model.groups)],
    )


def _add(
    sums: _Sums, model: PromptModel, places: list[int], names: Sequence[str], features: Tensor, truth: Tensor
) -> None:
    scores, weights = model.route(features)
    alone = alone_logits(model, features)
    answer = torch.einsum("bg,bgc->bc", weights, alone).argmax(dim=1).cpu()
    truth_there = truth.to(alone.device)[:, None]
    weights = weights.cpu().double()
    sums.weights.index_add_(0, truth, weights)
    sums.counts += torch.bincount(truth, minlength=len(sums.counts))
    sums.first += torch.bincount(weights.argmax(dim=1), minlength=len(sums.first))
    sums.right += int((answer == truth).sum())
    sums.alone += (alone.argmax(dim=2) == truth_there).sum(dim=0).cpu()
    if weights.shape[1] > 1:
        without = left_out_logits(alone, scores, model.topk)
        sums.without += (without.argmax(dim=2) == truth_there).sum(dim=0).cpu()
    for b, (place, name) in enumerate(zip(places, names, strict=True)):
        for g, top in enumerate(sums.top):
            if weights[b, g] > 0:  # of equal weights the first images are kept
                entry = (float(weights[b, g]), -place, name, int(truth[b]), int(answer[b]))
                (heapq.heappush if len(top) < SHOWN else heapq.heappushpop)(top, entry)


def _record(sums: _Sums, g: int, template: str, classes: Sequence[Label], count: int) -> ExpertRecord:
    top = sorted(sums.top[g], reverse=True)
    return ExpertRecord(
        template=template,
        share=float(sums.weights[:, g].sum()) / count,
        first=int(sums.first[g]),
        alone=int(sums.alone[g]) / count,
        left_out=int(sums.without[g]) / count if len(sums.top) > 1 else None,
        images=[Given(name, classes[t], classes[a], weight) for weight, _, name, t, a in top],
    )
