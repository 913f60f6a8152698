"""KgCoOp: CoOp's context vectors, whose class features are held near those of a hand-written prompt.

Yao, Zhang, Xu: "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization", CVPR 2023, arXiv 2303.13283.

Differences from the released code: PREC amp keeps L_kg (the released one drops it and stops with an error); CTX_INIT is
any words, not only "a photo of a"; the meta-net and the bias vectors, which its loss never uses, are not here; W has
the README's value; the frozen CLIP is loaded once, not twice; prompts are encoded at their true length. Kept as coded,
not as printed: L_kg is 1 - cosine, half of the paper's squared distance of unit vectors, so that W 8 is the paper's
lambda 4. Checkpoints of the released code load.
"""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from .. import methods
from ..clip import Backbone
from ..config.keys import templates, whole
from ..config.keys import text as is_text
from .base import PromptTrainer
from .model import PromptModel, accuracy, check_arguments
from .prompts import initial_words, prompt_sequences, template_features
from .templates import DEFAULT_TEMPLATE, dataset_template

# Where the released code's template is not CoOp's zero-shot one: by DATASET.NAME.
TEMPLATES = {"DescribableTextures": "a photo of a {}, a type of texture."}
KEYS = methods.KGCOOP.keys
UNUSED = ("bias_vectors", "meta_net.linear1.weight", "meta_net.linear1.bias")  # in the released code's checkpoints


class KgCoOpModel(PromptModel):
    """One learned prompt for all classes, near a hand-written one (§3).

    Trains `ctx` [M, W] (named as in the released code).

    Args:
        backbone, names, others, chunk, precision: see `PromptModel`.
        n_ctx, words: see `coop.CoOpModel`.
        template: the hand-written prompt, with one "{}" for the class name.
        weight: of L_kg.

    >>> import torch
    >>> from mocoop import KgCoOpModel, load_backbone
    >>> model = KgCoOpModel(load_backbone("demo"), ["cat", "dog"], template="an icon of a {}.")
    >>> loss, logged = model.loss(model.encode_image(torch.zeros(3, 3, 48, 48)), torch.tensor([0, 1, 1]))
    >>> list(logged)
    ['acc', 'loss_cls', 'loss_kg']
    """

    method = "KgCoOp"

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        others: Sequence[str] = (),
        n_ctx: int = 4,
        words: str = "a photo of a",
        template: str = DEFAULT_TEMPLATE,
        weight: float = 8.0,
        chunk: int | None = None,
        precision: str = "fp32",
    ):
        check_arguments(
            self.method,
            n_ctx=(n_ctx, whole, KEYS["N_CTX"].check),
            words=(words, is_text, KEYS["CTX_INIT"].check),
            template=([template], templates),
            weight=(weight, KEYS["W"].check),
        )
        super().__init__(backbone, names, others, chunk, precision)
        self.template, self.weight = template, weight
        self.ctx = nn.Parameter(initial_words(self.encoder, backbone.tokenizer, words, n_ctx))

    def sequences(self, names: Sequence[str]) -> list[list[list[int]]]:
        """[start][V]_1 ... [V]_M [class] . [end]."""
        return [prompt_sequences(self.backbone.tokenizer, names, len(self.ctx))]

    def context_vectors(self) -> Tensor:
        """[M, W]."""
        return self.ctx

    @property
    def hand_written(self) -> Tensor:
        """Features [C, D] of norm 1 of the template with each class name, made when first asked for."""
        parts = self.encoder, self.backbone.tokenizer, [self.template], self.names
        return self.once("hand_written", lambda: template_features(*parts)[0])

    def loss(self, features: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy + weight x L_kg, the mean over classes of 1 - cosine(learned, hand-written)."""
        with self.autocast():
            text = self.encode_classes()
        logits = self.logit_scale * features @ text.T
        loss_cls = F.cross_entropy(logits, label)
        loss_kg = 1 - (text * self.hand_written).sum(dim=-1).mean()
        total = loss_cls + self.weight * loss_kg
        return total, {"acc": accuracy(logits, label), "loss_cls": loss_cls, "loss_kg": loss_kg}

    def load_state_dict(self, state_dict: Mapping[str, object], *args: object, **options: object) -> object:
        """As for any module, without the tensors of released checkpoints that their own loss does not use."""
        return super().load_state_dict({k: v for k, v in state_dict.items() if k not in UNUSED}, *args, **options)

    def arguments(self) -> dict[str, object]:
        """What rebuilds it."""
        return {"n_ctx": len(self.ctx), "words": "", "template": self.template, "weight": self.weight}

    @staticmethod
    def arguments_of(state: Mapping[str, Tensor]) -> dict[str, object]:
        """See `coop.CoOpModel`."""
        return {"n_ctx": len(state["ctx"]), "words": ""}


class KgCoOp(PromptTrainer):
    """The trainer."""

    model_class = KgCoOpModel

    @staticmethod
    def arguments(cfg: CfgNode) -> dict[str, object]:
        """The model's arguments; the template is TEMPLATE if given, else the released one of the data set."""
        options = cfg.TRAINER.KGCOOP
        return {
            "n_ctx": options.N_CTX,
            "words": options.CTX_INIT,
            "template": options.TEMPLATE or TEMPLATES.get(cfg.DATASET.NAME) or dataset_template(cfg),
            "weight": options.W,
        }
