"""MoCoOp: a mixture of soft prompts with hard-prompt guided routing.

Du, Niu, Zhao: "Mixture of Prompt Learning for Vision-Language Models", arXiv 2409.12011; Frontiers in AI 2025,
10.3389/frai.2025.1580973; the equations are in docs/mocoop.md. In one breath: each group of hard templates
initialises one soft prompt (expert); a linear router picks the TOPK experts of an image; their class features are
mixed; a KL loss teaches the router which group's hard prompts fit the image; a text loss keeps each expert near its
group.

Where the authors' released code differs from the paper and from this file:
- It counts words instead of tokens (see `prompts.py`) and strips the final period in one of two paths; here one
  prompt serves both.
- Its text logits are unscaled cosines (TEXT_LOGIT_SCALE 1 reproduces it; here CLIP's scale, as in LASP).
- Its gate target is 0.5/0.5 over two experts whatever the cosines, with gradient (GATE_TARGET "authors" reproduces
  it).
- It looks up the gate's prototypes in an arbitrary class order (an error, not reproduced).
- It encodes everything twice a step and again for every test batch, padded to 77 tokens.
- It clips gradients only under amp; here GRAD_CLIP holds in every precision.
- On another data set it drops the router and most prompts without a word; here the source's groups and router travel
  along.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from ..clip import Backbone
from ..clip.layout import PromptLayout
from ..clip.text import encode_chunked
from ..config import ConfigError, of_dataset
from .base import Learner, PromptTrainer, class_names
from .prompts import (
    Template,
    bank_sequences,
    group_prototypes,
    initial_context,
    sliced_layouts,
    split_template,
    template_features,
)
from .routing import authors_gate_loss, gate_loss, gate_target, mixture_logits, text_loss, topk_softmax
from .towers import Kept, image_features, image_norms, rows_that_fit


class MoCoOpLearner(Learner):
    """Everything MoCoOp trains.

    Args:
        context: [V, W] initial context vectors of all experts in order.
        width: D, of the joint image-text space.
        experts: G.
        correction: learn the correction vector w [D], zero at the start.
        norms: LayerNorm parameters of the image tower to learn along (shared with it), by name.
        about: what goes into the checkpoint beside the numbers.
    """

    def __init__(
        self,
        context: Tensor,
        width: int,
        experts: int,
        correction: bool,
        norms: dict[str, nn.Parameter],
        about: dict,
    ):
        super().__init__(about)
        self.context = nn.Parameter(context)
        self.router = nn.Linear(width, experts)
        self.correction = nn.Parameter(torch.zeros(width)) if correction else None
        self.image_norms = nn.ParameterDict({name: p.requires_grad_() for name, p in norms.items()})


class MixtureOfPrompts(nn.Module):
    """CLIP with G experts instead of one prompt.

    Axes: B images, C classes scored, A names that take part in the text loss (the C first), G experts, D joint width.

    Args:
        backbone: frozen CLIP.
        groups: G lists of templates.
        names: A class names, those to be scored first.
        scored: C.
        topk: experts mixed per image.
        correction: see `MoCoOpLearner`.
        finetune_norms: learn the LayerNorms of the image blocks.
        chunk: prompts encoded at once (None = all if the free memory allows, else slices; see `sliced_layouts`).
        about: goes into the checkpoint, with the groups.
    """

    def __init__(
        self,
        backbone: Backbone,
        groups: Sequence[Sequence[str]],
        names: Sequence[str],
        scored: int,
        topk: int = 2,
        correction: bool = True,
        finetune_norms: bool = True,
        chunk: int | None = None,
        about: dict | None = None,
    ):
        super().__init__()
        self.backbone, self.groups, self.names, self.scored = backbone, [list(g) for g in groups], list(names), scored
        self.topk, self.chunk, self.finetune_norms = topk, chunk, finetune_norms
        self.encoder = backbone.text_encoder
        self.templates: list[Template] = [split_template(backbone.tokenizer, group[0]) for group in self.groups]
        norms = image_norms(backbone.visual) if finetune_norms else {}
        context = initial_context(self.encoder.token_embedding, self.templates)
        about = {**(about or {}), "groups": self.groups}
        width = self.encoder.output_width
        self.learner = MoCoOpLearner(context, width, len(self.groups), correction, norms, about)
        self._layouts: dict[int, list[PromptLayout]] = {}
        self._prototypes: Tensor | None = None
        self._kept_text = Kept(lambda: self.text(self.scored))

    @property
    def logit_scale(self) -> Tensor:
        """CLIP's exp(logit_scale)."""
        return self.backbone.logit_scale.exp()

    @property
    def prototypes(self) -> Tensor:
        """Hard prototypes h [G, A, D] of norm 1, made when first asked for (evaluation never does)."""
        if self._prototypes is None:
            templates = [t for group in self.groups for t in group]
            features = template_features(self.encoder, self.backbone.tokenizer, templates, self.names)
            self._prototypes = group_prototypes(features, [len(group) for group in self.groups])
        return self._prototypes

    def layouts(self, count: int) -> list[PromptLayout]:
        """The experts' prompts around the first `count` names, in slices of classes that fit the chunk size."""
        if count not in self._layouts:
            device = self.learner.context.device
            sequences = bank_sequences(self.backbone.tokenizer, self.templates, self.names[:count])
            parts = sliced_layouts(sequences, self.chunk, rows_that_fit(self.encoder, device))
            self._layouts[count] = [part.to(device) for part in parts]
        return self._layouts[count]

    def text(self, count: int) -> Tensor:
        """Expert features s [G, count, D] of norm 1 of the first `count` names: normalise(text + w)."""
        features = encode_chunked(self.encoder, self.layouts(count), self.learner.context).float()
        if self.learner.correction is not None:
            features = features + self.learner.correction
        return F.normalize(features, dim=-1)

    def cached_text(self) -> Tensor:
        """`text` of the scored classes, computed once per state of the parameters it depends on."""
        own = (self.learner.context, self.learner.correction)
        return self._kept_text([p for p in own if p is not None])

    def train(self, mode: bool = True) -> "MixtureOfPrompts":
        """Training drops the cache (`p.data` edits escape the version counters); the towers stay in eval mode."""
        if mode:
            self._kept_text.drop()
        self.learner.train(mode)
        return self

    def image(self, image: Tensor) -> Tensor:
        """Normalised image features [B, D]."""
        return image_features(self.backbone, image, learn=self.finetune_norms)

    def route(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Router logits r [B, G] and the weights pi [B, G] of the TOPK kept experts."""
        scores = self.learner.router(features)
        return scores, topk_softmax(scores, self.topk)

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluation: logits [B, C] and routing weights [B, G]."""
        features = self.image(image)
        with torch.autocast(features.device.type, enabled=False):
            _, weights = self.route(features)
            return mixture_logits(features, self.cached_text(), weights, self.logit_scale), weights


def prompt_groups(cfg: CfgNode) -> list[list[str]]:
    """The template groups of the config's data set: PROMPT_GROUPS if given, else the table's, else the general ones.

    Returns:
        G lists of templates with one "{}" each.
    """
    key = "TRAINER.MOCOOP.PROMPT_GROUPS"
    groups = cfg.TRAINER.MOCOOP.PROMPT_GROUPS or of_dataset(cfg.DATASET.NAME, key) or of_dataset("ImageFolder", key)
    return [list(group) for group in groups or []]


class MoCoOp(PromptTrainer):
    """The trainer."""

    def check_cfg(self, cfg: CfgNode) -> None:
        """Fail before anything is loaded."""
        if not prompt_groups(cfg):
            raise ConfigError(["TRAINER.MOCOOP.PROMPT_GROUPS is empty"])

    def build_model(self) -> None:
        """CLIP, the experts and the router."""
        mine = self.cfg.TRAINER.MOCOOP
        self.prec, self.grad_clip = mine.PREC, mine.GRAD_CLIP
        self.backbone = self.load_clip()
        self.build_mixture(prompt_groups(self.cfg))

    def build_mixture(self, groups: Sequence[Sequence[str]]) -> None:
        """Experts for these groups, their optimizer and schedule."""
        cfg, mine = self.cfg, self.cfg.TRAINER.MOCOOP
        present, known = class_names(self.dm.dataset)
        self.present = len(present)
        scored = len(known) if cfg.DATASET.INCLUDE_ALL_CLASSES else len(present)
        self.text_names = len(known) if mine.VIRTUAL_CLASSES else scored
        self.model = MixtureOfPrompts(
            self.backbone,
            groups,
            known[: max(self.text_names, scored)],
            scored,
            topk=mine.TOPK,
            correction=mine.ENABLE_CORRECTION,
            finetune_norms=mine.FINETUNE_VIT_LN,
            chunk=cfg.TRAIN.TEXT_CHUNK,
            about=self.about(),
        ).to(self.device)
        learner = self.model.learner
        self.set_learner(learner, list(learner.image_norms.values()), mine.LN_LR_MULT)
        sizes = ", ".join(str(template.size) for template in self.model.templates)
        print(f"Experts: {len(groups)} (context vectors: {sizes}), TOPK {mine.TOPK}")
        self.reset_routing()

    def accept_checkpoint(self, about: dict) -> None:
        """On another data set the source's groups and router travel with the checkpoint."""
        groups = about.get("groups")
        if groups and groups != self.model.groups:
            print(
                f"The checkpoint's own {len(groups)} prompt groups (data set {about.get('dataset')}) "
                "replace the configured ones"
            )
            self.build_mixture(groups)

    def before_epoch(self) -> None:
        """Start counting routing, and drop cached text features."""
        super().before_epoch()
        self.model.train()
        self.reset_routing()

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """L = L_cls + TEXT_LOSS_WEIGHT L_text + GATE_LOSS_WEIGHT L_gate."""
        mine, model = self.cfg.TRAINER.MOCOOP, self.model
        with self.autocast():
            features = model.image(image)  # f [B, D]
            text = model.text(self.text_names if mine.TEXT_LOSS_WEIGHT > 0 else model.scored)  # s [G, A, D]
        scores, weights = model.route(features)
        logits = mixture_logits(features, text[:, : model.scored], weights, model.logit_scale)
        loss_cls = F.cross_entropy(logits, label)
        loss_gate = self.gate_loss(features, label, scores) if mine.GATE_LOSS_WEIGHT > 0 else loss_cls.new_zeros(())
        loss_text = loss_cls.new_zeros(())
        if mine.TEXT_LOSS_WEIGHT > 0:
            loss_text = text_loss(text, model.prototypes[:, : text.shape[1]], self.scale(mine.TEXT_LOGIT_SCALE))
        total = loss_cls + mine.TEXT_LOSS_WEIGHT * loss_text + mine.GATE_LOSS_WEIGHT * loss_gate
        self.count_routing(weights.detach())
        acc = 100 * (logits.argmax(dim=1) == label).float().mean()
        return total, {"acc": acc, "loss_cls": loss_cls, "loss_text": loss_text, "loss_gate": loss_gate}

    def gate_loss(self, features: Tensor, label: Tensor, scores: Tensor) -> Tensor:
        """L_gate, of the paper or of the authors' code."""
        mine, prototypes = self.cfg.TRAINER.MOCOOP, self.model.prototypes
        if mine.GATE_TARGET == "authors":
            return authors_gate_loss(features, prototypes, label, scores, mine.TOPK)
        return gate_loss(
            gate_target(features, prototypes, label, mine.TOPK, self.scale(mine.GATE_TARGET_SCALE)), scores
        )

    def scale(self, value: float | str | None) -> Tensor | float:
        """A configured logit scale: None or "clip" means CLIP's own."""
        return self.model.logit_scale if value in (None, "clip") else float(value)

    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C]."""
        with self.autocast():
            logits, self._weights = self.model(image)
        return logits

    # ---- routing shares
    # ----------------------------------------------------------------------------------------------------

    def reset_routing(self) -> None:
        """Forget which experts images went to."""
        G = len(self.model.groups)
        counts = {"dtype": torch.float64, "device": self.device}  # (no step waits for a GPU to count)
        self._share = torch.zeros(G, **counts)
        self._by_class = torch.zeros(self.present, G, **counts)
        self._routed = torch.zeros(self.present, **counts)

    def count_routing(self, weights: Tensor) -> None:
        """Add up routing weights [B, G]."""
        self._share += weights.sum(dim=0)

    def epoch_record(self) -> dict:
        """Mean routing weight per expert over the epoch's images."""
        return {"expert_share": (self._share / self._share.sum().clamp(min=1e-12)).tolist()}

    def test(self, split: str | None = None) -> float:
        """Evaluate, counting where images go (training's own counts are kept apart)."""
        kept = self._share
        self.reset_routing()
        try:
            return super().test(split)
        finally:
            self._share = kept

    def after_test_batch(self, label: Tensor) -> None:
        """Routing by class of the batch just tested."""
        weights = self._weights.double()
        self._share += weights.sum(dim=0)
        self._by_class.index_add_(0, label, weights)
        self._routed.index_add_(0, label, torch.ones_like(label, dtype=torch.float64))  # (bincount waits for a GPU)

    def extra_results(self) -> dict:
        """Mean routing weight per expert [G], over all images and per class [C, G], with the classes' names."""
        by_class = self._by_class / self._routed.clamp(min=1)[:, None]
        return {
            "routing": {
                "experts": [group[0] for group in self.model.groups],
                "classnames": self.model.names[: self.present],
                "share": (self._share / self._share.sum().clamp(min=1e-12)).tolist(),
                "by_class": [[round(x, 4) for x in row] for row in by_class.tolist()],
            }
        }
