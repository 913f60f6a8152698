"""A trainer without data on disk: the real classes, a backbone with random weights, made-up images."""

from types import SimpleNamespace

import torch
from torch import Tensor
from yacs.config import CfgNode

from ..clip import Backbone, architectures, load_backbone
from ..clip.backbones import frozen_backbone
from ..clip.preprocess import openai_preprocess
from ..methods import named
from ..plugin import extend_cfg
from ..trainers.base import PromptTrainer
from ..trainers.model import PromptModel
from .cases import Case, architecture, class_names, template_groups


def random_backbone(name: str, device: str = "cpu") -> Backbone:
    """A backbone of this architecture with random weights, always the same; "demo" comes with its own.

    Raises:
        ValueError: not the name of an architecture.
    """
    if name == "demo":
        return load_backbone(name, device)
    from open_clip.model import CLIP, CustomTextCLIP

    config = architecture(name)
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (CustomTextCLIP if config.get("custom_text") else CLIP)(**arguments)
    return frozen_backbone(name, model, openai_preprocess(architectures.image_size(config)), device)


def make_config(case: Case) -> CfgNode:
    """The config of a run of this case; what it leaves open is as in the published configs."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.USE_CUDA = case.device == "cuda"
    cfg.DATASET.NAME = "EuroSAT"  # whose template groups MoCoOp looks up
    cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.NAME = case.method, case.backbone
    cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.LR_SCHEDULER = "sgd", 0.002, "cosine"
    cfg.TRAIN.TEXT_CHUNK = case.chunk
    row = named(case.method)
    options = cfg.TRAINER[row.node]
    options.PREC = case.prec
    if row.tunes_image:
        options[row.tunes_image] = not case.frozen
    if "PROMPT_GROUPS" in options and case.experts:
        options.PROMPT_GROUPS = template_groups(case.experts)
    if case.method == "CoCoOp":  # as its scripts set it
        options.N_CTX, options.CTX_INIT = 4, "a photo of a"
    return cfg


def make_trainer(case: Case, model: type[PromptModel] | None = None, backbone: Backbone | None = None) -> PromptTrainer:
    """A trainer about to train its first batch.

    Args:
        case: what to measure; model: a model's class instead of the method's own (the plain path's); backbone: instead
            of one with random weights.
    """
    backbone = backbone or random_backbone(case.backbone, case.device)
    known, base = class_names(case.known), named(case.method).load_trainer()
    dataset = SimpleNamespace(classnames=known[: case.present], all_classnames=known)

    class Synthetic(base):
        """The trainer without data on disk and without loading weights."""

        model_class = model or base.model_class

        def build_data_loader(self) -> None:
            self.dm = SimpleNamespace(dataset=dataset)
            self.train_loader_x = self.train_loader_u = self.val_loader = self.test_loader = None
            self.num_classes, self.lab2cname = case.present, dict(enumerate(dataset.classnames))

        def load_clip(self) -> Backbone:
            return backbone

    torch.manual_seed(0)
    trainer = Synthetic(make_config(case))
    trainer.batch_idx, trainer.num_batches = 0, 2**31  # no batch is an epoch's last: the learning rate stays
    trainer.before_epoch()
    trainer.set_model_mode("eval" if case.evaluate else "train")
    return trainer


def make_batch(case: Case, size: int) -> dict[str, Tensor]:
    """Made-up images [B, 3, size, size] and labels [B], as a loader gives them."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(case.batch, 3, size, size, generator=generator)
    batch = {"img": image, "label": torch.randint(case.present, (case.batch,), generator=generator)}
    return {key: value.pin_memory() for key, value in batch.items()} if case.device == "cuda" else batch


def prepare(trainer: PromptTrainer, case: Case) -> None:
    """Make what is made once per run and not per step: the features of hand-written prompts, the trial of the tower."""
    trainer.model.image_features_are_trained()
    if not case.evaluate:
        for name in ("prototypes", "hard"):
            getattr(trainer.model, name, None)


def text_features(trainer: PromptTrainer, case: Case) -> Tensor:
    """The text path of one of our steps (or of one evaluation) alone, with gradient if that is enabled."""
    model = trainer.model
    if hasattr(model, "encode_for_images"):  # every image has prompts of its own
        width = model.encoder.output_width
        image = torch.randn(case.batch, width, generator=torch.Generator().manual_seed(2)).to(model.device)
        return model.logits(torch.nn.functional.normalize(image, dim=-1))
    with model.autocast():
        if case.evaluate or not hasattr(model, "text"):
            return model.encode_classes()
        return model.text(len(model.names) + len(model.others))
