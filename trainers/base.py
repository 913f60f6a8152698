"""What every method of this project shares as a Dassl trainer: precision, the step, checkpoints, records.

A method's trainer names its model and maps a config to the model's arguments; the rest is here, and works with the
bundled toolbox and with a real Dassl, whose warm-up scheduler and checkpoint reading are broken on current torch and
not used. The model decides how long image features may be cached (`PromptModel.image_version`).
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from dassl.engine import TrainerX
from dassl.optim import build_optimizer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from yacs.config import CfgNode

from .. import methods
from ..clip import Backbone, load_backbone
from ..config import ConfigError, check_input, views_need_a_frozen_tower
from ..toolbox.dassl.errors import NotFinite, WrongValue
from ..toolbox.dassl.optim import build_lr_scheduler
from ..toolbox.dassl.utils.torchtools import load_state_dict
from .model import PromptModel
from .names import class_names
from .norms import parameter_groups
from .precision import autocast_dtype, check_precision, has_bf16_units
from .ranks import here
from .records import MODEL, add_epoch, drop_epochs_after, write_result
from .stored_features import stored_features_loader
from .trained import find_checkpoint, read_checkpoint, write_settings


class PromptTrainer(TrainerX):
    """A Dassl trainer for prompt learning on a frozen CLIP."""

    model_class: type[PromptModel]
    from_checkpoint: tuple[str, ...] = ()  # arguments that are taken from a checkpoint, whatever the config says

    def __init__(self, cfg: CfgNode):
        self._encoded: dict[str, tuple] = {}  # see `encoded`
        self.ranks = here()  # the processes of this run
        self.writes = self.ranks.first  # the run's files
        self.row = methods.named(cfg.TRAINER.NAME)
        self.options = cfg.TRAINER.get(self.row.node, CfgNode())  # a method may have no keys
        super().__init__(cfg)

    # ---- to be written by a method
    # -------------------------------------------------------------------------------------

    @staticmethod
    def arguments(cfg: CfgNode) -> dict[str, object]:
        """The model's arguments, beside those that all models have."""
        raise TypeError("a method's trainer maps its config to its model's arguments")

    def uses_others(self, cfg: CfgNode) -> bool:
        """Whether names of classes that are not scored take part in a loss."""
        return False

    def observe(self, features: Tensor, label: Tensor) -> None:
        """Called with every batch of features [B, D], in training before the step and in tests: to count."""

    def extra_results(self) -> dict:
        """More entries for this test's part of results.json."""
        return {}

    def epoch_record(self) -> dict:
        """More entries for the epoch's line of metrics.jsonl."""
        return {}

    # ---- construction
    # ----------------------------------------------------------------------------------------------------

    def check_cfg(self, cfg: CfgNode) -> None:
        """Fail before anything is loaded (a host's own train.py does not check our keys)."""
        wrong = {name: key.check(self.options[name]) for name, key in self.row.keys.items()}
        problems = [f"TRAINER.{self.row.node}.{name}: {text}" for name, text in wrong.items() if text]
        if problems:
            raise ConfigError(problems)

    def build_data_loader(self) -> None:
        """See Dassl; of several ranks the first finds or makes the few-shot draw's file, the others find it."""
        with self.ranks.first_goes_first():
            super().build_data_loader()

    def build_model(self) -> None:
        """CLIP, and the method's model around it."""
        self.prec, self.grad_clip = self.options.get("PREC", "fp32"), self.options.get("GRAD_CLIP", 0.0)
        self.backbone = self.load_clip()
        self.set_model(self.make_model(self.arguments(self.cfg)))

    def make_model(self, arguments: dict[str, object]) -> PromptModel:
        """The model around the data set's class names."""
        every, cfg = self.cfg.DATASET.INCLUDE_ALL_CLASSES, self.cfg
        present, known = class_names(self.dm.dataset, cfg if every or self.uses_others(cfg) else None)
        scored = len(known) if every else len(present)
        others = known[scored:] if self.uses_others(cfg) else []
        shared = {"chunk": self.cfg.TRAIN.TEXT_CHUNK, "precision": self.prec}
        model = self.model_class(self.backbone, known[:scored], others, **arguments, **shared)
        model.trained_on, model.ranks = self.cfg.DATASET.NAME, self.ranks
        return model.to(self.device)

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
        with self.ranks.first_goes_first():  # it may have to be downloaded
            backbone = load_backbone(name, device=self.device)
        problems = check_input(self.cfg, backbone.preprocess, name)
        if problems:
            raise ConfigError(problems)
        return backbone

    def set_model(self, model: PromptModel) -> None:
        """Register a model with its optimizer and schedule; an earlier one is replaced.

        Raises:
            ConfigError: image features are to be stored, and the model changes them.
        """
        for table in (self._models, self._optims, self._scheds):
            table.pop(MODEL, None)
        self.model, self.backbone = model, model.backbone  # the model may have copied parts of it
        self._encoded.clear()
        self.check_views()
        trained = {name: p.numel() for name, p in model.named_parameters()}
        if not trained:
            return
        model.check_names()
        self.optim = build_optimizer(model, self.cfg.OPTIM, self.parameter_groups())
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model(MODEL, model, self.optim, self.sched)
        fp16 = self.device.type == "cuda" and autocast_dtype(self.prec, self.device) == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        print(f"Trained parameters: {sum(trained.values()):,} in {len(trained)} tensors; all others are frozen")

    def check_views(self) -> None:
        """Refuse to store features that training changes.

        Raises:
            ConfigError: INPUT.FEATURE_VIEWS, and image features depend on something trained.
        """
        if self.cfg.INPUT.FEATURE_VIEWS > 0 and self.model.image_features_are_trained():
            raise ConfigError([views_need_a_frozen_tower(self.row.tunes_image_path)])

    def parameter_groups(self) -> list[dict]:
        """What is trained, for the optimizer: LayerNorms of the image tower learn at LN_LR_MULT times OPTIM.LR."""
        return parameter_groups(self.model, self.cfg.OPTIM.LR, self.options.get("LN_LR_MULT", 1.0))

    def write_settings(self, folder: Path) -> None:
        """Leave in a run's folder what rebuilds the model (see `trained.load_trained`)."""
        if self.writes:
            write_settings(folder, self.model)

    @property
    def precision(self) -> str:
        """The type that the towers compute in, e.g. "bfloat16"."""
        return str(autocast_dtype(self.prec, self.device) or torch.float32).removeprefix("torch.")

    # ---- training
    # --------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train; where nothing is trained, only test."""
        if list(self.model.parameters()):
            super().train()
            return
        print(f"{self.cfg.TRAINER.NAME} has nothing to train")
        self.test()

    def parse_batch_train(self, batch: dict) -> tuple[Tensor, Tensor]:
        """(images [B, 3, H, W], labels [B]) on the device."""
        return batch["img"].to(self.device, non_blocking=True), batch["label"].to(self.device, non_blocking=True)

    parse_batch_test = parse_batch_train

    def features_of(self, batch: dict) -> tuple[Tensor, Tensor]:
        """(image features [B, D], labels [B]) of a batch of images, or of stored features."""
        if "features" in batch:
            return batch["features"].to(self.device, non_blocking=True), batch["label"].to(
                self.device, non_blocking=True
            )
        image, label = self.parse_batch_train(batch)
        return self.encode_together(image), label

    def encode_together(self, image: Tensor) -> Tensor:
        """Features [B, D] of a batch that every rank has, each encoding its share."""
        own = self.model.encode_image(image[self.ranks.share(len(image))])
        return self.ranks.gather(own, len(image))

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One step; the schedule advances after the epoch's last batch (Dassl leaves that to the plugin)."""
        features, label = self.features_of(batch)
        loss, metrics = self.model.loss(features, label)
        self.observe(features.detach(), label)
        self.optim.zero_grad()
        self.scaler.scale(loss).backward()
        values = torch.stack([loss, *metrics.values()]).tolist()  # the step's one wait for a GPU
        summary = dict(zip(["loss", *metrics], values, strict=True))
        if not math.isfinite(summary["loss"]):
            raise NotFinite(
                f"the loss is {summary['loss']} in epoch {self.epoch + 1}; try a smaller OPTIM.LR or PREC fp32"
            )
        self.ranks.average_gradients(self.model.parameters())
        if self.grad_clip > 0:
            self.scaler.unscale_(self.optim)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        self.scaler.step(self.optim)
        self.scaler.update()
        for key, value in summary.items():
            self._sums[key] += value * len(label)
        self._seen += len(label)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return summary

    def before_train(self) -> None:
        """Store features if asked for, resume, and drop the records of epochs that are about to be trained again."""
        if not self.cfg.TEST.NO_TEST:
            self.loader_of(self.cfg.TEST.SPLIT)  # before all the epochs
        count = self.cfg.INPUT.FEATURE_VIEWS
        self.check_views()  # again: a host may have changed the model meanwhile
        if count > 0:
            images = len(self.train_loader_x.dataset)
            print(f"Encoding {count} views of {images:,} images once; their features are kept in memory")
            self.train_loader_x = stored_features_loader(self.train_loader_x, self.encode_to_store, count)
            print(f"Training on stored features, {count} views per image (INPUT.FEATURE_VIEWS)")
        super().before_train()
        self.ranks.draw_alike()  # a checkpoint holds the random state of the first rank's GPU, by its number
        if self.writes:
            drop_epochs_after(Path(self.output_dir), self.start_epoch)

    @torch.no_grad()
    def encode_to_store(self, image: Tensor) -> Tensor:
        """Features [B, D] of a batch that every rank has, to be kept."""
        return self.encode_together(image.to(self.device))

    @torch.no_grad()
    def encode_frozen(self, image: Tensor) -> Tensor:
        """Features [B, D] of a batch of images, to be kept."""
        return self.model.encode_image(image.to(self.device))

    def before_epoch(self) -> None:
        """Start this epoch's record."""
        super().before_epoch()
        self._sums, self._seen = defaultdict(float), 0
        self._epoch_start = time.time()
        self._epoch_lr = [group["lr"] for group in self.optim.param_groups]

    def after_epoch(self) -> None:
        """Write this epoch's line of metrics.jsonl in full precision, then Dassl's own."""
        line = {"epoch": self.epoch + 1, "lr": self._epoch_lr, "seconds": round(time.time() - self._epoch_start, 3)}
        line |= {key: value / self._seen for key, value in self._sums.items()} | self.epoch_record()
        if self.writes:
            add_epoch(Path(self.output_dir), line)
        super().after_epoch()

    # ---- evaluation
    # ------------------------------------------------------------------------------------------------------

    def loader_of(self, split: str) -> DataLoader:
        """The batches of a split.

        Raises:
            ValueError: split "val" of a data set without one (Dassl would silently use test).
        """
        loader = self.val_loader if split == "val" else self.test_loader
        if loader is None:
            raise WrongValue(
                f"{self.cfg.DATASET.NAME} has no validation split, on which TEST.SPLIT val (and any search) measures; "
                "otherwise use TEST.SPLIT test and TEST.FINAL_MODEL last_step"
            )
        return loader

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on a split, write its part of results.json, and return the accuracy in percent.

        Raises:
            ValueError: see `loader_of`.
        """
        split = split or self.cfg.TEST.SPLIT
        loader = self.loader_of(split)
        self.set_model_mode("eval")
        self.evaluator.reset()
        print(f"Evaluate on the *{split}* set")
        count, useless = 0, torch.zeros((), dtype=torch.long, device=self.device)
        for features, label, logits in self.answers(split, loader):
            self.evaluator.process(logits, label)
            self.observe(features, label)
            count += len(label)
            useless += (~torch.isfinite(logits.max(dim=1).values)).sum()
        if int(useless):  # Dassl's own evaluator would make an accuracy of it
            raise NotFinite(
                f"the logits of {int(useless):,} of {count:,} images are infinite or NaN, so there is no accuracy: "
                "train the model anew with a smaller OPTIM.LR, or take PREC fp32"
            )
        results = self.evaluator.evaluate()
        for key, value in results.items():
            self.write_scalar(f"{split}/{key}", value, self.epoch)
        record = {key: float(value) for key, value in results.items()}
        self.write_results(split, record | {"images": count, "classes": self.num_classes} | self.extra_results())
        return next(iter(results.values()))

    @torch.no_grad()
    def model_inference(self, image: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W], for a host that tests by itself."""
        return self.model(image)

    def answers(self, split: str, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of a split as image features [B, D], labels [B] and logits [B, C], each made by one of the ranks.

        Args:
            split: val or test; loader: of its images.
        """
        own = ((features, label, self.model.logits(features)) for features, label in self.encoded(split, loader))
        return self.ranks.dealt(own, len(loader))

    def own_batches(self, loader: DataLoader) -> DataLoader:
        """A loader of those batches that are dealt to this rank: the images of others are not read."""
        if self.ranks.size == 1:
            return loader
        own = list(loader.batch_sampler)[self.ranks.rank :: self.ranks.size]
        workers = {"num_workers": loader.num_workers, "pin_memory": loader.pin_memory}
        return DataLoader(loader.dataset, batch_sampler=own, **workers)

    def encoded(self, split: str, loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of a split as image features [B, D] and labels [B]; of several ranks, those dealt to this one.

        The features are kept for the next test of the split (validation after every epoch, several checkpoints tested
        in one run), until the model says that they may have changed.

        Args:
            split: val or test; loader: of its images.
        """
        state = (loader, self.model.image_version())
        if self._encoded.get(split, (None, []))[0] == state:
            torch.empty(
                (), dtype=torch.int64
            ).random_()  # a pass of the loader draws this number, too; a resumed run may have made that pass
            yield from self._encoded[split][1]
            return
        batches = []
        for batch in tqdm(self.own_batches(loader), disable=None, leave=False):
            image, label = self.parse_batch_test(batch)
            batches.append((self.encode_frozen(image), label))
            yield batches[-1]
        self._encoded[split] = state, batches

    def write_results(self, split: str, record: dict) -> None:
        """Write one split's record to OUTPUT_DIR/results.json, keeping the others."""
        if self.writes:
            write_result(Path(self.output_dir), split, record)

    # ---- checkpoints
    # -----------------------------------------------------------------------------------------------------

    def save_model(self, *args: object, **options: object) -> None:
        """See Dassl; of several ranks only the first writes, whose state is that of all."""
        if self.writes:
            super().save_model(*args, **options)

    def init_writer(self, log_dir: str) -> None:
        """See `save_model`."""
        if self.writes:
            super().init_writer(log_dir)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load what was trained; frozen parts and class names are the current run's.

        Args:
            directory: output folder of the run that trained it; empty = nothing is loaded, and a line says so.
            epoch: number of finished epochs; None = the best on val if it was saved and asked for, else the last.

        Raises:
            FileNotFoundError: no such checkpoint (the message lists what is there).
            ValueError: it belongs to another method or backbone, or its shapes do not fit.
        """
        if not list(self.model.parameters()):
            return
        if not directory:
            print("load_model() is skipped: no pretrained model is given")
            return
        self.ranks.wait()  # until the first has written it
        path = find_checkpoint(Path(directory) / MODEL, epoch, self.cfg.TEST.FINAL_MODEL == "best_val")
        settings, state, epoch = read_checkpoint(path)
        for key, value in (("method", self.model.method), ("backbone", self.cfg.MODEL.BACKBONE.NAME)):
            if key in settings and settings[key] != value:
                raise WrongValue(f"checkpoint {path} was trained with {key} {settings[key]!r}, this run uses {value!r}")
        self.accept_settings(settings)
        state.setdefault("_extra_state", settings)  # checkpoints of CoOp's released code have none
        load_state_dict(self.model, state, path)
        print(f"Loading weights to {MODEL} from {path} (epoch = {epoch})")

    def accept_settings(self, settings: dict) -> None:
        """Take over from a checkpoint the arguments in `from_checkpoint` (e.g. the source's prompt groups)."""
        trained, now = settings.get("arguments", {}), self.model.arguments()
        theirs = {
            name: trained[name] for name in self.from_checkpoint if name in trained and trained[name] != now[name]
        }
        if theirs:
            print(f"Using the checkpoint's {', '.join(theirs)} (data set {settings.get('dataset')}), not the config's")
            self.set_model(self.make_model(self.arguments(self.cfg) | theirs))
