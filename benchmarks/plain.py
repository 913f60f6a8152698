"""The plain path: the methods computed the way their published code does it. What the benchmarks compare with.

The same mathematics as `mocoop.trainers` (tests: loss and gradient equal), the same optimizer step, but
- every prompt is padded to 77 positions and goes through open_clip's own transformer with a full mask;
- MoCoOp's experts are encoded one after the other, their prompts put together class by class; what the class logits
  need (classes present) and what the text loss needs (all names) are encoded separately, so most prompts twice a step;
  the routed features are gathered as [B, K, C, D]. LASP encodes twice as well;
- CoCoOp encodes one image's prompts after the other;
- images go through open_clip's own tower;
- in evaluation everything is encoded again for every batch (MoCoOp: also the text loss's prompts, whose features are
  then not used);
- memory is what autograd keeps.
Errors of the published code (facts about word counts, class order, devices) are not reproduced: they do not run.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..trainers.cocoop import CoCoOpModel
from ..trainers.coop import CoOpModel
from ..trainers.lasp import LASPModel, templates_per_group, text_to_text_loss
from ..trainers.mocoop import MoCoOpModel, text_loss
from ..trainers.model import accuracy


def runs(sequence: Sequence[int]) -> list[tuple[int, int, int]]:
    """Maximal stretches of context vectors with consecutive numbers in a prompt: (position, first number, length)."""
    found: list[tuple[int, int, int]] = []
    for place, entry in enumerate(sequence):
        if entry >= 0:
            continue
        slot = -entry - 1
        if found and found[-1][0] + found[-1][2] == place and found[-1][1] + found[-1][2] == slot:
            found[-1] = (*found[-1][:2], found[-1][2] + 1)
        else:
            found.append((place, slot, 1))
    return found


class PaddedPrompts:
    """The prompts of C classes on all positions: fixed embeddings with gaps for context vectors.

    Args:
        text: CLIP's text tower; sequences: C prompts as for `clip.layout.make_layout`.
    """

    def __init__(self, text: nn.Module, sequences: Sequence[Sequence[int]]):
        length, device = text.positional_embedding.shape[0], text.positional_embedding.device
        rows = [[max(entry, 0) for entry in s] + [0] * (length - len(s)) for s in sequences]
        self.text = text
        self.fixed = text.token_embedding(torch.tensor(rows, device=device)).detach()  # [C, L, W]
        self.runs = [runs(s) for s in sequences]
        self.ends = torch.tensor([len(s) - 1 for s in sequences], device=device)

    def embed(self, context: Tensor) -> Tensor:
        """Prompts put together class by class: context [V, W] -> [C, L, W]."""
        prompts = []
        for fixed, stretches in zip(self.fixed, self.runs, strict=True):
            parts, done = [], 0
            for place, slot, length in stretches:
                parts += [fixed[done:place], context[slot : slot + length]]
                done = place + length
            prompts.append(torch.cat([*parts, fixed[done:]]))
        return torch.stack(prompts)

    def encode(self, context: Tensor) -> Tensor:
        """Text features [C, D], not normalised."""
        x = self.embed(context) + self.text.positional_embedding
        x = self.text.ln_final(self.text.transformer(x, attn_mask=self.text.attn_mask))
        x = x[torch.arange(len(x), device=x.device), self.ends]
        projection = self.text.text_projection
        return projection(x) if isinstance(projection, nn.Module) else x @ projection


class Plain:
    """open_clip's own image tower instead of `clip.image`, and prompts on all positions."""

    def encode_image(self, image: Tensor) -> Tensor:
        """Normalised features [B, D]."""
        with self.autocast(), torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.trained_in_image_tower())):
            return F.normalize(self.backbone.visual(image).float(), dim=-1)

    def padded(self, count: int) -> list[PaddedPrompts]:
        """The prompts around the first `count` names, one object per expert."""
        names = [*self.names, *self.others][:count]
        return self.once(
            ("padded", count), lambda: [PaddedPrompts(self.backbone.text, expert) for expert in self.sequences(names)]
        )

    def encode_names(self, count: int) -> Tensor:
        """Text features [G, count, D], one expert after the other."""
        context = self.context_vectors()
        return torch.stack([prompts.encode(context) for prompts in self.padded(count)]).float()

    @property
    def every(self) -> int:
        """How many names there are in all."""
        return len(self.names) + len(self.others)


