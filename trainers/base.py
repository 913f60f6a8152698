"""What every method of this project shares as a Dassl trainer: precision, the step, checkpoints, records.

A method is `check_cfg`, `build_model` and `loss` (and `model_inference`, which `test` gives image features [B, D], kept
from one test to the next; `towers.image_features` passes them through). Everything here works with the bundled toolbox
and with a real Dassl, whose warm-up scheduler and checkpoint reading, both broken on today's torch, are not used.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from dassl.engine import TrainerX
from dassl.optim import build_optimizer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from yacs.config import CfgNode

from ..clip import Backbone, load_backbone
from ..clip.layout import PromptLayout
from ..clip.text import TextEncoder
from ..config import VIEWS_NEED_A_FROZEN_TOWER, ConfigError, check_input
from ..toolbox.dassl.optim import build_lr_scheduler
from ..toolbox.dassl.utils import atomic_write, load_checkpoint
from ..toolbox.dassl.utils.torchtools import load_state_dict
from .prompts import sliced_layouts
from .towers import autocast_dtype, check_precision, has_bf16_units, image_features, rows_that_fit
from .views import cached_loader


def class_names(dataset: object) -> tuple[list[str], list[str]]:
    """Present class names in label order, and all names the data set knows: the present ones first, then the others.

    A host's data set may know no others, or list them in any order; putting the present ones first keeps labels valid.
    """
    present = list(dataset.classnames)
    known = getattr(dataset, "all_classnames", None) or getattr(dataset, "all_class_names", None) or present
    others = list(known)
    for name in present:
        if name in others:
            others.remove(name)
    return present, present + others


class Learner(nn.Module):
    """What a method trains, and nothing else: registered with Dassl, so it is what a checkpoint holds.

    Its extra state says what the numbers belong to (method, backbone, class names, ...), so that a checkpoint can be
    refused or rebuilt when it is loaded elsewhere.
    """

    def __init__(self, about: dict):
        super().__init__()
        self.about = about

    def get_extra_state(self) -> dict:
        """Plain data about the checkpoint."""
        return self.about

    def set_extra_state(self, state: dict) -> None:
        """The current run keeps its own description; `PromptTrainer.load_model` has read the stored one."""


class PromptTrainer(TrainerX):
    """A Dassl trainer for prompt learning on a frozen CLIP."""

    prec = "fp32"
    grad_clip = 0.0

    def __init__(self, cfg: CfgNode):
        self._encoded: dict[str, tuple] = {}  # see `encoded`
        super().__init__(cfg)

    # ---- to be written by a method
    # -------------------------------------------------------------------------------------

    def loss(self, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch and what to log. Args: image [B, 3, H, W], label [B]."""
        raise TypeError(f"{type(self).__name__} has nothing to train")

    def accept_checkpoint(self, about: dict) -> None:
        """Adapt to a checkpoint's description before its numbers are loaded (e.g. the source's prompt groups)."""

    def extra_results(self) -> dict:
        """More entries for this test's part of results.json."""
        return {}

    def image_parameters(self) -> list[nn.Parameter]:
        """What is trained and image features depend on: the LayerNorms of the image tower, if a method has them."""
        return list(getattr(getattr(self, "learner", None), "image_norms", {}).values())

    def after_test_batch(self, label: Tensor) -> None:
        """Called after each test batch, e.g. to count routing."""

    # ---- construction
    # ----------------------------------------------------------------------------------------------------

    def load_clip(self) -> Backbone:
        """The frozen backbone on the trainer's device, its preprocessing checked against the config."""
        check_precision(self.prec, self.device)
        if self.device.type == "cuda" and hasattr(torch.backends.cuda, "enable_cudnn_sdp"):
            # cuDNN's attention, the first choice on recent GPUs, has had faults with masks and single queries.
            torch.backends.cuda.enable_cudnn_sdp(False)
        if self.prec == "amp" and self.device.type == "cpu":
            units = "matrix units" if has_bf16_units() else "no matrix units"
            print(f"PREC amp: {self.precision} (this CPU has {units} for bfloat16)")
        name = self.cfg.MODEL.BACKBONE.NAME
        print(f"Loading CLIP (backbone: {name})")
        backbone = load_backbone(name, device=self.device)
        problems = check_input(self.cfg, backbone.preprocess, name)
        if problems:
            raise ConfigError(problems)
        return backbone

    def lay_out(self, sequences: Sequence[Sequence[list[int]]], encoder: TextEncoder) -> list[PromptLayout]:
        """Prompts (G experts x C classes) on the device, in slices if memory or TRAIN.TEXT_CHUNK ask for it."""
        parts = sliced_layouts(sequences, self.cfg.TRAIN.TEXT_CHUNK, rows_that_fit(encoder, self.device))
        if len(parts) > 1:
            print(f"Prompts are encoded in {len(parts)} slices of classes, to save memory")
        return [part.to(self.device) for part in parts]

    def about(self) -> dict:
        """What a checkpoint of this run belongs to."""
        return {
            "method": type(self).__name__,
            "backbone": self.cfg.MODEL.BACKBONE.NAME,
            "dataset": self.cfg.DATASET.NAME,
            "classnames": list(self.dm.dataset.classnames),
        }

    def set_learner(self, learner: Learner, slow: Sequence[nn.Parameter] = (), slow_lr: float = 0.1) -> None:
        """Register what is trained, with its optimizer and schedule; an earlier learner is replaced.

        Args:
            learner: all of its parameters are trained, everything else stays frozen.
            slow: those of its parameters that learn at `slow_lr` times OPTIM.LR.
        """
        name = "prompt_learner"
        for table in (self._models, self._optims, self._scheds):
            table.pop(name, None)
        learner.to(self.device)
        ids = {id(p) for p in slow}
        if ids and self.cfg.INPUT.FEATURE_VIEWS > 0:
            raise ConfigError([VIEWS_NEED_A_FROZEN_TOWER.format(key="FINETUNE_VIT_LN")])
        main = [p for p in learner.parameters() if id(p) not in ids]
        groups = [{"params": main}] if main else []
        if ids:
            groups.append({"params": list(slow), "lr": self.cfg.OPTIM.LR * slow_lr})
        self.learner = learner
        self.optim = build_optimizer(learner, self.cfg.OPTIM, groups)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model(name, learner, self.optim, self.sched)
        fp16 = self.device.type == "cuda" and autocast_dtype(self.prec, self.device) == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        trained = {n: p.numel() for n, p in learner.named_parameters()}
        print(f"Trained parameters: {sum(trained.values()):,} in {len(trained)} tensors; all others are frozen")

    def image_features(self, image: Tensor, learn: bool = False) -> Tensor:
        """See `towers.image_features`."""
        return image_features(self.backbone, image, learn)

    @property
    def precision(self) -> str:
        """The type that the towers compute in, e.g. "bfloat16"."""
        return str(autocast_dtype(self.prec, self.device) or torch.float32).removeprefix("torch.")

    def autocast(self) -> AbstractContextManager:
        """The precision in which towers run."""
        dtype = autocast_dtype(self.prec, self.device)
        return torch.autocast(self.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    # ---- training
    # --------------------------------------------------------------------------------------------------------

    def parse_batch_train(self, batch: dict) -> tuple[Tensor, Tensor]:
        """(images [B, 3, H, W], labels [B]) on the device."""
        return batch["img"].to(self.device, non_blocking=True), batch["label"].to(self.device, non_blocking=True)

    parse_batch_test = parse_batch_train

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One step; the schedule advances after the epoch's last batch (Dassl leaves that to the plugin)."""
        image, label = self.parse_batch_train(batch)
        loss, metrics = self.loss(image, label)
        self.optim.zero_grad()
        self.scaler.scale(loss).backward()
        values = torch.stack([loss, *metrics.values()]).tolist()  # the step's one wait for a GPU
        summary = dict(zip(["loss", *metrics], values, strict=True))
        if not math.isfinite(summary["loss"]):
            raise FloatingPointError(
                f"the loss is {summary['loss']} in epoch {self.epoch + 1}; try a smaller OPTIM.LR or PREC fp32"
            )
        if self.grad_clip > 0:
            self.scaler.unscale_(self.optim)
            nn.utils.clip_grad_norm_(self.learner.parameters(), self.grad_clip)
        self.scaler.step(self.optim)
        self.scaler.update()
        for key, value in summary.items():
            self._sums[key] += value * len(label)
        self._seen += len(label)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return summary

    def before_train(self) -> None:
        """Cache features if asked for, resume, and drop the records of epochs that are about to be trained again."""
        views = self.cfg.INPUT.FEATURE_VIEWS
        if views > 0:
            self.train_loader_x = cached_loader(self.train_loader_x, self.encode_view, views)
            print(f"Training on stored features, {views} views per image (INPUT.FEATURE_VIEWS)")
        super().before_train()
        path = Path(self.output_dir) / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["epoch"] <= self.start_epoch]
            with atomic_write(path) as tmp:
                Path(tmp).write_text("".join(line + "\n" for line in kept))

    def encode_view(self, image: Tensor) -> Tensor:
        """Features [B, D] of a batch of augmented images, for the cache."""
        with self.autocast():
            return self.image_features(image.to(self.device))

    def before_epoch(self) -> None:
        """Start this epoch's record."""
        super().before_epoch()
        if self.image_parameters():
            self._encoded.clear()  # an optimizer that edits `p.data` escapes the version counters
        self._sums, self._seen = defaultdict(float), 0
        self._epoch_start = time.time()
        self._epoch_lr = [group["lr"] for group in self.optim.param_groups]

    def after_epoch(self) -> None:
        """Write this epoch's line of metrics.jsonl in full precision, then Dassl's own."""
        line = {"epoch": self.epoch + 1, "lr": self._epoch_lr, "seconds": round(time.time() - self._epoch_start, 3)}
        line |= {key: value / self._seen for key, value in self._sums.items()} | self.epoch_record()
        with open(Path(self.output_dir) / "metrics.jsonl", "a") as f:
            f.write(json.dumps(line) + "\n")
        super().after_epoch()

    def epoch_record(self) -> dict:
        """More entries for the epoch's line."""
        return {}

    # ---- evaluation
    # ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on a split, write its part of results.json, and return the accuracy in percent.

        Raises:
            ValueError: split "val" of a data set without one (Dassl would silently use test).
        """
        split = split or self.cfg.TEST.SPLIT
        loader = self.val_loader if split == "val" else self.test_loader
        if loader is None:
            raise ValueError(
                f"{self.cfg.DATASET.NAME} has no validation split; use TEST.SPLIT test and TEST.FINAL_MODEL last_step"
            )
        self.set_model_mode("eval")
        self.evaluator.reset()
        print(f"Evaluate on the *{split}* set")
        count = 0
        for features, label in self.encoded(split, loader):
            self.evaluator.process(self.model_inference(features), label)
            self.after_test_batch(label)
            count += len(label)
        results = self.evaluator.evaluate()
        for key, value in results.items():
            self.write_scalar(f"{split}/{key}", value, self.epoch)
        record = {key: float(value) for key, value in results.items()}
        self.write_results(split, record | {"images": count, "classes": self.num_classes} | self.extra_results())
        return next(iter(results.values()))

    def encoded(self, split: str, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a split as image features [B, D] and labels [B].

        The features are kept for the next test of the split (validation after every epoch, several checkpoints tested
        in one run), until something that learns in the image tower has changed.

        Args:
            split: val or test; loader: of its images.
        """
        state = (loader, [(p.data_ptr(), p._version) for p in self.image_parameters()])
        if self._encoded.get(split, (None, []))[0] == state:
            torch.empty((), dtype=torch.int64).random_()  # as a pass of the loader does, which a resumed run may have
            yield from self._encoded[split][1]
            return
        batches = []
        for batch in tqdm(loader, disable=None, leave=False):
            image, label = self.parse_batch_test(batch)
            batches.append((self.encode_view(image), label))
            yield batches[-1]
        self._encoded[split] = state, batches

    def write_results(self, split: str, record: dict) -> None:
        """Put one split's record into OUTPUT_DIR/results.json, keeping the others."""
        path = Path(self.output_dir) / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        everything = json.loads(path.read_text()) if path.exists() else {}
        everything[split] = record
        with atomic_write(path) as tmp:
            Path(tmp).write_text(json.dumps(everything, indent=2) + "\n")

    # ---- checkpoints
    # -----------------------------------------------------------------------------------------------------

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load what was trained; frozen parts and class names are the current run's.

        Args:
            directory: output folder of the run that trained it; empty = nothing is loaded, said aloud.
            epoch: number of finished epochs; None = the best on val if it was kept and asked for, else the last.

        Raises:
            FileNotFoundError: no such checkpoint (the message lists what is there).
            ValueError: it belongs to another method or backbone, or its shapes do not fit.
        """
        if not directory:
            print("load_model() is skipped: no pretrained model is given")
            return
        path = find_checkpoint(Path(directory) / "prompt_learner", epoch, self.cfg.TEST.FINAL_MODEL == "best_val")
        checkpoint = load_checkpoint(str(path))
        state = {
            k: v for k, v in checkpoint["state_dict"].items() if "token_prefix" not in k and "token_suffix" not in k
        }
        about = state.get("_extra_state", {})
        for key in ("method", "backbone"):
            value = self.about()[key]
            if key in about and about[key] != value:
                raise ValueError(f"checkpoint {path} was trained with {key} {about[key]!r}, this run uses {value!r}")
        self.accept_checkpoint(about)
        state.setdefault("_extra_state", about)  # checkpoints of CoOp's released code have none
        load_state_dict(self.learner, state, path)
        print(f"Loading weights to prompt_learner from {path} (epoch = {checkpoint['epoch']})")


def find_checkpoint(folder: Path, epoch: int | None, best: bool) -> Path:
    """The checkpoint file of a run: of `epoch`, or the best on val, or the last.

    Raises:
        FileNotFoundError: naming what was sought and what is there.
    """
    if epoch is not None:
        path = folder / f"model.pth.tar-{epoch}"
    elif best and (folder / "model-best.pth.tar").exists():
        path = folder / "model-best.pth.tar"
    else:
        numbers = [int(p.suffix.rpartition("-")[2]) for p in folder.glob("model.pth.tar-*") if p.suffix[5:].isdigit()]
        path = folder / (f"model.pth.tar-{max(numbers)}" if numbers else "model.pth.tar-<epoch>")
    if not path.is_file():
        there = sorted(p.name for p in folder.glob("model*")) if folder.is_dir() else []
        raise FileNotFoundError(f"no checkpoint {path}; found {', '.join(there) or 'none'} in {folder}")
    return path
