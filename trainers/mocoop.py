"""MoCoOp: a mixture of soft prompts with hard-prompt guided routing.

Du, Niu, Zhao: "Mixture of Prompt Learning for Vision-Language Models", arXiv 2409.12011; Frontiers in AI 2025,
10.3389/frai.2025.1580973; the equations are in docs/mocoop.md. In short: each group of hard templates initialises one
soft prompt (expert); a linear router picks the TOPK experts of an image; their class features are mixed; a KL loss
teaches the router which group's hard prompts fit the image; a text loss keeps each expert near its group.

Where the authors' released code differs from the paper and from this file:
- It counts words instead of tokens (see `prompts.py`) and strips the final period in one of two paths; here one
  prompt serves both.
- Where a name ends in punctuation and a comma follows, it counts the merged token twice and reads the feature at a
  learned vector; here name and template are tokenized apart.
- Its text logits are unscaled cosines (TEXT_LOGIT_SCALE 1 reproduces it; here CLIP's scale, as in LASP).
- Its gate target is 0.5/0.5 over two experts whatever the cosines, with gradient (GATE_TARGET "authors" reproduces
  it).
- It looks up the gate's prototypes in an arbitrary class order (an error, not reproduced).
- Names of absent classes are in its text loss with SUBSAMPLE_CLASSES base only; here whenever they are known.
- It encodes everything twice a step and again for every test batch, padded to 77 tokens.
- It clips gradients only under amp; here GRAD_CLIP holds in every precision.
- On another data set it silently drops the router and most prompts; here the source's groups and router are kept.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from .. import methods
from ..clip import Backbone
from ..config import ConfigError
from ..config.keys import not_empty, whole
from .base import PromptTrainer
from .model import PromptModel, accuracy, check_arguments
from .norms import image_norms, with_own_norms
from .prompts import (
    Template,
    bank_sequences,
    group_prototypes,
    initial_context,
    split_template,
    template_features,
)
from .templates import prompt_groups

KEYS = methods.MOCOOP.keys


def topk_softmax(scores: Tensor, k: int) -> Tensor:
    """Softmax over the k largest entries of each row, zero elsewhere.

    Args:
        scores: [B, G]; k: experts kept (all of them if k >= G).

    Returns:
        [B, G], rows sum to 1.
    """
    if k >= scores.shape[1]:
        return scores.softmax(dim=1)
    top, index = scores.topk(k, dim=1)
    return torch.zeros_like(scores).scatter(1, index, top.softmax(dim=1))


def mixture_logits(features: Tensor, text: Tensor, weights: Tensor, scale: Tensor | float) -> Tensor:
    """logits[b, c] = scale * sum_g weights[b, g] features[b]·text[g, c]; the mixture is not normalised again.

    Args:
        features: [B, D] of norm 1; text: [G, C, D] of norm 1; weights: [B, G].

    Returns:
        [B, C].
    """
    similarity = torch.einsum("bd,gcd->bgc", features, text)
    return scale * torch.einsum("bg,bgc->bc", weights, similarity)


def gate_target(features: Tensor, prototypes: Tensor, label: Tensor, k: int, scale: Tensor | float) -> Tensor:
    """The router's target: prefer the experts whose hard prompts for the true class fit the image best.

    z[b, g] = features[b]·prototypes[g, label[b]]; the target: softmax(scale * z) over the k largest, no gradient.
    The released code instead adds 10 to the two largest unscaled cosines, which is 0.5/0.5 whatever they are, and lets
    the gradient through (see `authors_gate_loss`).

    Args:
        features: [B, D]; prototypes: [G, C, D]; label: [B] in prototype order.

    Returns:
        [B, G].
    """
    z = torch.einsum("bd,gbd->bg", features, prototypes[:, label]).detach()
    return topk_softmax(scale * z, k)


def gate_loss(target: Tensor, router: Tensor) -> Tensor:
    """KL(target || softmax(router)), mean over images.

    Args:
        target: [B, G], rows sum to 1; router: [B, G] logits.
    """
    return F.kl_div(router.log_softmax(dim=1), target, reduction="batchmean")


def authors_gate_loss(features: Tensor, prototypes: Tensor, label: Tensor, router: Tensor, k: int) -> Tensor:
    """The gate loss as released: cross-entropy against softmax(z + 10 on the k largest), gradient through the target.

    Only the class order is repaired (the released code indexes the prototypes in another order than the labels).
    """
    z = torch.einsum("bd,gbd->bg", features, prototypes[:, label])
    bonus = torch.zeros_like(z).scatter(1, z.topk(min(k, z.shape[1]), dim=1).indices, 10.0)
    return F.cross_entropy(router, (z + bonus).softmax(dim=1))


def text_loss(text: Tensor, prototypes: Tensor, scale: Tensor | float) -> Tensor:
    """Cross-entropy of scale * text[g, c]·prototypes[g, :] against c: keeps each expert near its own group.

    Args:
        text: [G, A, D] of norm 1; prototypes: [G, A, D] of norm 1.

    Returns:
        mean over g and c.
    """
    logits = scale * text @ prototypes.transpose(1, 2)  # [G, A learned, A hard]
    target = torch.arange(text.shape[1], device=text.device).expand(text.shape[0], -1)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


class MoCoOpModel(PromptModel):
    """CLIP with G experts instead of one prompt, and a router that mixes the best of them for every image.

    Trains `context` [V, W] (the context vectors of all experts in order), `router`, the correction vector w
    `correction` [D] (zero at the start) and, if asked for, the LayerNorms of the image blocks.

    Args:
        backbone, names, others, chunk, precision: see `PromptModel`; the A names take part in L_text.
        groups: G lists of templates; the first of each initialises its expert.
        topk: experts mixed per image.
        correction: learn w.
        finetune_norms: learn the LayerNorms of the image blocks.
        text_loss_weight, gate_loss_weight: of L_text and L_gate.
        text_logit_scale: of the text logits; None or "clip" = CLIP's own exp(logit_scale).
        gate_target_scale: of the gate target's logits, the same.
        gate_target: "topk" (the paper), or "authors" (the released code's, see `authors_gate_loss`).

    >>> import torch
    >>> from mocoop import MoCoOpModel, load_backbone
    >>> groups = [["an icon of a {}."], ["{} drawing.", "a drawing of a {}."], ["a solid {}."]]
    >>> model = MoCoOpModel(load_backbone("demo"), ["cat", "dog"], groups=groups)
    >>> scores, weights = model.route(model.encode_image(torch.zeros(3, 3, 48, 48)))
    >>> weights.shape, (weights > 0).sum(dim=1)  # [B, G], TOPK of them in use
    (torch.Size([3, 3]), tensor([2, 2, 2]))
    >>> model.class_features().shape  # [G, C, D]
    torch.Size([3, 2, 128])
    """

    method = "MoCoOp"

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        others: Sequence[str] = (),
        groups: Sequence[Sequence[str]] = (("a photo of a {}.",),),
        topk: int = 2,
        correction: bool = True,
        finetune_norms: bool = True,
        text_loss_weight: float = 5.0,
        gate_loss_weight: float = 1.0,
        text_logit_scale: float | str | None = None,
        gate_target_scale: float | str | None = None,
        gate_target: str = "topk",
        chunk: int | None = None,
        precision: str = "fp32",
    ):
        check_arguments(
            self.method,
            groups=(groups, not_empty, KEYS["PROMPT_GROUPS"].check),
            topk=(topk, whole, KEYS["TOPK"].check),
            text_loss_weight=(text_loss_weight, KEYS["TEXT_LOSS_WEIGHT"].check),
            gate_loss_weight=(gate_loss_weight, KEYS["GATE_LOSS_WEIGHT"].check),
            text_logit_scale=(text_logit_scale, KEYS["TEXT_LOGIT_SCALE"].check),
            gate_target_scale=(gate_target_scale, KEYS["GATE_TARGET_SCALE"].check),
            gate_target=(gate_target, KEYS["GATE_TARGET"].check),
        )
        backbone = with_own_norms(backbone) if finetune_norms else backbone
        super().__init__(backbone, names, others, chunk, precision)
        self.groups, self.topk = [list(group) for group in groups], topk
        self.text_loss_weight, self.gate_loss_weight = text_loss_weight, gate_loss_weight
        self.text_logit_scale, self.gate_target_scale = text_logit_scale, gate_target_scale
        self.gate_target = gate_target
        self.templates: list[Template] = [split_template(backbone.tokenizer, group[0]) for group in self.groups]
        width = self.encoder.output_width
        self.context = nn.Parameter(initial_context(self.encoder.token_embedding, self.templates))
        self.router = nn.Linear(width, len(self.groups)).to(self.device)
        self.correction = nn.Parameter(torch.zeros(width, device=self.device)) if correction else None
        if finetune_norms:
            self.image_norms = nn.ParameterDict(image_norms(self.backbone.visual))

    def sequences(self, names: Sequence[str]) -> list[list[list[int]]]:
        """One list of prompts per expert."""
        return bank_sequences(self.backbone.tokenizer, self.templates, names)

    def context_vectors(self) -> Tensor:
        """[V, W]."""
        return self.context

    def text(self, count: int) -> Tensor:
        """Expert features s [G, count, D] of norm 1 of the first `count` names: normalise(text + w)."""
        features = self.encode_names(count)
        return F.normalize(features if self.correction is None else features + self.correction, dim=-1)

    def encode_classes(self) -> Tensor:
        """[G, C, D]."""
        return self.text(len(self.names))

    @property
    def prototypes(self) -> Tensor:
        """Hard prototypes h [G, A, D] of norm 1, made when first asked for (evaluation never does)."""
        return self.once("prototypes", self._prototypes)

    def _prototypes(self) -> Tensor:
        templates = [template for group in self.groups for template in group]
        names = [*self.names, *self.others]
        features = template_features(self.encoder, self.backbone.tokenizer, templates, names, ranks=self.ranks)
        return group_prototypes(features, [len(group) for group in self.groups])

    def route(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Router logits r [B, G] and the weights pi [B, G] of the TOPK kept experts, from features [B, D]."""
        scores = self.router(features)
        return scores, topk_softmax(scores, self.topk)

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]."""
        return mixture_logits(features, self.class_features(), self.route(features)[1], self.logit_scale)

    def class_features_for(self, features: Tensor) -> Tensor:
        """The mixture of every image, not normalised: features [B, D] -> [B, C, D]."""
        return torch.einsum("bg,gcd->bcd", self.route(features)[1], self.class_features())

    def loss(self, features: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """L = L_cls + text_loss_weight L_text + gate_loss_weight L_gate."""
        scored = len(self.names)
        with self.autocast():
            text = self.text(scored + len(self.others) if self.text_loss_weight > 0 else scored)  # s [G, A, D]
        scores, weights = self.route(features)
        logits = mixture_logits(features, text[:, :scored], weights, self.logit_scale)
        loss_cls = F.cross_entropy(logits, label)
        loss_gate = self.gate_loss(features, label, scores) if self.gate_loss_weight > 0 else loss_cls.new_zeros(())
        loss_text = loss_cls.new_zeros(())
        if self.text_loss_weight > 0:
            loss_text = text_loss(text, self.prototypes, self.scale(self.text_logit_scale))
        total = loss_cls + self.text_loss_weight * loss_text + self.gate_loss_weight * loss_gate
        parts = {"loss_cls": loss_cls, "loss_text": loss_text, "loss_gate": loss_gate}
        return total, {"acc": accuracy(logits, label), **parts}

    def gate_loss(self, features: Tensor, label: Tensor, scores: Tensor) -> Tensor:
        """L_gate, of the paper or of the authors' code."""
        if self.gate_target == "authors":
            return authors_gate_loss(features, self.prototypes, label, scores, self.topk)
        scale = self.scale(self.gate_target_scale)
        return gate_loss(gate_target(features, self.prototypes, label, self.topk, scale), scores)

    def scale(self, value: float | str | None) -> Tensor | float:
        """A logit scale as given: None or "clip" means CLIP's own."""
        return self.logit_scale if value in (None, "clip") else float(value)

    def arguments(self) -> dict[str, object]:
        """What rebuilds it."""
        return {
            "groups": [list(group) for group in self.groups],
            "topk": self.topk,
            "correction": self.correction is not None,
            "finetune_norms": hasattr(self, "image_norms"),
        }

    @staticmethod
    def arguments_of(state: dict[str, Tensor]) -> dict[str, object]:
        """See `coop.CoOpModel`."""
        state["context"], state["router.weight"]  # each there
        return {
            "correction": "correction" in state,
            "finetune_norms": any(name.startswith("image_norms.") for name in state),
        }


