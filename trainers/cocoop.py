"""CoCoOp: context vectors shifted for every image by a small network that sees it.

Zhou, Yang, Loy, Liu: "Conditional Prompt Learning for Vision-Language Models", CVPR 2022, arXiv 2203.05557.

Differences from the released code: images x classes of a batch are encoded in one pass, each image's shared front
(start token and context vectors) once, instead of one image after the other on 77 positions (equal, forward and
gradient); CTX_INIT is counted in tokens. Checkpoints of the released code load.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from .. import methods
from ..clip import Backbone
from ..clip.layout import PromptLayout
from ..clip.text import encode_chunked
from ..config.keys import text as is_text
from ..config.keys import whole
from .base import PromptTrainer
from .memory import rows_that_fit
from .model import PromptModel, accuracy, check_arguments
from .prompts import initial_words, prompt_sequences

KEYS = methods.COCOOP.keys


class CoCoOpModel(PromptModel):
    """A prompt that every image shifts (§3.2).

    Trains `ctx` [M, W] and `meta_net`, which turns an image feature into one shift of all context vectors; its hidden
    layer has D // 16 units.

    Args:
        backbone, names, others, chunk, precision: see `PromptModel`.
        n_ctx, words: see `coop.CoOpModel`.

    >>> import torch
    >>> from mocoop import CoCoOpModel, load_backbone
    >>> model = CoCoOpModel(load_backbone("demo"), ["cat", "dog"], n_ctx=4)
    >>> model.contexts(model.encode_image(torch.zeros(3, 3, 48, 48))).shape  # [B, M, W]
    torch.Size([3, 4, 128])
    """

    method = "CoCoOp"
    eval_prompts = 4096  # prompts encoded at once in evaluation, which needs little memory; more is no faster

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        others: Sequence[str] = (),
        n_ctx: int = 16,
        words: str = "",
        chunk: int | None = None,
        precision: str = "fp32",
    ):
        check_arguments(
            self.method,
            n_ctx=(n_ctx, whole, KEYS["N_CTX"].check),
            words=(words, is_text, KEYS["CTX_INIT"].check),
        )
        super().__init__(backbone, names, others, chunk, precision)
        self.ctx = nn.Parameter(initial_words(self.encoder, backbone.tokenizer, words, n_ctx))
        width, hidden = self.encoder.output_width, self.encoder.output_width // 16
        linear = {
            "linear1": nn.Linear(width, hidden),
            "relu": nn.ReLU(),
            "linear2": nn.Linear(hidden, self.ctx.shape[1]),
        }
        self.meta_net = nn.Sequential(OrderedDict(linear)).to(self.device)

    def contexts(self, features: Tensor) -> Tensor:
        """Context vectors of every image: features [B, D] -> [B, M, W]."""
        return self.ctx + self.meta_net(features)[:, None]

    def sequences(self, names: Sequence[str]) -> list[list[list[int]]]:
        """[start][V]_1 ... [V]_M [class] . [end]."""
        return [prompt_sequences(self.backbone.tokenizer, names, len(self.ctx))]

    def images_that_fit(self) -> int:
        """For how many images prompts fit into memory at once in training."""
        if self.chunk:
            return max(1, self.chunk // len(self.names))
        layout = self.layouts(len(self.names))[0]
        return self.once("images", lambda: max(1, int(rows_that_fit(self.encoder, self.device) / layout.rows)))

    def images_at_once(self) -> int:
        """How many images' prompts are encoded in one pass."""
        if not torch.is_grad_enabled() and len(self.layouts(len(self.names))) == 1 and not self.chunk:
            return max(1, self.eval_prompts // len(self.names))
        return self.images_that_fit()

    def layouts_for(self, images: int) -> list[PromptLayout]:
        """The prompts of so many images, in slices of classes; kept, as batches are of one or two sizes."""
        parts, own = self.layouts(len(self.names)), self.sharing.share(len(self.names))
        key = ("images", images, own.start, own.stop)
        return self.once(key, lambda: [part.repeat(images, len(self.ctx)) for part in parts])

    def encode_for_images(self, contexts: Tensor) -> Tensor:
        """Class features of norm 1 of each image: contexts [B, M, W] -> [B, C, D], a few images at a time.

        Of several ranks each encodes its share of the classes, for all images: batches may hold a single one.
        """
        parts = contexts.split(self.images_at_once())
        chunked = len(parts) * len(self.layouts(len(self.names))) > 1
        features = [
            encode_chunked(self.encoder, self.layouts_for(len(part)), part.flatten(0, 1), chunked) for part in parts
        ]
        return F.normalize(torch.cat(features).float(), dim=-1)

    def context_vectors(self) -> Tensor:
        """[M, W], before an image shifts them."""
        return self.ctx

    def class_features_for(self, features: Tensor) -> Tensor:
        """Those of each image's own prompts: [B, D] -> [B, C, D]."""
        with self.autocast():
            own = self.encode_for_images(self.contexts(features))
        return self.sharing.gather(own, len(self.names), dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """CLIP's logits with each image's own prompts: features [B, D] of norm 1 -> [B, C]."""
        with self.autocast():
            text = self.encode_for_images(self.contexts(features))
        # not in half precision: 100 x cosine would be rounded to steps of 0.1
        own = self.logit_scale * torch.einsum("bd,bcd->bc", features, text)
        return self.sharing.gather(own, len(self.names), dim=1)

    def open_logits(self) -> Callable[[Tensor], Tensor]:
        """See `PromptModel`; every prompt is a row of its own."""
        parts = [layout.sequences(self.encoder.context_length) for layout in self.layouts(len(self.names))]
        entries, ends = (torch.cat(column) for column in zip(*parts, strict=True))  # [C, 77], [C]
        entries = entries[:, : int(ends.max()) + 1]
        words = self.encoder.token_embedding(entries.clamp(min=0))  # [C, L, W]
        first = int((entries[0] < 0).nonzero()[0])  # of the context vectors
        before, after = words[:, :first], words[:, first + len(self.ctx) :]

        def logits(features: Tensor) -> Tensor:
            B, C = features.shape[0], len(words)
            ctx = self.contexts(features)[:, None].expand(-1, C, -1, -1)
            x = torch.cat([before.expand(B, -1, -1, -1), ctx, after.expand(B, -1, -1, -1)], dim=2)
            text = F.normalize(self.encoder.encode_rows(x.flatten(0, 1), ends.repeat(B)), dim=-1)
            return self.logit_scale * torch.einsum("bd,bcd->bc", features, text.view(B, C, -1))

        return logits

    def loss(self, features: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of image-text similarities."""
        logits = self.logits(features)
        return F.cross_entropy(logits, label), {"acc": accuracy(logits, label)}

    def arguments(self) -> dict[str, object]:
        """What rebuilds it."""
        return {"n_ctx": len(self.ctx)}

    @staticmethod
    def arguments_of(state: dict[str, Tensor]) -> dict[str, object]:
        """See `coop.CoOpModel`."""
        state["meta_net.linear1.weight"]  # there
        return {"n_ctx": len(state["ctx"]), "words": ""}


class CoCoOp(PromptTrainer):
    """The trainer."""

    model_class = CoCoOpModel

    @staticmethod
    def arguments(cfg: CfgNode) -> dict[str, object]:
        """The model's arguments."""
        return {"n_ctx": cfg.TRAINER.COCOOP.N_CTX, "words": cfg.TRAINER.COCOOP.CTX_INIT}
