"""The training loop: a trainer overrides `check_cfg`, `build_model` and `forward_backward`, the rest is here.

Nothing in this file steps a learning-rate schedule: the trainer's `forward_backward` calls `update_lr()` on the last
batch of an epoch, as every CoOp-family plugin does.
"""

import datetime
import glob
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from yacs.config import CfgNode

from ..data.data_manager import DataManager
from ..data.datasets.base_dataset import DatasetBase
from ..errors import NotFinite, WrongValue
from ..evaluation.build import build_evaluator
from ..files import BEST, LAST, numbered, rolling
from ..names import FINAL_MODELS
from ..utils.logger import brief, print_above_bars
from ..utils.meters import AverageMeter, MetricMeter
from ..utils.tools import atomic_write, check_availability, check_writable, tolist_if_not
from ..utils.torchtools import (
    CheckpointError,
    apply_checkpoint,
    checkpoint_of,
    get_rng_state,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    set_rng_state,
)

MOST_UNSAVED_SECONDS = 60.0  # of work, unless an epoch takes longer
BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


class TrainerBase:
    """Registered models with their optimisers and schedules, checkpoints, and the order of a run."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, torch.optim.Optimizer | None] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer = None
        self.best_result = float("-inf")

    # Registered models

    def register_model(
        self,
        name: str = "model",
        model: nn.Module | None = None,
        optim: torch.optim.Optimizer | None = None,
        sched: Any = None,
    ) -> None:
        """Register a module: it is then checkpointed under `name`, and put in training or evaluation mode.

        Raises:
            AttributeError: before `TrainerBase.__init__` has run.
            ValueError: if the name is taken.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("register_model was called before the trainer's base class was initialised")
        if name in self._models:
            raise ValueError(f'A model named "{name}" is already registered')
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched

    def get_model_names(self, names: str | Iterable[str] | None = None) -> list[str]:
        """Return all registered names in order, or the given one(s) after a check (ValueError for an unknown one)."""
        registered = list(self._models)
        if names is None:
            return registered
        names = tolist_if_not(names)
        for name in names:
            check_availability(name, registered)
        return names

    def set_model_mode(self, mode: str = "train", names: str | Iterable[str] | None = None) -> None:
        """Put registered models in mode "train", or "test" / "eval" (else KeyError)."""
        if mode not in ("train", "test", "eval"):
            raise KeyError(f'Expected the mode "train", "test" or "eval", found {mode!r}')
        for name in self.get_model_names(names):
            if self._models[name] is not None:
                self._models[name].train(mode == "train")

    def update_lr(self, names: str | Iterable[str] | None = None) -> None:
        """Step the learning-rate schedules; to be called once an epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names: str | Iterable[str] | None = None) -> float:
        """Return the learning rate of the first group of the first model that has an optimiser (0 without any)."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                return self._optims[name].param_groups[0]["lr"]
        return 0.0

    def model_zero_grad(self, names: str | Iterable[str] | None = None) -> None:
        """Reset the gradients of the models' optimisers."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: torch.Tensor) -> None:
        """Check that a loss is finite and back-propagate it."""
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: str | Iterable[str] | None = None) -> None:
        """Step the models' optimisers."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: torch.Tensor, names: str | Iterable[str] | None = None) -> None:
        """Reset gradients, back-propagate, step."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def detect_anomaly(self, loss: torch.Tensor) -> None:
        """Raise FloatingPointError if a loss is infinite or not a number."""
        if not torch.isfinite(loss).all():
            raise NotFinite("Loss is infinite or NaN; try a lower OPTIM.LR or another precision")

    # Checkpoints

    def save_model(
        self,
        epoch: int,
        directory: str,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Write one checkpoint a registered model to `directory/<name>/`.

        Besides Dassl's keys it holds `best_result`, `rng` (the global generators), and `scaler` if the trainer has an
        attribute of that name with a state, so that a resumed run equals an uninterrupted one.

        Args:
            epoch: index of the epoch just finished, from 0; the file carries epoch + 1.
            directory: the run's folder.
            is_best: also write `model-best.pth.tar`.
            val_result: the validation result (%) that made it the best.
            model_name: file name; default `model.pth.tar-{epoch + 1}`.
        """
        scaler = getattr(self, "scaler", None)
        shared = {
            "epoch": epoch + 1,
            "val_result": None if val_result is None else float(val_result),
            "best_result": float(self.best_result),
            "rng": get_rng_state(cuda=getattr(self, "device", torch.device("cpu")).type == "cuda"),
            "scaler": scaler.state_dict() if hasattr(scaler, "state_dict") else None,
        }
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": self._models[name].state_dict(),
                "optimizer": optim.state_dict() if optim is not None else None,
                "scheduler": sched.state_dict() if sched is not None else None,
                **shared,
            }
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def resume_model_if_exist(self, directory: str) -> int:
        """Continue from the checkpoints in a folder, if every registered model has one.

        Restores parameters, optimisers, schedules, the best validation result and the random generators.

        Returns:
            The number of finished epochs, 0 without checkpoints.

        Raises:
            CheckpointError: if a checkpoint cannot be read or does not fit.
        """
        names = self.get_model_names()
        if not names or not has_checkpoints(directory, names):
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        paths = {name: checkpoint_of(os.path.join(directory, name)) for name in names}
        found = {name: load_checkpoint(path) for name, path in paths.items()}
        epoch = min(checkpoint["epoch"] for checkpoint in found.values())
        for name in names:
            if found[name]["epoch"] != epoch:  # killed between two models' saves: all go back to the older
                older = [os.path.join(directory, name, kind(epoch)) for kind in (rolling, numbered)]
                paths[name] = older[0] if os.path.isfile(older[0]) else older[1]
                found[name] = load_checkpoint(paths[name])
            apply_checkpoint(found[name], paths[name], self._models[name], self._optims[name], self._scheds[name])
        self._restore(found[names[0]], os.path.join(directory, names[0], BEST))
        return epoch

    def _restore(self, checkpoint: dict[str, Any], best: str) -> None:
        """Restore what all models share. The generators come last, since reading draws nothing but building did."""
        if checkpoint.get("best_result") is not None:
            self.best_result = checkpoint["best_result"]
        elif os.path.isfile(best):  # written by Dassl, which forgets it
            result = load_checkpoint(best).get("val_result")
            self.best_result = self.best_result if result is None else result
        scaler = getattr(self, "scaler", None)
        if checkpoint.get("scaler") and hasattr(scaler, "load_state_dict"):
            try:
                scaler.load_state_dict(checkpoint["scaler"])
            except (KeyError, RuntimeError, TypeError) as error:
                raise CheckpointError(f"The checkpoint's scaler does not fit this run: {error!r}") from error
        if checkpoint.get("rng"):
            set_rng_state(checkpoint["rng"])
        else:
            print(
                "Note: the checkpoint holds no random state; the run goes on with other draws than an uninterrupted one"
            )

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the registered models for evaluation, strictly.

        Args:
            directory: the run's folder; empty or None loads nothing.
            epoch: which numbered checkpoint; None for the best one.

        Raises:
            FileNotFoundError: if it is not there.
            CheckpointError: if it cannot be read or does not fit.
        """
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        for name in self.get_model_names():
            path = os.path.join(directory, name, BEST if epoch is None else numbered(epoch))
            checkpoint = load_checkpoint(path)
            load_state_dict(self._models[name], checkpoint["state_dict"], path)
            result = checkpoint.get("val_result")
            validated = "" if result is None else f", val_result = {result:.1f}"
            print(f"Load {path} to {name} (epoch={checkpoint.get('epoch')}{validated})")

    # Scalars

    def init_writer(self, log_dir: str) -> None:
        """Open a tensorboard writer, if tensorboard is installed (and none is open)."""
        if self._writer is not None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("No scalars are logged for tensorboard, which is not installed")
            return
        print(f"Initialize tensorboard (log_dir={log_dir})")
        self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self) -> None:
        """Close the writer, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Write a number to tensorboard, if a writer is open."""
        if self._writer is not None:
            self._writer.add_scalar(tag, scalar_value, global_step)

    # The order of a run

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Run `before_train`, then `before_epoch`, `run_epoch` and `after_epoch` per epoch, then `after_train`.

        A trainer that registers no model and defines no `forward_backward` (zero-shot) has no epochs to run.

        Args:
            start_epoch: replaced by what `before_train` finds to resume.
            max_epoch: number of epochs in all.

        Raises:
            TypeError: if there is a model to train, but no `forward_backward`.
        """
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        trains = type(self).forward_backward is not TrainerBase.forward_backward
        if self.get_model_names() and not trains:
            raise TypeError(f"{type(self).__name__} registers a model and must define forward_backward(batch)")
        with self.shown_while_training():
            self.before_train()
            if trains:
                self.run_epochs()
            else:
                print("No model is registered: there is nothing to train")
        self.after_train()

    def shown_while_training(self) -> AbstractContextManager:
        """What the console shows until the last epoch is over; here, everything."""
        return nullcontext()

    def run_epochs(self) -> None:
        """Run the epochs that are left."""
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.before_epoch()
            self.run_epoch()
            self.after_epoch()

    def before_train(self) -> None:
        """Hook: runs once, before the first epoch."""

    def after_train(self) -> None:
        """Hook: runs once, after the last epoch."""

    def before_epoch(self) -> None:
        """Hook: runs before every epoch."""

    def after_epoch(self) -> None:
        """Hook: runs after every epoch."""

    def run_epoch(self) -> None:
        """Train for one epoch."""
        raise TypeError(f"{type(self).__name__} must define run_epoch()")

    def test(self, split: str | None = None) -> float:
        """Evaluate; return the main metric."""
        raise TypeError(f"{type(self).__name__} must define test()")

    def parse_batch_train(self, batch: dict[str, Any]) -> Any:
        """Take what training needs from a batch, onto the device."""
        raise TypeError(f"{type(self).__name__} must define parse_batch_train(batch)")

    def parse_batch_test(self, batch: dict[str, Any]) -> Any:
        """Take what evaluation needs from a batch, onto the device."""
        raise TypeError(f"{type(self).__name__} must define parse_batch_test(batch)")

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, Any] | None:
        """Train on one batch; return metrics (floats or one-element tensors) to be printed, or None."""
        raise TypeError(f"{type(self).__name__} must define forward_backward(batch)")

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        """Return logits [batch, classes] for evaluation."""
        raise TypeError(f"{type(self).__name__} must define model_inference(input)")


