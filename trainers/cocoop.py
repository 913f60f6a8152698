"""CoCoOp: context vectors shifted for every image by a small network that sees it.

Zhou, Yang, Loy, Liu: "Conditional Prompt Learning for Vision-Language Models", CVPR 2022, arXiv 2203.05557.

Differences from the released code: images x classes of a batch are encoded in one pass, each image's shared front
(start token and context vectors) once, instead of one image after the other on 77 positions (equal, forward and
gradient); batches larger than one train; CTX_INIT is counted in tokens. Checkpoints of the released code load.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip.text import TextEncoder, make_layout
from .base import Learner, PromptTrainer, class_names
from .prompts import initial_words, prompt_sequences


class CoCoOpLearner(Learner):
    """Context vectors `ctx` [M, W] and the meta-net that turns an image feature into one shift of all of them (§3.2).

    Args:
        ctx: [M, W] initial context vectors.
        image_width: D of the image features; the hidden layer has D // 16 units.
        about: see `Learner`.
    """

    def __init__(self, ctx: Tensor, image_width: int, about: dict):
        super().__init__(about)
        self.ctx = nn.Parameter(ctx)
        hidden = image_width // 16
        self.meta_net = nn.Sequential(
            OrderedDict(linear1=nn.Linear(image_width, hidden), relu=nn.ReLU(), linear2=nn.Linear(hidden, ctx.shape[1]))
        )

    def forward(self, image: Tensor) -> Tensor:
        """Context vectors of every image: features [B, D] -> [B * M, W]."""
        return (self.ctx + self.meta_net(image)[:, None]).flatten(0, 1)


class CoCoOp(PromptTrainer):
    """The trainer."""

    eval_prompts = 4096  # prompts encoded at once in evaluation, so that memory does not grow with batch x classes

    def build_model(self) -> None:
        """CLIP, the context vectors and the meta-net."""
        mine = self.cfg.TRAINER.COCOOP
        self.prec = mine.PREC
        self.backbone = self.load_clip()
        self.encoder = TextEncoder(self.backbone.text)
        names, _ = class_names(self.dm.dataset)
        ctx = initial_words(self.encoder, self.backbone.tokenizer, mine.CTX_INIT, mine.N_CTX)
        self.layout = make_layout([prompt_sequences(self.backbone.tokenizer, names, len(ctx))]).to(self.device)
        self.set_learner(CoCoOpLearner(ctx, self.encoder.output_width, self.about()))

    def logits(self, features: Tensor) -> Tensor:
        """CLIP's logits with each image's own prompts: features [B, D] of norm 1 -> [B, C]."""
        context = self.learner(features)
        layout = self.layout.repeat(len(features), self.learner.ctx.shape[0])
        text = F.normalize(self.encoder(layout, context).float(), dim=-1)  # [B, C, D]
        return self.backbone.logit_scale.exp() * torch.einsum("bd,bcd->bc", features, text)

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of image-text similarities."""
        with self.autocast():
            logits = self.logits(self.image_features(image)).float()
        return F.cross_entropy(logits, label), {"acc": 100 * (logits.argmax(dim=1) == label).float().mean()}

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C], a few images at a time."""
        with self.autocast():
            features = self.image_features(image)
            step = max(1, self.eval_prompts // self.layout.shape[1])
            return torch.cat([self.logits(part).float() for part in features.split(step)])
