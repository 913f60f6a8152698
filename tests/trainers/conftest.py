"""Trainers on a data set of coloured squares and a CLIP of a few thousand parameters."""

import pytest
from PIL import Image

NAMES = ["red_square", "green square", "blue square", "yellow square"]
COLOURS = [(220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30)]
GROUPS = [["a photo of a {}."], ["{} texture.", "a rendering of the {}."], ["a {} in a video game."]]


def squares(root, names, per_class):
    from dassl.data.datasets import Datum

    root.mkdir(parents=True, exist_ok=True)
    items = []
    for label, name in enumerate(names):
        for i in range(per_class):
            path = root / f"{name}_{i}.png"
            if not path.exists():
                colour = COLOURS[NAMES.index(name)]
                Image.new("RGB", (32, 32), tuple(min(255, c + 7 * i) for c in colour)).save(path)
            items.append(Datum(impath=str(path), label=label, classname=name))
    return items


@pytest.fixture(scope="session", autouse=True)
def squares_dataset():
    """Registers the data set Squares: base = red and green, new = blue and yellow; 3 images a class, 2 to train on."""
    from dassl.data.datasets import DATASET_REGISTRY, DatasetBase

    class Squares(DatasetBase):
        knows_all = True  # False: as CoOp's own data sets

        def __init__(self, cfg):
            from pathlib import Path

            names = {"all": NAMES, "base": NAMES[:2], "new": NAMES[2:]}[cfg.DATASET.SUBSAMPLE_CLASSES]
            items = squares(Path(cfg.DATASET.ROOT), names, 3)
            super().__init__(train_x=[x for x in items if not x.impath.endswith("_2.png")], val=items, test=items)
            if self.knows_all:
                self.all_classnames = NAMES

    DATASET_REGISTRY.register(Squares)
    return Squares


@pytest.fixture()
def make_trainer(tmp_path, monkeypatch, tiny_backbone):
    """make_trainer("MoCoOp", "KEY", value, ...) -> a trainer in its own process-wide state, writing to tmp_path/out."""
    import mocoop
    import mocoop.trainers.base as base
    from dassl.config import get_cfg_default
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    monkeypatch.setattr(base, "load_backbone", lambda name, device: tiny_backbone)

    def make(trainer, *opts, seed=1):
        cfg = get_cfg_default()
        mocoop.extend_cfg(cfg)
        cfg.DATASET.NAME, cfg.DATASET.ROOT = "Squares", str(tmp_path / "squares")
        cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.NAME = trainer, "tiny"
        cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = (32, 32), "bicubic"
        cfg.INPUT.PIXEL_MEAN = cfg.INPUT.PIXEL_STD = [0.5, 0.5, 0.5]
        cfg.INPUT.TRANSFORMS = ("random_flip", "normalize")
        cfg.DATASET.SUBSAMPLE_CLASSES = "base"
        cfg.OUTPUT_DIR = str(tmp_path / "out")
        cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.LR_SCHEDULER, cfg.OPTIM.MAX_EPOCH = "sgd", 0.01, "cosine", 2
        cfg.OPTIM.WARMUP_EPOCH, cfg.OPTIM.WARMUP_TYPE = 1, "constant"
        cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.SEED = 0, 4, seed
        cfg.TRAINER.MOCOOP.PROMPT_GROUPS = GROUPS
        cfg.TRAINER.MOCOOP.PREC = cfg.TRAINER.COOP.PREC = "fp32"
        cfg.TRAINER.COOP.N_CTX = 4
        cfg.merge_from_list(list(opts))
        set_random_seed(seed)
        return build_trainer(cfg)

    return make


@pytest.fixture()
def batch(make_trainer):
    """One fixed batch of four images and labels."""
    import torch

    torch.manual_seed(5)
    return torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 1, 0])
