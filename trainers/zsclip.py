"""Zero-shot CLIP with hand-written templates (Radford et al. 2021; templates as in CoOp's trainers of the same names).

`ZeroshotCLIP` uses one template per data set. `ZeroshotCLIP2` averages over an ensemble; the released one appends to
a list shared by the whole process, so that building it twice counts the data set's template twice.
"""

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..config import ConfigError
from ..config.keys import template_groups
from .base import PromptTrainer, class_names
from .prompts import group_prototypes, template_features
from .templates import IMAGENET_SELECT, dataset_template


class ZeroshotCLIP(PromptTrainer):
    """Nothing is trained: `train` only tests."""

    def check_cfg(self, cfg: CfgNode) -> None:
        """Fail before anything is loaded."""
        wrong = template_groups([[cfg.TRAINER.ZSCLIP.TEMPLATE]]) if cfg.TRAINER.ZSCLIP.TEMPLATE else None
        if wrong:
            raise ConfigError([f"TRAINER.ZSCLIP.TEMPLATE: {wrong}"])

    def build_model(self) -> None:
        """CLIP and the class features."""
        self.prec = self.cfg.TRAINER.ZSCLIP.PREC
        self.backbone = self.load_clip()
        names, _ = class_names(self.dm.dataset)
        templates = self.templates()
        print(f"Templates: {templates}, {len(names)} classes")
        features = template_features(self.backbone.text_encoder, self.backbone.tokenizer, templates, names)
        self.text = group_prototypes(features, [len(templates)])[0]  # [C, D]

    def templates(self) -> list[str]:
        """The data set's own template, or TRAINER.ZSCLIP.TEMPLATE."""
        return [dataset_template(self.cfg.DATASET.NAME, self.cfg.TRAINER.ZSCLIP.TEMPLATE)]

    def train(self) -> None:
        """Test, since there is nothing to train."""
        print("Zero-shot CLIP has nothing to train")
        self.test()

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """There is nothing to load."""

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C]."""
        with self.autocast():
            features = self.image_features(image)
        return self.backbone.logit_scale.exp() * features @ self.text.T


class ZeroshotCLIP2(ZeroshotCLIP):
    """The mean of seven general templates and, except on ImageNet, the data set's own, normalised before and after."""

    def templates(self) -> list[str]:
        """Seven selected ImageNet templates, then the data set's."""
        own = [] if self.cfg.DATASET.NAME == "ImageNet" else super().templates()
        return [*IMAGENET_SELECT, *own]