class PlainMoCoOp(Plain, MoCoOpModel):
    """MoCoOp, computed the plain way."""

    def mix(self, features: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        """Logits [B, C] from the kept experts' class features, gathered per image."""
        top, index = weights.topk(min(self.topk, weights.shape[1]), dim=1)
        mixed = (top[..., None, None] * text[index]).sum(dim=1)  # [B, K, C, D] -> [B, C, D]
        return self.logit_scale * torch.einsum("bd,bcd->bc", features, mixed)

    def loss(self, features: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The same loss as MoCoOp's, class logits and text loss from passes of their own."""
        with self.autocast():
            text = self.text(len(self.names))
        scores, weights = self.route(features)
        logits = self.mix(features, text, weights)
        with self.autocast():
            every = self.text(self.every)
        loss_text = text_loss(every, self.prototypes, self.scale(self.text_logit_scale))
        loss_gate = self.gate_loss(features, label, scores)
        loss_cls = F.cross_entropy(logits, label)
        total = loss_cls + self.text_loss_weight * loss_text + self.gate_loss_weight * loss_gate
        parts = {"loss_cls": loss_cls, "loss_text": loss_text, "loss_gate": loss_gate}
        return total, {"acc": accuracy(logits, label), **parts}

    def logits(self, features: Tensor) -> Tensor:
        """Everything is encoded again for every batch, also the prompts of the text loss, which are not used."""
        with self.autocast():
            text = self.text(len(self.names))
            self.text(self.every)
        return self.mix(features, text, self.route(features)[1])


class PlainCoOp(Plain, CoOpModel):
    """CoOp, computed the plain way."""

    def logits(self, features: Tensor) -> Tensor:
        """The prompts are encoded again for every batch."""
        with self.autocast():
            text = self.encode_classes()
        return self.logit_scale * features @ text.T


class PlainCoCoOp(Plain, CoCoOpModel):
    """CoCoOp, computed the plain way (also in evaluation, where CoCoOp has to encode for every image)."""

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C], one image after the other."""
        (prompts,), rows = self.padded(len(self.names)), []
        with self.autocast():
            for feature, context in zip(features, self.contexts(features), strict=True):
                text = F.normalize(prompts.encode(context).float(), dim=-1)
                rows.append(self.logit_scale * feature @ text.T)
        return torch.stack(rows)


class PlainLASP(Plain, LASPModel):
    """LASP, computed the plain way."""

    def loss(self, features: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The same loss as LASP's, class logits and text loss from passes of their own."""
        with self.autocast():
            text = self.text(len(self.names))
        logits = self.mean_logits(features, text)
        with self.autocast():
            every = self.text(self.every)
        loss_cls = F.cross_entropy(logits, label)
        sizes = templates_per_group(len(self.prompts), len(self.context))
        loss_text = text_to_text_loss(every, self.noisy(self.hard), sizes, self.logit_scale)
        parts = {"acc": accuracy(logits, label), "loss_cls": loss_cls, "loss_text": loss_text}
        return loss_cls + self.loss_weight * loss_text, parts

    def logits(self, features: Tensor) -> Tensor:
        """The prompts are encoded again for every batch."""
        with self.autocast():
            text = self.text(len(self.names))
        return self.mean_logits(features, text)


PLAIN = {"MoCoOp": PlainMoCoOp, "CoOp": PlainCoOp, "CoCoOp": PlainCoCoOp, "LASP": PlainLASP}
