"""LASP: soft prompts held near hand-written ones by a text-to-text loss.

Bulat, Tzimiropoulos: "LASP: Text-to-Text Optimization for Language-Aware Soft Prompting of Vision & Language Models",
CVPR 2023, arXiv 2210.01115.

Differences from the released code: it runs on all 15 data sets (the released one fails on OxfordPets and the ImageNet
shifts) and on any device; several prompt groups (GROUPS > 1: the templates are dealt out in order, class features are
averaged over groups, §3.3 of the paper) work; prompts are encoded once per step at their true length; gradients are
clipped in every precision. Kept as coded, not as worded in the paper: the softmax of the text-to-text loss runs over
the learned prompts for each hard one.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip.text import encode_chunked
from .base import Learner, PromptTrainer, class_names
from .prompts import initial_words, prompt_sequences, template_features
from .towers import Kept, image_norms


def deal(templates: int, groups: int) -> list[int]:
    """How many of the templates each group gets, in order: as even as possible, the first ones one more."""
    return [templates // groups + (g < templates % groups) for g in range(groups)]


def text_to_text_loss(text: Tensor, hard: Tensor, sizes: Sequence[int], scale: Tensor | float) -> Tensor:
    """Each hard prompt must be nearest to the learned prompt of its own class (LASP eq. 4, softmax axis as coded).

    Args:
        text: [G, A, D] learned features of norm 1, one row of A classes per group.
        hard: [T, A, D] features of the templates of norm 1, or of about 1 with noise.
        sizes: templates per group, sum T.
        scale: exp(logit_scale).

    Returns:
        mean over templates and classes of the cross-entropy over learned prompts.
    """
    pairs = zip(hard.split(list(sizes)), text, strict=True)
    logits = torch.cat([(scale * part).flatten(0, 1) @ learned.T for part, learned in pairs])  # [T * A hard, A learned]
    return F.cross_entropy(logits, torch.arange(text.shape[1], device=text.device).repeat(len(hard)))


class LASPLearner(Learner):
    """Context vectors [G, M, W], the correction vector w [D] (zero at the start) and LayerNorms of the image tower."""

    def __init__(self, context: Tensor, width: int, correction: bool, norms: dict[str, nn.Parameter], about: dict):
        super().__init__(about)
        self.context = nn.Parameter(context)
        self.correction = nn.Parameter(torch.zeros(width)) if correction else None
        self.image_norms = nn.ParameterDict({name: p.requires_grad_() for name, p in norms.items()})


class LASP(PromptTrainer):
    """The trainer."""

    def build_model(self) -> None:
        """CLIP, the prompts of every group and the hard prompts' features."""
        cfg, mine = self.cfg, self.cfg.TRAINER.LASP
        self.prec, self.grad_clip = mine.PREC, mine.GRAD_CLIP
        self.backbone = self.load_clip()
        self.encoder = self.backbone.text_encoder
        present, names = class_names(self.dm.dataset)
        self.names = names
        self.scored = len(names) if cfg.DATASET.INCLUDE_ALL_CLASSES else len(present)
        self.sizes = deal(len(mine.LASP_PROMPTS), mine.GROUPS)
        ctx = initial_words(self.encoder, self.backbone.tokenizer, mine.CTX_INIT, mine.N_CTX)
        context = torch.stack([ctx] * mine.GROUPS)
        norms = image_norms(self.backbone.visual) if mine.FINETUNE_VIT_LN else {}
        self.set_learner(
            LASPLearner(context, self.encoder.output_width, mine.ENABLE_CORRECTION, norms, self.about()),
            list(norms.values()),
            mine.LN_LR_MULT,
        )
        self._layouts, self._hard = {}, None
        self.kept_text = Kept(lambda: self.text(self.scored))

    @property
    def hard(self) -> Tensor:
        """Features of the hand-written prompts [T, A, D] of norm 1, made when first asked for."""
        if self._hard is None:
            templates = list(self.cfg.TRAINER.LASP.LASP_PROMPTS)
            self._hard = template_features(self.encoder, self.backbone.tokenizer, templates, self.names)
        return self._hard

    def text(self, count: int) -> Tensor:
        """Learned features [G, count, D] of norm 1 of the first `count` names."""
        if count not in self._layouts:
            G, M = self.learner.context.shape[:2]
            experts = [prompt_sequences(self.backbone.tokenizer, self.names[:count], M, first=g * M) for g in range(G)]
            self._layouts[count] = self.lay_out(experts, self.encoder)
        features = encode_chunked(self.encoder, self._layouts[count], self.learner.context.flatten(0, 1)).float()
        if self.learner.correction is not None:
            features = features + self.learner.correction
        return F.normalize(features, dim=-1)

    def logits(self, features: Tensor, text: Tensor) -> Tensor:
        """CLIP's logits with class features averaged over groups: [B, D], [G, C, D] -> [B, C]."""
        return self.backbone.logit_scale.exp() * features @ F.normalize(text.mean(dim=0), dim=-1).T

    def noisy(self, hard: Tensor) -> Tensor:
        """In half of the steps, Gaussian noise of NOISE_STD on the unit features, which stay as they are then."""
        if torch.rand(()) < 0.5:
            return hard + self.cfg.TRAINER.LASP.NOISE_STD * torch.randn_like(hard)
        return hard

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy + LASP_LOSS_WEIGHT x text-to-text loss over all names, base and new."""
        mine = self.cfg.TRAINER.LASP
        with self.autocast():
            features = self.image_features(image, learn=mine.FINETUNE_VIT_LN)
            text = self.text(len(self.names) if mine.LASP_LOSS_WEIGHT > 0 else self.scored)
        logits = self.logits(features, text[:, : self.scored])
        loss_cls = F.cross_entropy(logits, label)
        loss_text = loss_cls.new_zeros(())
        if mine.LASP_LOSS_WEIGHT > 0:
            loss_text = text_to_text_loss(text, self.noisy(self.hard), self.sizes, self.backbone.logit_scale.exp())
        total = loss_cls + mine.LASP_LOSS_WEIGHT * loss_text
        acc = 100 * (logits.argmax(dim=1) == label).float().mean()
        return total, {"acc": acc, "loss_cls": loss_cls, "loss_text": loss_text}

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C]; text features are kept while the parameters they depend on do not change."""
        own = (self.learner.context, self.learner.correction)
        text = self.kept_text([p for p in own if p is not None])
        with self.autocast():
            features = self.image_features(image)
        return self.logits(features, text)