def warn_of_overlap(dataset: DatasetBase, name: str) -> None:
    """Warn that test images are about to be trained on, as with data sets that have only test images."""
    test = {item.impath for item in dataset.test}
    if shared := len(test & {item.impath for item in dataset.train_x}):
        print(
            f"Warning: {shared:,} of the {len(test):,} test images of {name} are trained on, so its test accuracy says "
            "nothing about unseen images"
        )


class SimpleTrainer(TrainerBase):
    """A trainer built from a config: data, model, evaluator, resume, checkpoints, best model, final test.

    Args:
        cfg: the whole config, frozen by convention.

    Attributes:
        cfg, device, output_dir, start_epoch, epoch, max_epoch: of the run.
        dm, train_loader_x, train_loader_u, val_loader, test_loader, num_classes, num_source_domains, lab2cname: data.
        evaluator: of `test`.
        best_result: best validation result so far (%), -inf at first.
        val_result: the last validation result of this run (%), None at first.
        epoch_metrics: metric name -> mean over the batches of the last epoch, in full precision (also while it runs).
        results: split -> the evaluator's dict, of the last `test` of that split.
        writes: whether this process writes the run's files; of several that train together, one does.
    """

    writes = True

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.check_cfg(cfg)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.epoch_metrics: dict[str, float] = {}
        self.results: dict[str, dict[str, float]] = {}
        self.val_result: float | None = None
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)

    def check_cfg(self, cfg: CfgNode) -> None:
        """Hook: check the config before anything is built (`self.cfg` is not set yet; nothing random may be drawn)."""

    def build_data_loader(self) -> None:
        """Build the `DataManager` and take over its loaders and sizes."""
        self.dm = DataManager(self.cfg)
        self.train_loader_x = self.dm.train_loader_x
        self.train_loader_u = self.dm.train_loader_u
        self.val_loader = self.dm.val_loader
        self.test_loader = self.dm.test_loader
        self.num_classes = self.dm.num_classes
        self.num_source_domains = self.dm.num_source_domains
        self.lab2cname = self.dm.lab2cname

    def build_model(self) -> None:
        """Build and register the model; every trainer defines its own."""
        raise TypeError(f"{type(self).__name__} must define build_model()")

    def train(self) -> None:
        """Train from the first epoch, or from where a previous run stopped, to OPTIM.MAX_EPOCH."""
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        """Check the output folder, resume if there is something to resume, open the writer, start the clock.

        Raises:
            OSError: if the output folder cannot be written to.
            CheckpointError: if the checkpoint to go on from cannot be read, does not fit, or is of a later epoch.
            FileNotFoundError: if RESUME names a folder without checkpoints (Dassl starts from scratch, silently).
            ValueError: if FINAL_MODEL is unknown, or best_val without validation images.
        """
        cfg = self.cfg
        check_availability(cfg.TEST.FINAL_MODEL, FINAL_MODELS)
        if self._selects_best() and self.val_loader is None:
            raise WrongValue(
                f'TEST.FINAL_MODEL is "best_val", but {cfg.DATASET.NAME} has no validation images; use "last_step"'
            )
        if self.writes:
            check_writable(self.output_dir)
        warn_of_overlap(self.dm.dataset, cfg.DATASET.NAME)
        names = self.get_model_names()
        if cfg.RESUME and names and not has_checkpoints(cfg.RESUME, names):
            expected = os.path.join(cfg.RESUME, names[0], LAST)
            raise FileNotFoundError(
                f'RESUME: no checkpoint in "{cfg.RESUME}" (expected "{expected}"); is the path right?'
            )
        self.start_epoch = self.resume_model_if_exist(cfg.RESUME or self.output_dir)
        if self.start_epoch > self.max_epoch:
            raise CheckpointError(
                f'The checkpoint in "{cfg.RESUME or self.output_dir}" has {self.start_epoch:,} finished epochs, '
                f"more than OPTIM.MAX_EPOCH = {self.max_epoch:,}"
            )
        if cfg.RESUME and self.start_epoch and self.writes:
            self._copy_best(cfg.RESUME)
        self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        self.time_start = time.time()
        self._last_save = self._last_epoch_end = time.monotonic()

    def _copy_best(self, source: str) -> None:
        """Copy the best model of a run resumed from another folder; it may stay the best."""
        for name in self.get_model_names():
            old, new = os.path.join(source, name, BEST), os.path.join(self.output_dir, name, BEST)
            if os.path.isfile(old) and os.path.realpath(old) != os.path.realpath(new):
                with atomic_write(new) as temporary:
                    shutil.copyfile(old, temporary)

    def _selects_best(self) -> bool:
        return self.cfg.TEST.FINAL_MODEL == "best_val" and not self.cfg.TEST.NO_TEST

    def after_epoch(self) -> None:
        """Validate and keep the best model (best_val), then save a checkpoint if one is due.

        Numbered ones are due as CHECKPOINT_FREQ says and in the end; between them a rolling one, as soon as one more
        epoch would put more than `MOST_UNSAVED_SECONDS` seconds of work at stake.
        """
        saved = False
        if self._selects_best():
            self.val_result = self.test(split="val")
            if saved := self.val_result > self.best_result:
                self.best_result = self.val_result
                self.save_model(self.epoch, self.output_dir, val_result=self.val_result, model_name=BEST)
        finished, freq = self.epoch + 1, self.cfg.TRAIN.CHECKPOINT_FREQ
        if finished == self.max_epoch or (freq > 0 and finished % freq == 0):
            self.save_model(self.epoch, self.output_dir)
            saved = True
        now = time.monotonic()
        if not saved and now - self._last_save + (now - self._last_epoch_end) > MOST_UNSAVED_SECONDS:
            name = rolling(finished)
            self.save_model(self.epoch, self.output_dir, model_name=name)
            self._remove_rolling(but=name)
            saved = True
        self._last_epoch_end = now
        self._last_save = now if saved else self._last_save

    def _remove_rolling(self, but: str | None = None) -> None:
        """Remove the rolling checkpoints, but the one of this name: of all models, once each has a newer one."""
        if not self.writes:
            return
        for name in self.get_model_names():
            for path in glob.glob(os.path.join(glob.escape(os.path.join(self.output_dir, name)), rolling("*"))):
                if os.path.basename(path) != but:
                    os.unlink(path)

    def after_train(self) -> None:
        """Test the last or the best model, unless NO_TEST, and print the time taken."""
        self._remove_rolling()
        print("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self._selects_best():
                print("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        print(f"Elapsed: {_clock(time.time() - self.time_start)}")
        self.close_writer()

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate the model on a split.

        Args:
            split: "test" or "val"; default TEST.SPLIT.

        Returns:
            The evaluator's first metric (accuracy in %); all of them are in `self.results[split]`.

        Raises:
            ValueError: for another split, or "val" without validation images (Dassl takes the test set).
        """
        split = self.cfg.TEST.SPLIT if split is None else split
        check_availability(split, ("val", "test"))
        if split == "val" and self.val_loader is None:
            raise WrongValue(f'{self.cfg.DATASET.NAME} has no validation images; evaluate the split "test"')
        self.set_model_mode("eval")
        self.evaluator.reset()
        print(f"Evaluate on the *{split}* set")
        for batch in _split_bar(self.val_loader if split == "val" else self.test_loader, split):
            input, label = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(input), label)
        self.results[split] = self.evaluator.evaluate()
        for name, value in self.results[split].items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(self.results[split].values()))

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        """Return `self.model(input)`."""
        return self.model(input)

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images [batch, 3, H, W] and labels [batch] on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)


class TrainerX(SimpleTrainer):
    """A trainer that learns from labelled images only; during a run it has `batch_idx` and `num_batches`."""

    _bar: tqdm | None = None  # over the run

    def _runs_own_epoch(self) -> bool:
        """Whether a subclass has its own loop over the batches, of whose progress nothing is known here."""
        return type(self).run_epoch is not TrainerX.run_epoch

    def shown_while_training(self) -> AbstractContextManager:
        """On a terminal a bar over the run, with notes and warnings; elsewhere the log's lines."""
        return nullcontext() if self._runs_own_epoch() else brief()

    def run_epochs(self) -> None:
        """Run the epochs that are left, below a bar over all epochs of the run."""
        batches = len(self.train_loader_x)
        self._bar = tqdm(
            desc=f"epoch {min(self.start_epoch + 1, self.max_epoch)}/{self.max_epoch}",
            total=self.max_epoch * batches,
            initial=self.start_epoch * batches,
            disable=True if self._runs_own_epoch() else None,
            smoothing=0,  # the mean speed: validation and saving count
            bar_format=BAR,
            dynamic_ncols=True,
        )
        with self._bar:
            super().run_epochs()
            if self.epoch_metrics:
                self._show_progress()

    def _show_progress(self) -> None:
        """Put the epoch, its mean loss and accuracy so far, and the last validation result (%) on the bar."""
        shown = {"loss": self.epoch_metrics.get("loss"), "acc": self.epoch_metrics.get("acc"), "val": self.val_result}
        formats = {"loss": "{:.3f}", "acc": "{:.1f}", "val": "{:.1f}"}
        words = [f"{name} {formats[name].format(value)}" for name, value in shown.items() if value is not None]
        self._bar.set_description_str(f"epoch {self.epoch + 1}/{self.max_epoch}", refresh=False)
        self._bar.set_postfix_str(" ".join(words), refresh=False)

    def run_epoch(self) -> None:
        """Train on every batch of an epoch; print progress every PRINT_FREQ batches (every one of a short epoch)."""
        self.set_model_mode("train")
        meters, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        self.num_batches = len(self.train_loader_x)
        freq = self.cfg.TRAIN.PRINT_FREQ
        self.epoch_metrics = {}
        end = time.time()
        for batch_idx, batch in enumerate(self.train_loader_x):
            self.batch_idx = batch_idx
            data_time.update(time.time() - end)
            summary = self.forward_backward(batch)
            batch_time.update(time.time() - end)
            meters.update(summary)
            self.epoch_metrics = {name: meter.avg for name, meter in meters.meters.items()}
            if self.num_batches < freq or (self.batch_idx + 1) % freq == 0:
                self._print_progress(batch_time, data_time, meters)
            step = self.epoch * self.num_batches + self.batch_idx
            for name, value in self.epoch_metrics.items():
                self.write_scalar(f"train/{name}", value, step)
            self.write_scalar("train/lr", self.get_current_lr(), step)
            if self._bar is not None:
                self._show_progress()
                self._bar.update()
            end = time.time()

    def _print_progress(self, batch_time: AverageMeter, data_time: AverageMeter, meters: MetricMeter) -> None:
        left = self.num_batches - self.batch_idx - 1 + (self.max_epoch - self.epoch - 1) * self.num_batches
        print_above_bars(
            f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{self.batch_idx + 1}/{self.num_batches}] "
            f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) data {data_time.val:.3f} ({data_time.avg:.3f}) "
            f"{meters} lr {self.get_current_lr():.4e} eta {_clock(batch_time.avg * left)}"
        )

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return images [batch, 3, H, W], labels [batch] and domains [batch] on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device), batch["domain"].to(self.device)


def has_checkpoints(directory: str, names: Iterable[str]) -> bool:
    """Whether a run's folder has, for every name, a folder with the file `checkpoint` in it."""
    return all(os.path.isfile(os.path.join(directory, name, LAST)) for name in names)


def _split_bar(loader: Iterable, description: str) -> tqdm:
    """A progress bar over a split on stderr, only on a terminal, gone when finished."""
    return tqdm(loader, desc=description, disable=None, leave=False, dynamic_ncols=True)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))
