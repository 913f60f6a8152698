"""Zero-shot CLIP: one hand-written template per data set (Radford et al. 2021; templates as in CoOp's ZeroshotCLIP)."""

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..clip.text import TextEncoder
from ..config import ConfigError, template_groups
from .base import PromptTrainer, class_names
from .prompts import template_features
from .templates import dataset_template
from .towers import image_features


class ZeroshotCLIP(PromptTrainer):
    """Nothing is trained: `train` only tests."""

    def check_cfg(self, cfg: CfgNode) -> None:
        """Fail before anything is loaded."""
        wrong = template_groups([[cfg.TRAINER.ZSCLIP.TEMPLATE]]) if cfg.TRAINER.ZSCLIP.TEMPLATE else None
        if wrong:
            raise ConfigError([f"TRAINER.ZSCLIP.TEMPLATE: {wrong}"])

    def build_model(self) -> None:
        """CLIP and the class features."""
        self.backbone = self.load_clip()
        names, _ = class_names(self.dm.dataset)
        template = dataset_template(self.cfg.DATASET.NAME, self.cfg.TRAINER.ZSCLIP.TEMPLATE)
        print(f"Prompts: {template!r}, {len(names)} classes")
        self.text = template_features(TextEncoder(self.backbone.text), self.backbone.tokenizer, [template], names)[
            0
        ]  # [C, D]

    def train(self) -> None:
        """Test, since there is nothing to train."""
        print("Zero-shot CLIP has nothing to train")
        self.test()

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """There is nothing to load."""

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C]."""
        features = image_features(self.backbone, image, learn=False)
        return self.backbone.logit_scale.exp() * features @ self.text.T
