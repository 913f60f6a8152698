"""A data set of twelve tiny pictures and a linear trainer written the way a plugin writes one."""

import random
import sys

import mocoop  # noqa: F401 (makes `dassl` importable)
import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def keep_stdout():
    """setup_logger replaces sys.stdout; give it back after each test."""
    stdout = sys.stdout
    yield
    if sys.stdout is not stdout:
        sys.stdout.close()
    sys.stdout = stdout


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Twelve 12x10 PNGs, four each of three classes, with a colour cast per class."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 120, (12, 10, 3))
        pixels[..., i // 4] += 100
        Image.fromarray(pixels.astype("uint8")).save(folder / f"{i}.png")
    return folder


def register_toys():
    """Register the data set and the trainers anew (force: every test may do so)."""
    from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
    from dassl.engine import TRAINER_REGISTRY, TrainerX
    from dassl.optim import build_lr_scheduler, build_optimizer

    class ToyPictures(DatasetBase):
        def __init__(self, cfg):
            items = [Datum(f"{cfg.DATASET.ROOT}/{i}.png", i // 4, 0, f"class{i // 4}") for i in range(12)]
            without_val = cfg.DATASET.NUM_LABELED == 0
            super().__init__(train_x=items, val=None if without_val else items[::2], test=items[1::2])

    class ToyTrainer(TrainerX):
        stop_before = None  # index of an epoch; stands for a killed process

        def build_model(self):
            height, width = self.cfg.INPUT.SIZE
            self.model = torch.nn.Sequential(
                torch.nn.Flatten(),
                torch.nn.Linear(3 * height * width, 8),
                torch.nn.Dropout(0.3),  # draws from torch's generator in every step
                torch.nn.Linear(8, self.num_classes),
            )
            self.optim = build_optimizer(self.model, self.cfg.OPTIM)
            self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
            self.register_model("prompt_learner", self.model, self.optim, self.sched)
            self.rates, self.draws = [], []

        def before_epoch(self):
            if self.epoch == self.stop_before:
                raise KeyboardInterrupt
            self.rates.append(self.get_current_lr())

        def forward_backward(self, batch):
            image, label, _ = self.parse_batch_train(batch)
            self.draws.append((random.random(), np.random.rand()))
            loss = torch.nn.functional.cross_entropy(self.model(image), label)
            self.model_backward_and_update(loss)
            if self.batch_idx + 1 == self.num_batches:
                self.update_lr()
            return {"loss": loss.item()}

    class ToyZeroShot(TrainerX):
        def build_model(self):
            pass

        def model_inference(self, input):
            return input.mean(dim=(2, 3))

    DATASET_REGISTRY.register(ToyPictures, force=True)
    for trainer in (ToyTrainer, ToyZeroShot):
        TRAINER_REGISTRY.register(trainer, force=True)
    return ToyTrainer


@pytest.fixture()
def toy_trainer():
    return register_toys()


@pytest.fixture()
def make_cfg(pictures, tmp_path, toy_trainer):
    """A function (opts...) -> config of a toy run of 4 epochs of 3 batches."""
    from dassl.config import get_cfg_default

    def make(*opts):
        cfg = get_cfg_default()
        cfg.merge_from_list(
            ["DATASET.ROOT", str(pictures), "DATASET.NAME", "ToyPictures", "TRAINER.NAME", "ToyTrainer"]
            + ["OUTPUT_DIR", str(tmp_path / "run"), "INPUT.SIZE", (8, 8), "DATALOADER.NUM_WORKERS", 0]
            + ["INPUT.TRANSFORMS", ("random_resized_crop", "random_flip", "normalize"), "USE_CUDA", False]
            + ["DATALOADER.TRAIN_X.BATCH_SIZE", 4, "OPTIM.NAME", "sgd", "OPTIM.LR", 0.05, "OPTIM.MAX_EPOCH", 4]
            + ["OPTIM.LR_SCHEDULER", "cosine", "OPTIM.WARMUP_EPOCH", 1, "OPTIM.WARMUP_TYPE", "constant"]
            + list(opts)
        )
        return cfg

    return make


@pytest.fixture()
def build():
    """A function cfg -> trainer, seeded as train.py seeds it."""

    def seeded(cfg, seed=3):
        from dassl.engine import build_trainer
        from dassl.utils import set_random_seed

        set_random_seed(seed)
        return build_trainer(cfg)

    return seeded
