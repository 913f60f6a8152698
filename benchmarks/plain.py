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

from ..trainers.cocoop import CoCoOp
from ..trainers.coop import CoOp
from ..trainers.lasp import LASP, text_to_text_loss
from ..trainers.mocoop import MoCoOp
from ..trainers.prompts import bank_sequences, prompt_sequences
from ..trainers.routing import text_loss


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


class PlainTower:
    """open_clip's own image tower instead of `clip.image`."""

    def image_features(self, image: Tensor, learn: bool = False) -> Tensor:
        """Normalised features [B, D]."""
        with torch.set_grad_enabled(learn and torch.is_grad_enabled()):
            return F.normalize(self.backbone.visual(image).float(), dim=-1)


class PlainMoCoOp(PlainTower, MoCoOp):
    """MoCoOp, computed the plain way."""

    def build_mixture(self, groups: Sequence[Sequence[str]]) -> None:
        """As MoCoOp, and padded prompts for either use."""
        super().build_mixture(groups)
        tokenizer, model = self.backbone.tokenizer, self.model
        experts = bank_sequences(tokenizer, model.templates, model.names)
        self.padded = {
            count: [PaddedPrompts(self.backbone.text, expert[:count]) for expert in experts]
            for count in {model.scored, self.text_names}
        }

    def text(self, count: int) -> Tensor:
        """Expert features [G, count, D] of norm 1, one expert after the other."""
        learner = self.learner
        features = torch.stack([prompts.encode(learner.context) for prompts in self.padded[count]]).float()
        if learner.correction is not None:
            features = features + learner.correction
        return F.normalize(features, dim=-1)

    def mix(self, features: Tensor, text: Tensor, weights: Tensor) -> Tensor:
        """Logits [B, C] from the kept experts' class features, gathered per image."""
        top, index = weights.topk(min(self.model.topk, weights.shape[1]), dim=1)
        mixed = (top[..., None, None] * text[index]).sum(dim=1)  # [B, K, C, D] -> [B, C, D]
        return self.model.logit_scale * torch.einsum("bd,bcd->bc", features, mixed)

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The same loss as MoCoOp's, class logits and text loss from passes of their own."""
        mine, model = self.cfg.TRAINER.MOCOOP, self.model
        with self.autocast():
            features = self.image_features(image, learn=mine.FINETUNE_VIT_LN)
            text = self.text(model.scored)
        scores, weights = model.route(features)
        logits = self.mix(features, text, weights)
        with self.autocast():
            every = self.text(self.text_names)
        loss_text = text_loss(every, model.prototypes[:, : self.text_names], self.scale(mine.TEXT_LOGIT_SCALE))
        loss_gate = self.gate_loss(features, label, scores)
        loss_cls = F.cross_entropy(logits, label)
        total = loss_cls + mine.TEXT_LOSS_WEIGHT * loss_text + mine.GATE_LOSS_WEIGHT * loss_gate
        acc = 100 * (logits.argmax(dim=1) == label).float().mean()
        return total, {"acc": acc, "loss_cls": loss_cls, "loss_text": loss_text, "loss_gate": loss_gate}

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C]; everything is encoded again, the prompts of the text loss for nothing."""
        with self.autocast():
            features = self.image_features(image)
            text = self.text(self.model.scored)
            self.text(self.text_names)
        return self.mix(features, text, self.model.route(features)[1])


class PlainCoOp(PlainTower, CoOp):
    """CoOp, computed the plain way."""

    def build_model(self) -> None:
        """As CoOp, and padded prompts."""
        super().build_model()
        mine, ctx = self.cfg.TRAINER.COOP, self.learner.ctx
        names = self.dm.dataset.classnames
        place = mine.CLASS_TOKEN_POSITION
        sequences = prompt_sequences(self.backbone.tokenizer, names, ctx.shape[-2], place, mine.CSC)
        self.padded = PaddedPrompts(self.backbone.text, sequences)

    def text(self) -> Tensor:
        """Class features [C, D] of norm 1."""
        return F.normalize(self.padded.encode(self.learner.ctx.flatten(0, -2)).float(), dim=-1)

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C]; the prompts are encoded again."""
        with self.autocast():
            features, text = self.image_features(image), self.text()
        return self.backbone.logit_scale.exp() * features @ text.T


class PlainCoCoOp(PlainTower, CoCoOp):
    """CoCoOp, computed the plain way (also in evaluation, where CoCoOp cannot but encode for every image)."""

    def build_model(self) -> None:
        """As CoCoOp, and padded prompts."""
        super().build_model()
        sequences = prompt_sequences(self.backbone.tokenizer, self.dm.dataset.classnames, len(self.learner.ctx))
        self.padded = PaddedPrompts(self.backbone.text, sequences)

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C], one image after the other."""
        contexts = self.learner(features)
        scale, rows = self.backbone.logit_scale.exp(), []
        for feature, context in zip(features, contexts, strict=True):
            text = F.normalize(self.padded.encode(context).float(), dim=-1)
            rows.append(scale * feature @ text.T)
        return torch.stack(rows)


class PlainLASP(PlainTower, LASP):
    """LASP, computed the plain way."""

    def build_model(self) -> None:
        """As LASP, and padded prompts for either use."""
        super().build_model()
        G, M = self.learner.context.shape[:2]
        experts = [prompt_sequences(self.backbone.tokenizer, self.names, M, first=g * M) for g in range(G)]
        self.padded = {
            count: [PaddedPrompts(self.backbone.text, expert[:count]) for expert in experts]
            for count in {self.scored, len(self.names)}
        }

    def text(self, count: int) -> Tensor:
        """Learned features [G, count, D] of norm 1, one group after the other."""
        context = self.learner.context.flatten(0, 1)
        features = torch.stack([prompts.encode(context) for prompts in self.padded[count]]).float()
        if self.learner.correction is not None:
            features = features + self.learner.correction
        return F.normalize(features, dim=-1)

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The same loss as LASP's, class logits and text loss from passes of their own."""
        mine = self.cfg.TRAINER.LASP
        with self.autocast():
            features = self.image_features(image, learn=mine.FINETUNE_VIT_LN)
            text = self.text(self.scored)
        logits = self.logits(features, text)
        with self.autocast():
            every = self.text(len(self.names))
        loss_cls = F.cross_entropy(logits, label)
        loss_text = text_to_text_loss(every, self.noisy(self.hard), self.sizes, self.backbone.logit_scale.exp())
        acc = 100 * (logits.argmax(dim=1) == label).float().mean()
        return loss_cls + mine.LASP_LOSS_WEIGHT * loss_text, {
            "acc": acc,
            "loss_cls": loss_cls,
            "loss_text": loss_text,
        }

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C]; the prompts are encoded again."""
        with self.autocast():
            features = self.image_features(image)
            text = self.text(self.scored)
        return self.logits(features, text)


PLAIN = {"MoCoOp": PlainMoCoOp, "CoOp": PlainCoOp, "CoCoOp": PlainCoCoOp, "LASP": PlainLASP}
