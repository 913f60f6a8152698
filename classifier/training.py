"""Training a method's model on a few labelled images, without a trainer, by its published settings as plain data.

The loop is the trainers' own (same optimizer, schedule, order of operations); where the image tower stays as it is,
features of a few augmented views of each image are computed once and trained on, which takes seconds instead of hours.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm
from yacs.config import CfgNode

from ..clip import Backbone, Preprocess
from ..clip.names import is_demo
from ..clip.preprocess import build_square
from ..methods import Method
from ..toolbox.dassl.config import get_cfg_default
from ..toolbox.dassl.errors import NotFinite, WrongValue
from ..toolbox.dassl.optim import build_lr_scheduler, build_optimizer
from ..toolbox.dassl.utils import get_most_similar_str_to_a_from_b as nearest
from ..trainers.model import PromptModel
from ..trainers.norms import parameter_groups
from ..trainers.precision import autocast_dtype, check_precision
from ..trainers.trained import config_beside
from .images import Reader

VIEWS = 4  # stored views of an image where the method's config names none (the demo configs name four as well)
Watch = Callable[[str, int, int, dict[str, float]], None]  # of each epoch: what is trained on, its number, all, record
OWN = "ImageFolder"  # the data set whose templates are meant for anybody's images


# ---- settings
# ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        epochs: passes over the images; batch_size: images per step.
        lr: learning rate; norms_lr: a factor on it for LayerNorms of the image tower.
        optimizer, momentum, weight_decay: see `toolbox.dassl.optim`.
        schedule: of the learning rate; warmup_epochs: first epochs, at the constant rate warmup_lr.
        grad_clip: largest gradient norm; 0 = no clipping.
        views: augmented views of each image whose features are stored, where the image tower stays as it is; 0 = anew
            in every epoch.
        augment: of random_resized_crop and random_flip; crop_scale: smallest and largest part of the image's area.
        precision: in which the towers compute: fp32, amp, bf16 or fp16.
    """

    epochs: int = 50
    batch_size: int = 32
    lr: float = 0.002
    norms_lr: float = 1.0
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    grad_clip: float = 0.0
    views: int = VIEWS
    augment: tuple[str, ...] = ("random_resized_crop", "random_flip")
    crop_scale: tuple[float, float] = (0.08, 1.0)
    precision: str = "fp32"

    def __post_init__(self):
        whole = {"epochs": 1, "batch_size": 1, "views": 0, "warmup_epochs": 0}
        for name, least in whole.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise WrongValue(f"{name}: expected a whole number of at least {least}, found {value!r}")
        for name in ("lr", "norms_lr", "momentum", "weight_decay", "warmup_lr", "grad_clip"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise WrongValue(f"{name}: expected a number of at least 0, found {value!r}")
        if self.precision not in ("fp32", "amp", "bf16", "fp16"):
            raise WrongValue(f"precision: expected fp32, amp, bf16 or fp16, found {self.precision!r}")

    def optim(self) -> CfgNode:
        """The same for the builders of the toolbox."""
        node = get_cfg_default().OPTIM
        node.NAME, node.LR, node.MAX_EPOCH = self.optimizer, self.lr, self.epochs
        node.MOMENTUM, node.WEIGHT_DECAY, node.LR_SCHEDULER = self.momentum, self.weight_decay, self.schedule
        node.WARMUP_EPOCH, node.WARMUP_TYPE, node.WARMUP_CONS_LR = self.warmup_epochs, "constant", self.warmup_lr
        return node


def published(row: Method, backbone: str) -> tuple[dict[str, object], Recipe]:
    """The arguments of a method's model, and its recipe, from the config that it runs with on images of one's own.

    Args:
        row: the method; backbone: its name; the demo backbone has configs of its own.
    """
    config = row.default_config("demo_icons" if is_demo(backbone) else "")
    cfg = config_beside(row.folder / f"{config}.yaml", {"dataset": OWN}, row.name)
    options, optim, data = cfg.TRAINER[row.node], cfg.OPTIM, cfg.INPUT
    recipe = Recipe(
        epochs=optim.MAX_EPOCH,
        batch_size=cfg.DATALOADER.TRAIN_X.BATCH_SIZE,
        lr=optim.LR,
        norms_lr=options.get("LN_LR_MULT", 1.0),
        optimizer=optim.NAME,
        momentum=optim.MOMENTUM,
        weight_decay=optim.WEIGHT_DECAY,
        schedule=optim.LR_SCHEDULER,
        warmup_epochs=max(0, optim.WARMUP_EPOCH),
        warmup_lr=optim.WARMUP_CONS_LR,
        grad_clip=options.get("GRAD_CLIP", 0.0),
        views=data.FEATURE_VIEWS or VIEWS,
        augment=tuple(name for name in data.TRANSFORMS if name in Recipe.augment),
        crop_scale=tuple(data.RRCROP_SCALE),
        precision=options.get("PREC", "fp32"),
    )
    return row.load_trainer().arguments(cfg), recipe


def settings(row: Method, backbone: str, given: Mapping[str, object]) -> tuple[dict[str, object], Recipe]:
    """The arguments of a method's model, and its recipe, with a user's own settings among them.

    Args:
        row: the method; backbone: its name; given: name -> value, of either kind.

    Raises:
        WrongValue: a setting is not known (the nearest is named), or its value makes no sense.
    """
    arguments, recipe = published(row, backbone)
    known, of_recipe = known_settings(row)
    for name in given:
        if name not in known and name not in of_recipe:
            near = nearest(name, [*known, *of_recipe])
            raise WrongValue(
                f"{row.name} has no setting {name!r}{f' (do you mean {near}?)' if near else ''}; of the model: "
                f"{', '.join(known) or 'none'}; of its training: {', '.join(of_recipe)}"
            )
    arguments |= {name: value for name, value in given.items() if name in known}
    return arguments, dataclasses.replace(recipe, **{k: v for k, v in given.items() if k in of_recipe})


def known_settings(row: Method) -> tuple[list[str], list[str]]:
    """Names of what can be set: of a method's model, and of its training."""
    ours = {"self", "backbone", "names", "others", "precision"}
    of_model = [name for name in inspect.signature(row.load_model()).parameters if name not in ours]
    return of_model, [entry.name for entry in dataclasses.fields(Recipe)]


def build_model(
    row: Method, backbone: Backbone, names: Sequence[str], arguments: Mapping[str, object], recipe: Recipe
) -> PromptModel:
    """A method's model before training; a backbone may serve several (what a model trains of a tower is its own copy).

    Args:
        row: the method; backbone: CLIP; names: C class names; arguments: of the model; recipe: for its precision.

    Raises:
        ValueError: what the model says of its arguments.
    """
    check_precision(recipe.precision, backbone.logit_scale.device)
    model = row.load_model()(backbone, names, **arguments, precision=recipe.precision)
    model.check_names()
    return model.to(model.device).eval()


@dataclass(frozen=True)
class Plan:
    """A method with all that it takes to make and train its model.

    Attributes:
        row: the method; backbone: CLIP; names: C class names; arguments: of the model; recipe: how it is trained.
    """

    row: Method
    backbone: Backbone
    names: list[str]
    arguments: dict[str, object]
    recipe: Recipe

    def model(self, seed: int) -> PromptModel:
        """The model before training; its random start is drawn from the seed."""
        with fixed_random(seed, self.backbone.logit_scale.device):
            return build_model(self.row, self.backbone, self.names, self.arguments, self.recipe)


# ---- data
# --------------------------------------------------------------------------------------------------------------------


def augmentation(recipe: Recipe, preprocess: Preprocess) -> Callable:
    """From an RGB image to one of S x S pixels, as in training; draws from torch's generator."""
    from torchvision.transforms import Compose, InterpolationMode, RandomHorizontalFlip, RandomResizedCrop

    interpolation = InterpolationMode(preprocess.interpolation)
    square = build_square(preprocess)
    if "random_resized_crop" in recipe.augment:
        square = RandomResizedCrop(preprocess.size, scale=recipe.crop_scale, interpolation=interpolation)
    return Compose([square, *([RandomHorizontalFlip()] if "random_flip" in recipe.augment else [])])


class TrainingImages:
    """N labelled images for training, with the features that an unchanged image tower has of them.

    Args:
        images: N images in any form that `images` knows.
        labels: [N], whole numbers below C.
        seed: of augmentations; workers: threads that read.
    """

    def __init__(self, images: Sequence[object], labels: Tensor, seed: int = 1, workers: int | None = None):
        self.images, self.labels, self.seed, self.workers = list(images), labels, seed, workers
        self._stored: dict[tuple, Tensor] = {}

    def reader(
        self, indices: Sequence[int], preprocess: Preprocess, shape: Callable | None = None, size: int = 64
    ) -> Reader:
        """A `Reader` of some of the images. They were readable before; one that has vanished is an error."""
        return Reader([self.images[i] for i in indices], preprocess, size, self.workers, shape=shape)

    def stored_views(self, model: PromptModel, recipe: Recipe) -> Tensor:
        """Features [V, N, D] of augmented views; computed once for all models that see images alike."""
        key = (model.encode_image.__func__, recipe.precision, recipe.views, recipe.augment, recipe.crop_scale)
        if key not in self._stored:
            with fixed_random(self.seed, model.device):
                shape = augmentation(recipe, model.backbone.preprocess)
                views = [self.encode(model, range(len(self.images)), shape) for _ in range(recipe.views)]
            self._stored[key] = torch.stack(views)
        return self._stored[key]

    def plain_features(self, model: PromptModel, indices: Sequence[int]) -> Tensor:
        """Features [n, D] of some images as they are looked at in prediction."""
        if model.image_features_are_trained():
            return self.encode(model, indices)
        key = (model.encode_image.__func__, model.precision)
        if key not in self._stored:
            self._stored[key] = self.encode(model, range(len(self.images)))
        return self._stored[key][torch.as_tensor(indices, dtype=torch.long)]

    @torch.no_grad()
    def encode(self, model: PromptModel, indices: Sequence[int], shape: Callable | None = None) -> Tensor:
        """Features [n, D] of some images, through `shape` if given."""
        reader = self.reader(indices, model.backbone.preprocess, shape)
        bar = tqdm(reader, "image features", total=math.ceil(len(indices) / 64), disable=None, leave=False)
        return torch.cat([model.encode_image(batch.images.to(model.device)) for batch in bar])

    def batches(
        self, model: PromptModel, indices: Tensor, recipe: Recipe, order: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch: features [B, D] and labels [B] on the model's device, shuffled; a last, smaller batch is left out.

        Args:
            model: that is trained; indices: [n], the images that it sees; recipe: how.
            order: generator of the order.
        """
        shuffled = indices[torch.randperm(len(indices), generator=order)]
        count, size = len(shuffled), recipe.batch_size
        shuffled = shuffled[: count - count % size] if count >= size else shuffled
        if recipe.views and not model.image_features_are_trained():
            views = self.stored_views(model, recipe)
            for part in shuffled.split(size):
                view = torch.randint(len(views), (len(part),), generator=order)
                yield views[view, part], self.labels[part].to(model.device)
            return
        shape = augmentation(recipe, model.backbone.preprocess)
        reader = self.reader(shuffled.tolist(), model.backbone.preprocess, shape, size)
        for batch, part in zip(reader, shuffled.split(size), strict=True):
            yield model.encode_image(batch.images.to(model.device)), self.labels[part].to(model.device)


@contextmanager
def fixed_random(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of torch from a seed within the block; the caller's own go on afterwards as if nothing was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


# ---- the loop
# ----------------------------------------------------------------------------------------------------------------


def train(
    model: PromptModel,
    data: TrainingImages,
    indices: Sequence[int],
    recipe: Recipe,
    seed: int = 1,
    watch: Watch | None = None,
    what: str = "all images",
) -> list[dict[str, float]]:
    """Train a model in place; one that trains nothing stays as it is.

    Args:
        model: see `PromptModel`; data: all labelled images; indices: those that it may see.
        recipe: how; seed: of the order, of augmentations and of noise in losses.
        watch: called after each epoch, instead of a bar; what: the images are, for it.

    Returns:
        One record an epoch: lr, loss and what else the method's loss says, means over steps.

    Raises:
        NotFinite: the loss is infinite or NaN.
    """
    if not list(model.parameters()):
        return []
    optim = build_optimizer(model, recipe.optim(), parameter_groups(model, recipe.lr, recipe.norms_lr))
    schedule = build_lr_scheduler(optim, recipe.optim())
    half = model.device.type == "cuda" and autocast_dtype(recipe.precision, model.device) == torch.float16
    scaler = torch.amp.GradScaler(model.device.type, enabled=half)
    order, history = torch.Generator().manual_seed(seed), []
    seen = torch.as_tensor(indices, dtype=torch.long)
    model.train()
    with fixed_random(seed, model.device):
        off = True if watch else None  # None: on a terminal
        for epoch in tqdm(range(recipe.epochs), f"training {model.method}", disable=off, leave=False):
            records = [
                step(model, features, label, optim, scaler, recipe.grad_clip)
                for features, label in data.batches(model, seen, recipe, order)
            ]
            history.append({"lr": optim.param_groups[0]["lr"], **mean_record(records, epoch)})
            schedule.step()
            if watch:
                watch(f"{model.method}, {what}", epoch + 1, recipe.epochs, history[-1])
    model.eval()
    return history


def step(
    model: PromptModel,
    features: Tensor,
    label: Tensor,
    optim: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    grad_clip: float,
) -> dict[str, Tensor]:
    """One step of the optimizer.

    Args:
        features: [B, D]; label: [B]; grad_clip: largest gradient norm, 0 = no clipping.

    Returns:
        The loss, and what the method's loss says beside it, as scalars.
    """
    loss, metrics = model.loss(features, label)
    optim.zero_grad()
    scaler.scale(loss).backward()
    if grad_clip > 0:
        scaler.unscale_(optim)
        nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    scaler.step(optim)
    scaler.update()
    return {"loss": loss.detach(), **{key: value.detach() for key, value in metrics.items()}}


def mean_record(records: Sequence[Mapping[str, Tensor]], epoch: int) -> dict[str, float]:
    """Means over the steps of an epoch.

    Raises:
        NotFinite: the loss is infinite or NaN.
    """
    record = {key: float(torch.stack([r[key] for r in records]).mean()) for key in records[0]}
    if not math.isfinite(record["loss"]):
        raise NotFinite(f"the loss is {record['loss']} in epoch {epoch + 1}; try a smaller lr, or precision fp32")
    return record


# ---- held-out images
# ---------------------------------------------------------------------------------------------------------


def stratified_folds(labels: Tensor, folds: int, seed: int = 1) -> Tensor:
    """Which fold each image is held out in: [N], -1 for the only image of its class, which is always trained on.

    Args:
        labels: [N]; folds: K; seed: of the draw. Each class is dealt out as evenly as possible.
    """
    random, fold = torch.Generator().manual_seed(seed), torch.full_like(labels, -1)
    start = 0
    for label in labels.unique().tolist():
        places = (labels == label).nonzero()[:, 0]
        if len(places) > 1:
            shuffled = places[torch.randperm(len(places), generator=random)]
            fold[shuffled] = (torch.arange(len(places)) + start) % folds
            start += len(places)  # so that not all small classes are held out in the same fold
    return fold


@torch.no_grad()
def logits_of(model: PromptModel, data: TrainingImages, indices: Sequence[int]) -> Tensor:
    """Logits [n, C] of some images, on the CPU."""
    features = data.plain_features(model, indices)
    return torch.cat([model.logits(part) for part in features.split(256)]).float().cpu()


def held_out_logits(
    plan: Plan, data: TrainingImages, folds: int, seed: int = 1, watch: Watch | None = None
) -> tuple[Tensor, Tensor]:
    """Logits of every image from a model that was not trained on it.

    Args:
        plan: the method; data: all labelled images; folds: K; a model that trains nothing needs none.
        seed: of the folds, and of every training; watch: see `train`.

    Returns:
        Logits [n, C] and labels [n]; n is smaller than N if a class has one image only.
    """
    model = plan.model(seed)
    if not list(model.parameters()):
        return logits_of(model, data, range(len(data.labels))), data.labels
    fold = stratified_folds(data.labels, folds, seed)
    logits = [torch.empty(0, len(model.names))]
    places = [torch.empty(0, dtype=torch.long)]
    for k in range(folds):
        held = (fold == k).nonzero()[:, 0]
        if len(held):
            model = plan.model(seed)
            seen = (fold != k).nonzero()[:, 0].tolist()
            train(model, data, seen, plan.recipe, seed, watch, f"part {k + 1} of {folds}")
            logits.append(logits_of(model, data, held.tolist()))
            places.append(held)
    return torch.cat(logits), data.labels[torch.cat(places)]
