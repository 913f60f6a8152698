"""Why an image is answered as it is: which experts took it, what each of them says, and what the others would say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from tabulate import tabulate
from torch import Tensor

from ..toolbox.dassl.utils import printable
from ..trainers.model import PromptModel
from .experts import alone_logits, has_router, left_out_logits
from .images import Images, Reader, Skipped, Unreadable
from .labels import Label


@dataclass(frozen=True)
class Expert:
    """One expert's part in an answer.

    Attributes:
        template: that it was initialised from; weight: of its class features in the mixture, 0 if it was not chosen.
        label, probability: what it would answer alone.
        left_out_label, left_out_probability: the answer without it (the next best expert takes its place); None if it
            is the only one.
    """

    template: str
    weight: float
    label: Label
    probability: float
    left_out_label: Label | None
    left_out_probability: float | None


@dataclass(frozen=True)
class Explanation:
    """An answer and how it came about.

    Attributes:
        image: name; label, probability: the answer; probabilities: of all classes, the most probable first.
        experts: all of them, the heaviest first; none for a method without a router.
    """

    image: str
    label: Label
    probability: float
    probabilities: dict[Label, float]
    experts: list[Expert]

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)

    def __str__(self) -> str:
        head = printable(f"{self.image}: {answer(self.label, self.probability)}")
        if not self.experts:
            return head
        rows = [
            [
                f"{e.weight:.3f}",
                e.template,
                printable(answer(e.label, e.probability)),
                printable(answer(e.left_out_label, e.left_out_probability)),
            ]
            for e in self.experts
        ]
        return f"{head}\n{tabulate(rows, ['weight', 'expert', 'it alone', 'without it'], disable_numparse=True)}"


def answer(label: Label | None, probability: float | None) -> str:
    """An answer as text."""
    return "-" if label is None else f"{label} ({100 * probability:.1f}%)"


def explain(model: PromptModel, labels: Sequence[Label], temperature: float, image: object) -> Explanation:
    """Explain the answer for one image.

    Args:
        model: with C classes; labels: of these; temperature: that logits are divided by.
        image: in any form that `images` knows.

    Raises:
        ImageError: it cannot be read.
    """
    (found,) = explain_each(model, labels, temperature, [image])
    return found


@torch.no_grad()
def explain_each(
    model: PromptModel,
    labels: Sequence[Label],
    temperature: float,
    images: Images,
    unreadable: Unreadable = "raise",
    skipped: list[Skipped] | None = None,
) -> Iterator[Explanation]:
    """Explain the answers for images, one after the other.

    Args:
        model, labels, temperature: see `explain`; images: in any form that `images` knows.
        unreadable: "raise", or "skip" images that cannot be read; skipped: a list that gets those.

    Raises:
        ImageError: an image cannot be read, with unreadable="raise".
    """
    reader = Reader(images, model.backbone.preprocess, batch_size=1, unreadable=unreadable)
    for batch in reader:
        features = model.encode_image(batch.images.to(model.device))
        table = probabilities(model.logits(features)[0], temperature).tolist()
        ranked = dict(sorted(zip(labels, table, strict=True), key=lambda pair: -pair[1]))
        best = next(iter(ranked))
        experts = experts_of(model, labels, temperature, features) if has_router(model) else []
        yield Explanation(batch.names[0], best, ranked[best], ranked, experts)
    if skipped is not None:
        skipped[:] = reader.skipped


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Calibrated probabilities, the shape of the logits: [..., C]."""
    return (logits.float() / temperature).softmax(dim=-1)


def experts_of(model: PromptModel, labels: Sequence[Label], temperature: float, features: Tensor) -> list[Expert]:
    """The experts' parts in the answer for one image, the heaviest first.

    Args:
        model: with a router; labels, temperature: see `explain`; features: [1, D].
    """
    scores, weights = model.route(features)
    alone = alone_logits(model, features)
    own = probabilities(alone[0], temperature).max(dim=1)
    others: list[tuple[Label | None, float | None]] = [(None, None)]
    if len(model.groups) > 1:
        without = probabilities(left_out_logits(alone, scores, model.topk)[0], temperature).max(dim=1)
        others = [(labels[c], p) for c, p in zip(without.indices.tolist(), without.values.tolist(), strict=True)]
    rows = zip(model.groups, weights[0].tolist(), own.indices.tolist(), own.values.tolist(), others, strict=True)
    found = [Expert(group[0], weight, labels[c], p, *other) for group, weight, c, p, other in rows]
    return sorted(found, key=lambda expert: -expert.weight)
