"""CoOp: context vectors learned instead of the words around the class name.

Zhou, Yang, Loy, Liu: "Learning to Prompt for Vision-Language Models", IJCV 2022, arXiv 2109.01134.

Differences from the released code: CTX_INIT is counted in tokens, not words (equal for "a photo of a"); prompts are
encoded at their true length with the shared front once (exact); text features are computed once per evaluation, not
once per batch. Checkpoints of the released code load (`ctx`; its stored token prefix and suffix are not needed).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip.text import encode_chunked
from .base import Learner, PromptTrainer, class_names
from .prompts import initial_words, prompt_sequences
from .towers import Kept


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
        self.encoder = self.backbone.text_encoder
        names, _ = class_names(self.dm.dataset)
        ctx = initial_words(
            self.encoder, self.backbone.tokenizer, mine.CTX_INIT, mine.N_CTX, len(names) if mine.CSC else 0
        )
        sequences = prompt_sequences(self.backbone.tokenizer, names, ctx.shape[-2], mine.CLASS_TOKEN_POSITION, mine.CSC)
        self.layouts = self.lay_out([sequences], self.encoder)
        self.set_learner(CoOpLearner(ctx, self.about()))
        self.kept_text = Kept(self.text)

    def text(self) -> Tensor:
        """Class features [C, D] of norm 1."""
        return F.normalize(
            encode_chunked(self.encoder, self.layouts, self.learner.ctx.flatten(0, -2))[0].float(), dim=-1
        )

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of image-text similarities."""
        with self.autocast():
            features, text = self.image_features(image), self.text()
        logits = self.backbone.logit_scale.exp() * features @ text.T
        return F.cross_entropy(logits, label), {"acc": 100 * (logits.argmax(dim=1) == label).float().mean()}

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C]; text features are kept while the context vectors do not change."""
        text = self.kept_text([self.learner.ctx])
        with self.autocast():
            features = self.image_features(image)
        return self.backbone.logit_scale.exp() * features @ text.T
