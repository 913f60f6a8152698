"""CoOp: context vectors learned instead of the words around the class name.

Zhou, Yang, Loy, Liu: "Learning to Prompt for Vision-Language Models", IJCV 2022, arXiv 2109.01134.

Differences from the released code: CTX_INIT is counted in tokens, not words (equal for "a photo of a"); prompts are
encoded at their true length with the shared front once (exact); text features are computed once per evaluation, not
once per batch. Checkpoints of the released code load (`ctx`; its stored token prefix and suffix are not needed).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from .. import methods
from ..clip import Backbone
from ..config.keys import text as is_text
from ..config.keys import whole
from ..toolbox.dassl.errors import WrongValue
from .base import PromptTrainer
from .model import PromptModel, accuracy, check_arguments, class_list
from .prompts import initial_words, prompt_sequences

KEYS = methods.COOP.keys


class CoOpModel(PromptModel):
    """One learned prompt for all classes, or one for each (§3.1).

    Trains `ctx`: [M, W], or [C, M, W] if class-specific (named as in the released code).

    Args:
        backbone, names, others, chunk, precision: see `PromptModel`.
        n_ctx: M context vectors; the number of tokens of `words` replaces it.
        words: whose token embeddings are the start; empty = random.
        class_specific: each class has vectors of its own.
        position: of the class name: end, middle or front.

    >>> import torch
    >>> from mocoop import CoOpModel, load_backbone
    >>> model = CoOpModel(load_backbone("demo"), ["cat", "dog"], words="an icon of a")
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # the context vectors alone
    >>> loss, logged = model.loss(model.encode_image(torch.zeros(3, 3, 48, 48)), torch.tensor([0, 1, 1]))
    >>> loss.backward()
    >>> optimizer.step()
    >>> model.ctx.shape  # [M, W]
    torch.Size([4, 128])
    """

    method = "CoOp"

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        others: Sequence[str] = (),
        n_ctx: int = 16,
        words: str = "",
        class_specific: bool = False,
        position: str = "end",
        chunk: int | None = None,
        precision: str = "fp32",
    ):
        check_arguments(
            self.method,
            n_ctx=(n_ctx, whole, KEYS["N_CTX"].check),
            words=(words, is_text, KEYS["CTX_INIT"].check),
            position=(position, KEYS["CLASS_TOKEN_POSITION"].check),
        )
        super().__init__(backbone, names, others, chunk, precision)
        self.class_specific, self.position = class_specific, position
        count = len(names) if class_specific else 0
        self.ctx = nn.Parameter(initial_words(self.encoder, backbone.tokenizer, words, n_ctx, count))

    def set_classes(self, names: Sequence[str], others: Sequence[str] = ()) -> None:
        """See `PromptModel`; class-specific vectors know only as many classes as they were made for."""
        names = class_list(names)
        if getattr(self, "class_specific", False) and len(names) != len(self.ctx):
            raise WrongValue(
                f"class-specific context vectors (CSC) exist for {len(self.ctx)} classes, found {len(names)} names; "
                "train without CSC to score other classes"
            )
        super().set_classes(names, others)

    def sequences(self, names: Sequence[str]) -> list[list[list[int]]]:
        """[start][V]_1 ... [V]_M [class] . [end], or the class name elsewhere."""
        n_ctx = self.ctx.shape[-2]
        return [prompt_sequences(self.backbone.tokenizer, names, n_ctx, self.position, self.class_specific)]

    def context_vectors(self) -> Tensor:
        """[M, W], or [C * M, W]."""
        return self.ctx.flatten(0, -2)

    def loss(self, features: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of image-text similarities."""
        with self.autocast():
            text = self.encode_classes()
        logits = self.logit_scale * features @ text.T
        return F.cross_entropy(logits, label), {"acc": accuracy(logits, label)}

    def arguments(self) -> dict[str, object]:
        """What rebuilds it."""
        return {
            "n_ctx": self.ctx.shape[-2],
            "class_specific": self.class_specific,
            "position": self.position,
        }

    @staticmethod
    def arguments_of(state: dict[str, Tensor]) -> dict[str, object]:
        """Those `arguments` that the shapes of trained tensors show (checkpoints of other code hold nothing else)."""
        return {"n_ctx": state["ctx"].shape[-2], "words": "", "class_specific": state["ctx"].dim() == 3}


class CoOp(PromptTrainer):
    """The trainer."""

    model_class = CoOpModel

    @staticmethod
    def arguments(cfg: CfgNode) -> dict[str, object]:
        """The model's arguments."""
        options = cfg.TRAINER.COOP
        return {
            "n_ctx": options.N_CTX,
            "words": options.CTX_INIT,
            "class_specific": options.CSC,
            "position": options.CLASS_TOKEN_POSITION,
        }
