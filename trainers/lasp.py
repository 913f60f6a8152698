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
from yacs.config import CfgNode

from .. import methods
from ..clip import Backbone
from ..config.keys import templates, whole
from ..config.keys import text as is_text
from ..toolbox.dassl.errors import WrongValue
from .base import PromptTrainer
from .model import PromptModel, accuracy, check_arguments
from .norms import image_norms, with_own_norms
from .prompts import initial_words, prompt_sequences, template_features
from .templates import prompt_groups

KEYS = methods.LASP.keys


def templates_per_group(templates: int, groups: int) -> list[int]:
    """How many of the templates each group gets, in order: as evenly as possible, the first groups one more."""
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


class LASPModel(PromptModel):
    """G learned prompts, their class features averaged, near T hand-written ones.

    Trains `context` [G, M, W], the correction vector w `correction` [D] (zero at the start) and, if asked for, the
    LayerNorms of the image blocks.

    Args:
        backbone, names, others, chunk, precision: see `PromptModel`.
        prompts: T hand-written templates; the released code's by default.
        groups: G; the templates are dealt out among them.
        n_ctx, words: see `coop.CoOpModel`.
        correction: learn w.
        finetune_norms: learn the LayerNorms of the image blocks.
        loss_weight: of the text-to-text loss.
        noise_std: of the noise on the hand-written prompts' features, in half of the steps.

    >>> import torch
    >>> from mocoop import LASPModel, load_backbone
    >>> model = LASPModel(load_backbone("demo"), ["cat", "dog"], others=["house"], groups=2)
    >>> model.hard.shape  # [T, A, D]
    torch.Size([35, 3, 128])
    >>> loss, logged = model.loss(model.encode_image(torch.zeros(3, 3, 48, 48)), torch.tensor([0, 1, 1]))
    >>> list(logged)
    ['acc', 'loss_cls', 'loss_text']
    """

    method = "LASP"

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        others: Sequence[str] = (),
        prompts: Sequence[str] = tuple(methods.LASP_PROMPTS),
        groups: int = 1,
        n_ctx: int = 4,
        words: str = "a photo of a",
        correction: bool = True,
        finetune_norms: bool = True,
        loss_weight: float = 5.0,
        noise_std: float = 0.05,
        chunk: int | None = None,
        precision: str = "fp32",
    ):
        check_arguments(
            self.method,
            prompts=(prompts, templates),
            groups=(groups, whole, KEYS["GROUPS"].check),
            n_ctx=(n_ctx, whole, KEYS["N_CTX"].check),
            words=(words, is_text, KEYS["CTX_INIT"].check),
            loss_weight=(loss_weight, KEYS["LASP_LOSS_WEIGHT"].check),
            noise_std=(noise_std, KEYS["NOISE_STD"].check),
        )
        backbone = with_own_norms(backbone) if finetune_norms else backbone
        super().__init__(backbone, names, others, chunk, precision)
        if loss_weight > 0 and not 1 <= groups <= len(prompts):
            raise WrongValue(f"expected 1 to {len(prompts)} groups (there are {len(prompts)} prompts), found {groups}")
        self.prompts, self.loss_weight, self.noise_std = list(prompts), loss_weight, noise_std
        ctx = initial_words(self.encoder, backbone.tokenizer, words, n_ctx)
        self.context = nn.Parameter(torch.stack([ctx] * groups))
        w = torch.zeros(self.encoder.output_width, device=self.device)
        self.correction = nn.Parameter(w) if correction else None
        if finetune_norms:
            self.image_norms = nn.ParameterDict(image_norms(self.backbone.visual))

    def sequences(self, names: Sequence[str]) -> list[list[list[int]]]:
        """One list of prompts per group."""
        groups, n_ctx = self.context.shape[:2]
        return [prompt_sequences(self.backbone.tokenizer, names, n_ctx, first=g * n_ctx) for g in range(groups)]

    def context_vectors(self) -> Tensor:
        """[G * M, W]."""
        return self.context.flatten(0, 1)

    def text(self, count: int) -> Tensor:
        """Learned features [G, count, D] of norm 1 of the first `count` names: normalise(text + w)."""
        features = self.encode_names(count)
        return F.normalize(features if self.correction is None else features + self.correction, dim=-1)

    def encode_classes(self) -> Tensor:
        """[G, C, D]."""
        return self.text(len(self.names))

    @property
    def hard(self) -> Tensor:
        """Features of the hand-written prompts [T, A, D] of norm 1, made when first asked for."""
        names = [*self.names, *self.others]
        parts = self.encoder, self.backbone.tokenizer, self.prompts, names
        return self.once("hard", lambda: template_features(*parts, ranks=self.ranks))

    def mean_logits(self, features: Tensor, text: Tensor) -> Tensor:
        """CLIP's logits with class features averaged over groups: [B, D], [G, C, D] -> [B, C]."""
        return self.logit_scale * features @ F.normalize(text.mean(dim=0), dim=-1).T

    def logits(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, C]."""
        return self.mean_logits(features, self.class_features())

    def class_features_for(self, features: Tensor) -> Tensor:
        """The average over groups: [B, D] -> [B, C, D]."""
        return F.normalize(self.class_features().mean(dim=0), dim=-1).expand(len(features), -1, -1)

    def noisy(self, hard: Tensor) -> Tensor:
        """In half of the steps, Gaussian noise of `noise_std` on the unit features, which stay as they are then."""
        return hard + self.noise_std * torch.randn_like(hard) if torch.rand(()) < 0.5 else hard

    def loss(self, features: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy + loss_weight x text-to-text loss over all names, base and new."""
        scored = len(self.names)
        with self.autocast():
            text = self.text(scored + len(self.others) if self.loss_weight > 0 else scored)
        logits = self.mean_logits(features, text[:, :scored])
        loss_cls = F.cross_entropy(logits, label)
        loss_text = loss_cls.new_zeros(())
        if self.loss_weight > 0:
            sizes = templates_per_group(len(self.prompts), len(self.context))
            loss_text = text_to_text_loss(text, self.noisy(self.hard), sizes, self.logit_scale)
        total = loss_cls + self.loss_weight * loss_text
        return total, {"acc": accuracy(logits, label), "loss_cls": loss_cls, "loss_text": loss_text}

    def arguments(self) -> dict[str, object]:
        """What rebuilds it."""
        return {
            "prompts": list(self.prompts),
            "groups": len(self.context),
            "n_ctx": self.context.shape[1],
            "words": "",
            "correction": self.correction is not None,
            "finetune_norms": hasattr(self, "image_norms"),
        }

    @staticmethod
    def arguments_of(state: dict[str, Tensor]) -> dict[str, object]:
        """See `coop.CoOpModel`."""
        groups, n_ctx = state["context"].shape[:2]
        return {
            "groups": groups,
            "n_ctx": n_ctx,
            "words": "",
            "correction": "correction" in state,
            "finetune_norms": any(name.startswith("image_norms.") for name in state),
        }


class LASP(PromptTrainer):
    """The trainer."""

    model_class = LASPModel

    @staticmethod
    def arguments(cfg: CfgNode) -> dict[str, object]:
        """The model's arguments; without LASP_PROMPTS the prompts are the data set's templates."""
        options = cfg.TRAINER.LASP
        return {
            "prompts": list(options.LASP_PROMPTS) or [prompt for group in prompt_groups(cfg) for prompt in group],
            "groups": options.GROUPS,
            "n_ctx": options.N_CTX,
            "words": options.CTX_INIT,
            "correction": options.ENABLE_CORRECTION,
            "finetune_norms": options.FINETUNE_VIT_LN,
            "loss_weight": options.LASP_LOSS_WEIGHT,
            "noise_std": options.NOISE_STD,
        }

    def uses_others(self, cfg: CfgNode) -> bool:
        """The text-to-text loss is over all names."""
        return True
