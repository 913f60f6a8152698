"""CoCoOp: context vectors shifted for every image by a small network that sees it.

Zhou, Yang, Loy, Liu: "Conditional Prompt Learning for Vision-Language Models", CVPR 2022, arXiv 2203.05557.

Differences from the released code: images x classes of a batch are encoded in one pass, each image's shared front
(start token and context vectors) once, instead of one image after the other on 77 positions (equal, forward and
gradient); CTX_INIT is counted in tokens. Checkpoints of the released code load.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip.layout import PromptLayout
from ..clip.text import encode_chunked
from .base import Learner, PromptTrainer, class_names
from .prompts import initial_words, prompt_sequences
from .towers import rows_that_fit


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
        """Context vectors of every image: features [B, D] -> [B, M, W]."""
        return self.ctx + self.meta_net(image)[:, None]


class CoCoOp(PromptTrainer):
    """The trainer."""

    eval_prompts = 4096  # prompts encoded at once in evaluation, where little memory is held: more is no faster

    def build_model(self) -> None:
        """CLIP, the context vectors and the meta-net."""
        mine = self.cfg.TRAINER.COCOOP
        self.prec = mine.PREC
        self.backbone = self.load_clip()
        self.encoder = self.backbone.text_encoder
        names, _ = class_names(self.dm.dataset)
        ctx = initial_words(self.encoder, self.backbone.tokenizer, mine.CTX_INIT, mine.N_CTX)
        self.layouts = self.lay_out([prompt_sequences(self.backbone.tokenizer, names, len(ctx))], self.encoder)
        self.classes = len(names)
        chunk, rows = self.cfg.TRAIN.TEXT_CHUNK, rows_that_fit(self.encoder, self.device)
        self.images_that_fit = max(1, chunk // len(names) if chunk else int(rows / self.layouts[0].rows))
        self._repeated: dict[int, list[PromptLayout]] = {}
        self.set_learner(CoCoOpLearner(ctx, self.encoder.output_width, self.about()))

    def images_at_once(self) -> int:
        """How many images' prompts are encoded in one pass."""
        if not torch.is_grad_enabled() and len(self.layouts) == 1 and not self.cfg.TRAIN.TEXT_CHUNK:
            return max(1, self.eval_prompts // self.classes)
        return self.images_that_fit

    def layouts_for(self, images: int) -> list[PromptLayout]:
        """The prompts of so many images, in slices of classes; kept, as batches are of one or two sizes."""
        if images not in self._repeated:
            self._repeated[images] = [part.repeat(images, len(self.learner.ctx)) for part in self.layouts]
        return self._repeated[images]

    def text(self, context: Tensor) -> Tensor:
        """Class features of norm 1 of each image: contexts [B, M, W] -> [B, C, D], a few images at a time."""
        parts = context.split(self.images_at_once())
        chunked = len(parts) * len(self.layouts) > 1
        features = [
            encode_chunked(self.encoder, self.layouts_for(len(part)), part.flatten(0, 1), chunked) for part in parts
        ]
        return F.normalize(torch.cat(features).float(), dim=-1)

    def logits(self, features: Tensor) -> Tensor:
        """CLIP's logits with each image's own prompts: features [B, D] of norm 1 -> [B, C]."""
        with self.autocast():
            text = self.text(self.learner(features))
        return self.backbone.logit_scale.exp() * torch.einsum("bd,bcd->bc", features, text)

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of image-text similarities."""
        with self.autocast():
            features = self.image_features(image)
        logits = self.logits(features)  # not in half precision: 100 x cosine would be rounded to steps of 0.1
        return F.cross_entropy(logits, label), {"acc": 100 * (logits.argmax(dim=1) == label).float().mean()}

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C]."""
        with self.autocast():
            features = self.image_features(image)
        return self.logits(features)