class MoCoOp(PromptTrainer):
    """The trainer; it also records which experts images are routed to."""

    model_class = MoCoOpModel
    from_checkpoint = ("groups",)

    @staticmethod
    def arguments(cfg: CfgNode) -> dict[str, object]:
        """The model's arguments."""
        options, groups = cfg.TRAINER.MOCOOP, prompt_groups(cfg)
        if not groups:
            raise ConfigError(["TRAINER.MOCOOP.PROMPT_GROUPS is empty"])
        return {
            "groups": groups,
            "topk": options.TOPK,
            "correction": options.ENABLE_CORRECTION,
            "finetune_norms": options.FINETUNE_VIT_LN,
            "text_loss_weight": options.TEXT_LOSS_WEIGHT,
            "gate_loss_weight": options.GATE_LOSS_WEIGHT,
            "text_logit_scale": options.TEXT_LOGIT_SCALE,
            "gate_target_scale": options.GATE_TARGET_SCALE,
            "gate_target": options.GATE_TARGET,
        }

    def uses_others(self, cfg: CfgNode) -> bool:
        """Names of absent classes take part in L_text if VIRTUAL_CLASSES says so."""
        return cfg.TRAINER.MOCOOP.VIRTUAL_CLASSES

    def set_model(self, model: PromptModel) -> None:
        """See `PromptTrainer`."""
        super().set_model(model)
        sizes = ", ".join(str(template.size) for template in model.templates)
        print(f"Experts: {len(model.groups)} (context vectors: {sizes}), TOPK {model.topk}")
        if model.topk > len(model.groups):
            print(f"Note: TOPK {model.topk} is more than the {len(model.groups)} experts there are: all are mixed")
        self.reset_routing()

    # ---- which experts images go to
    # ---------------------------------------------------------------------------------------

    def reset_routing(self) -> None:
        """Start counting anew."""
        experts, present = len(self.model.groups), self.num_classes
        zeros = {"dtype": torch.float64, "device": self.device}  # (no step waits for a GPU to count)
        self._routing_share = torch.zeros(experts, **zeros)
        self._routing_by_class = torch.zeros(present, experts, **zeros)
        self._routed = torch.zeros(present, **zeros)

    def before_epoch(self) -> None:
        """Count each epoch for itself."""
        super().before_epoch()
        self.reset_routing()

    @torch.no_grad()
    def observe(self, features: Tensor, label: Tensor) -> None:
        """Add up the routing weights of a batch, before the step of training and in tests."""
        weights = self.model.route(features)[1]
        if self.model.training:
            self._routing_share += weights.sum(dim=0)
            return
        weights = weights.double()
        self._routing_share += weights.sum(dim=0)
        self._routing_by_class.index_add_(0, label, weights)
        ones = torch.ones_like(label, dtype=torch.float64)
        self._routed.index_add_(0, label, ones)  # (bincount waits for a GPU)

    def epoch_record(self) -> dict:
        """Mean routing weight per expert over the epoch's images."""
        return {"expert_share": self.routing_shares()}

    def routing_shares(self) -> list[float]:
        """Mean routing weight of each expert over the images seen."""
        return (self._routing_share / self._routing_share.sum().clamp(min=1e-12)).tolist()

    def test(self, split: str | None = None) -> float:
        """Evaluate, counting where images go (training's own counts are kept apart)."""
        of_training = self._routing_share
        self.reset_routing()
        try:
            return super().test(split)
        finally:
            self._routing_share = of_training

    def extra_results(self) -> dict:
        """Mean routing weight per expert [G], over all images and per class [C, G], with the classes' names."""
        by_class = self._routing_by_class / self._routed.clamp(min=1)[:, None]
        return {
            "routing": {
                "experts": [group[0] for group in self.model.groups],
                "classnames": self.model.names[: self.num_classes],
                "share": self.routing_shares(),
                "by_class": [[round(x, 4) for x in row] for row in by_class.tolist()],
            }
        }
