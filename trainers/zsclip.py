"""Zero-shot CLIP with hand-written templates (Radford et al. 2021; templates as in CoOp's trainers of the same names).

`ZeroshotCLIP` uses one template per data set. `ZeroshotCLIP2` averages over an ensemble; the released one appends to
a list shared by the whole process, so that building it twice counts the data set's template twice.
"""

from collections.abc import Sequence

from torch import Tensor
from yacs.config import CfgNode

from ..clip import Backbone
from ..config.keys import templates as check_templates
from .base import PromptTrainer
from .model import PromptModel, check_arguments
from .prompts import group_prototypes, template_features
from .templates import DEFAULT_TEMPLATE, dataset_template

# The seven that OpenAI's notebook selects from its 80 ImageNet templates.
IMAGENET_SELECT = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


class ZeroshotModel(PromptModel):
    """CLIP with hand-written prompts; nothing is trained.

    Args:
        backbone, names, others, chunk, precision: see `PromptModel`.
        templates: with one "{}" each; class features are averaged over them, normalised before and after.

    >>> import torch
    >>> from mocoop import ZeroshotModel, load_backbone
    >>> model = ZeroshotModel(load_backbone("demo"), ["cat", "dog"], templates=["an icon of a {}.", "a {}."])
    >>> model(torch.zeros(3, 3, 48, 48)).shape
    torch.Size([3, 2])
    >>> model.set_classes(["cat", "dog", "house"])
    >>> model.class_features().shape  # [C, D]
    torch.Size([3, 128])
    """

    method = "ZeroshotCLIP"

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        others: Sequence[str] = (),
        templates: Sequence[str] = (DEFAULT_TEMPLATE,),
        chunk: int | None = None,
        precision: str = "fp32",
    ):
        super().__init__(backbone, names, others, chunk, precision)
        self.set_templates(templates)

    def set_templates(self, templates: Sequence[str]) -> None:
        """Use other templates from now on.

        Raises:
            ValueError: there is none, or one has not exactly one "{}".
        """
        check_arguments(self.method, templates=(templates, check_templates))
        self.templates = list(templates)
        self.set_classes(self.names, self.others)

    def encode_classes(self) -> Tensor:
        """[C, D] of norm 1."""
        features = template_features(self.encoder, self.backbone.tokenizer, self.templates, self.names)
        return group_prototypes(features, [len(self.templates)])[0]

    def arguments(self) -> dict[str, object]:
        """What rebuilds it."""
        return {"templates": list(self.templates)}


class ZeroshotCLIP(PromptTrainer):
    """The trainer of the single template."""

    model_class = ZeroshotModel

    @staticmethod
    def arguments(cfg: CfgNode) -> dict[str, object]:
        """The data set's own template, or TRAINER.ZSCLIP.TEMPLATE."""
        return {"templates": [dataset_template(cfg)]}


class ZeroshotCLIP2(ZeroshotCLIP):
    """The trainer of the ensemble: seven general templates and, except on ImageNet, the data set's own."""

    @staticmethod
    def arguments(cfg: CfgNode) -> dict[str, object]:
        """Seven selected ImageNet templates, then the data set's."""
        own = [] if cfg.DATASET.NAME == "ImageNet" else [dataset_template(cfg)]
        return {"templates": [*IMAGENET_SELECT, *own]}
