"""CoOp: context vectors learned instead of the words around the class name.

Zhou, Yang, Loy, Liu: "Learning to Prompt for Vision-Language Models", IJCV 2022, arXiv 2109.01134.

Differences from the released code: CTX_INIT is counted in tokens, not words (equal for "a photo of a"); prompts are
encoded at
their true length with the shared front once (exact); text features are computed once per evaluation, not once per
batch.
Checkpoints of the released code load (`ctx`; its stored token prefix and suffix are not needed).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip.text import TextEncoder, context_slot, make_layout
from .base import Learner, PromptTrainer, class_names
from .prompts import Tokenizer, readable, split_template, token_ids
from .towers import image_features


def prompt_sequences(
    tokenizer: Tokenizer, names: Sequence[str], n_ctx: int, position: str, class_specific: bool
) -> list[list[int]]:
    """CoOp's prompts (§3.1): [start][V]_1 ... [V]_M [class] . [end], or the class name in the middle or in front.

    Args:
        tokenizer: texts -> token ids.
        names: C class names.
        n_ctx: M context vectors.
        position: end, middle (half of the vectors on either side) or front.
        class_specific: each class has M vectors of its own.

    Returns:
        C sequences for `make_layout`.
    """
    left = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    rows = token_ids(tokenizer, [readable(name) + "." for name in names])
    sequences = []
    for c, row in enumerate(rows):
        slots = [context_slot(i + (c * n_ctx if class_specific else 0)) for i in range(n_ctx)]
        sequences.append([row[0], *slots[:left], *row[1:-2], *slots[left:], *row[-2:]])
    return sequences


class CoOpLearner(Learner):
    """The context vectors `ctx`: [M, W], or [C, M, W] if class-specific (named as in the released code)."""

    def __init__(self, ctx: Tensor, about: dict):
        super().__init__(about)
        self.ctx = nn.Parameter(ctx)


class CoOp(PromptTrainer):
    """The trainer."""

    def build_model(self) -> None:
        """CLIP and the context vectors."""
        mine = self.cfg.TRAINER.COOP
        self.prec = mine.PREC
        self.backbone = self.load_clip()
        self.encoder = TextEncoder(self.backbone.text)
        names, _ = class_names(self.dm.dataset)
        ctx = self.initial_context(mine.CTX_INIT, mine.N_CTX, len(names) if mine.CSC else None)
        sequences = prompt_sequences(self.backbone.tokenizer, names, ctx.shape[-2], mine.CLASS_TOKEN_POSITION, mine.CSC)
        self.check_length(sequences, names)
        self.layout = make_layout([sequences]).to(self.device)
        self.set_learner(CoOpLearner(ctx, self.about()))
        self._cached: tuple[tuple, Tensor] | None = None

    def initial_context(self, words: str, n_ctx: int, classes: int | None) -> Tensor:
        """[M, W] from words or at random (normal, std 0.02); [C, M, W] if `classes` is given."""
        if words:
            ids = split_template(self.backbone.tokenizer, f"{readable(words)} {{}}").before
            ctx = self.encoder.token_embedding.weight[torch.tensor(ids)].detach().clone().float()
            return ctx if classes is None else ctx.expand(classes, -1, -1).clone()
        shape = (n_ctx, self.encoder.width) if classes is None else (classes, n_ctx, self.encoder.width)
        return torch.empty(shape).normal_(std=0.02)

    def check_length(self, sequences: Sequence[Sequence[int]], names: Sequence[str]) -> None:
        """Raises ValueError if a prompt is longer than the context, naming the class."""
        for name, sequence in zip(names, sequences, strict=True):
            if len(sequence) > self.encoder.context_length:
                raise ValueError(
                    f"the prompt of class {name!r} has {len(sequence)} tokens, "
                    f"the text tower takes {self.encoder.context_length}; shorten the name or TRAINER.COOP.N_CTX"
                )

    def text(self) -> Tensor:
        """Class features [C, D] of norm 1."""
        return F.normalize(self.encoder(self.layout, self.learner.ctx.flatten(0, -2))[0].float(), dim=-1)

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of image-text similarities."""
        self._cached = None
        with self.autocast():
            features, text = image_features(self.backbone, image, learn=False), self.text()
        logits = self.backbone.logit_scale.exp() * features @ text.T
        return F.cross_entropy(logits, label), {"acc": 100 * (logits.argmax(dim=1) == label).float().mean()}

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C]; text features are kept while the context vectors do not change."""
        ctx = self.learner.ctx
        if self._cached is None or self._cached[0] != (ctx.data_ptr(), ctx._version):
            self._cached = ((ctx.data_ptr(), ctx._version), self.text())
        with self.autocast():
            features = image_features(self.backbone, image, learn=False)
        return self.backbone.logit_scale.exp() * features @ self._cached[1].T
