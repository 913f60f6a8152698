"""Why an image is answered as it is: which experts took it, and what each of them says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tabulate import tabulate

from ..trainers.model import PromptModel
from .images import Reader
from .labels import Label


@dataclass(frozen=True)
class Expert:
    """One expert's part in an answer.

    Attributes:
        template: that it was initialised from; weight: of its class features in the mixture, 0 if it was not chosen.
        label, probability: what it would answer alone.
    """

    template: str
    weight: float
    label: Label
    probability: float


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

    def __str__(self) -> str:
        head = f"{self.image}: {self.label} ({100 * self.probability:.1f}%)"
        rows = [[f"{e.weight:.3f}", e.template, f"{e.label} ({100 * e.probability:.1f}%)"] for e in self.experts]
        return f"{head}\n{tabulate(rows, ['weight', 'expert', 'its own answer'])}" if rows else head


@torch.no_grad()
def explain(model: PromptModel, labels: Sequence[Label], temperature: float, image: object) -> Explanation:
    """Explain the answer for one image.

    Args:
        model: with C classes; labels: of these; temperature: that logits are divided by.
        image: in any form that `images` knows.

    Raises:
        ImageError: it cannot be read.
    """
    (batch,) = Reader([image], model.backbone.preprocess, workers=1)
    features = model.encode_image(batch.images.to(model.device))
    table = (model.logits(features)[0].float() / temperature).softmax(dim=0).tolist()
    ranked = dict(sorted(zip(labels, table, strict=True), key=lambda pair: -pair[1]))
    best = next(iter(ranked))
    experts = []
    if hasattr(model, "route"):
        alone = model.logit_scale * features[0] @ model.class_features().transpose(1, 2)  # [G, C]
        own = (alone.float() / temperature).softmax(dim=1).max(dim=1)
        weights = model.route(features)[1][0].tolist()
        rows = zip(model.groups, weights, own.indices.tolist(), own.values.tolist(), strict=True)
        experts = [Expert(group[0], weight, labels[c], p) for group, weight, c, p in rows]
    return Explanation(batch.names[0], best, ranked[best], ranked, sorted(experts, key=lambda e: -e.weight))
