"""A method apart from its trainer: a model made of plain arguments, usable in a notebook or a benchmark.

Every method has the small interface of `PromptModel`. No Dassl, no config and no data set is needed:

    >>> import torch
    >>> from mocoop.clip import load_backbone
    >>> from mocoop.trainers.coop import CoOpModel
    >>> model = CoOpModel(load_backbone("demo"), ["cat", "dog", "house"], n_ctx=4)
    >>> model(torch.zeros(2, 3, 48, 48)).shape  # images [B, 3, H, W] -> logits [B, C]
    torch.Size([2, 3])
    >>> sorted(name for name, _ in model.named_parameters())  # what is trained, and nothing else
    ['ctx']
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip import Backbone
from ..clip.image import encode_image
from ..clip.layout import PromptLayout
from ..clip.plain import layers_and_hooks
from ..clip.text import TextEncoder, encode_chunked
from ..config.keys import KEYS, PREC
from ..config.merge import shown
from ..toolbox.dassl.errors import WrongValue
from .memory import rows_that_fit
from .precision import autocast_dtype
from .prompts import sliced_layouts
from .ranks import ALONE, Ranks

T = TypeVar("T")
FORMAT = 2  # of what `get_extra_state` returns; 1: version 0.1.0, see `trained.py`


class PromptModel(nn.Module):
    """A frozen CLIP with something learned.

    Its parameters are exactly what is trained; the backbone is not a submodule, so a `state_dict` is small. Axes:
    B images, C classes that are scored, A names in all (the C first), G experts (1 for most methods), D joint width.

    A method defines `sequences` (its prompts) or `encode_classes`, `loss`, `arguments`, and its own `logits` and
    `encode_image` where it needs others than the ones here. Whether image features depend on what is trained is found
    out by trying (`image_features_are_trained`); nothing needs to be declared.

    Args:
        backbone: CLIP, with its tokenizer.
        names: the C class names that are scored, in label order.
        others: A - C further names that only take part in losses over names ("virtual classes").
        chunk: prompts encoded at once; None = all if the free memory allows, else slices (see `sliced_layouts`).
        precision: in which the towers compute: fp32, amp, bf16 or fp16 (see `precision.autocast_dtype`).

    Raises:
        ValueError: there is no class name, or one is no text; an argument of the method cannot be used.
    """

    method = ""  # the name in the table of methods

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        others: Sequence[str] = (),
        chunk: int | None = None,
        precision: str = "fp32",
    ):
        check_arguments(self.method, chunk=(chunk, KEYS["TRAIN.TEXT_CHUNK"].check), precision=(precision, PREC.check))
        super().__init__()
        self.backbone, self.chunk, self.precision = backbone, chunk, precision
        self.trained_on = ""  # the data set, for whoever reads a checkpoint
        self.ranks = ALONE  # that share out class names in training
        self._changes = 0  # changes that the parameters' own counters do not show
        self._image_features_trained: tuple[object, bool] = (None, False)
        self.set_classes(names, others)

    # ---- the interface
    # ---------------------------------------------------------------------------------------------------

    def encode_image(self, image: Tensor) -> Tensor:
        """Image features [B, D] of norm 1 in float32 from images [B, 3, H, W]."""
        learn = torch.is_grad_enabled() and self.image_features_are_trained()
        with self.autocast(), torch.set_grad_enabled(learn):
            return F.normalize(encode_image(self.backbone.visual, image).float(), dim=-1)

    def logits(self, features: Tensor) -> Tensor:
        """Logits [B, C] from image features [B, D] of norm 1: CLIP's scaled cosines with `class_features`."""
        return self.logit_scale * features @ self.class_features().T

    def open_logits(self) -> Callable[[Tensor], Tensor]:
        """`logits` as a function whose steps do not depend on B, for exported files; what no image changes is done."""
        return self.logits

    def loss(self, features: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What training minimises.

        Args:
            features: [B, D], from `encode_image`; label: [B], whole numbers below C.

        Returns:
            The loss, and what to log beside it, both as scalars. The first entry is "acc", in percent.
        """
        raise TypeError(f"{type(self).__name__} has nothing to train")

    def set_classes(self, names: Sequence[str], others: Sequence[str] = ()) -> None:
        """Score other classes from now on; what was trained stays.

        Args:
            names: C class names in label order; others: see the class.

        Raises:
            ValueError: there is no name, or one is no text.
        """
        names, others = class_list(names), class_list(others)
        if not names:
            raise WrongValue("a model needs at least one class name, found none")
        self.names, self.others = names, others
        self._of_these_classes: dict[Hashable, object] = {}
        self._class_features: tuple[object, Tensor | None] = (None, None)

    def arguments(self) -> dict[str, object]:
        """The arguments of this class, beside backbone and names, that rebuild the model for use: plain data."""
        return {}

    @staticmethod
    def arguments_of(state: dict[str, Tensor]) -> dict[str, object]:
        """Those of `arguments` that the names and shapes of trained tensors show.

        Raises:
            KeyError, IndexError: they are not those of this method.
        """
        return {}

    def settings(self) -> dict[str, object]:
        """Plain data that, with the trained tensors, rebuilds the model anywhere (`trained.rebuild`)."""
        return {
            "format": FORMAT,
            "method": self.method,
            "backbone": self.backbone.name,
            "names": list(self.names),
            "dataset": self.trained_on,
            "arguments": self.arguments(),
        }

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 3, H, W]."""
        return self.logits(self.encode_image(image))

    # ---- what methods are made of
    # ----------------------------------------------------------------------------------------

    def sequences(self, names: Sequence[str]) -> list[list[list[int]]]:
        """The prompts of G experts around names, as `clip.layout.make_layout` takes them."""
        raise TypeError(f"{type(self).__name__} has no prompts of its own")

    def context_vectors(self) -> Tensor:
        """Context vectors [V, W] of all experts in order, which `sequences` counts."""
        raise TypeError(f"{type(self).__name__} has no context vectors")

    def encode_names(self, count: int) -> Tensor:
        """Text features [G, count, D] of the first `count` names (`names`, then `others`), not normalised."""
        own = encode_chunked(self.encoder, self.layouts(count), self.context_vectors()).float()
        return self.sharing.gather(own, count, dim=1)

    def encode_classes(self) -> Tensor:
        """What `class_features` caches, in float32."""
        return F.normalize(self.encode_names(len(self.names))[0], dim=-1)

    def class_features(self) -> Tensor:
        """The features of the scored classes in evaluation, [C, D] or [G, C, D], cached until something changes."""
        state = self._class_version()
        if state != self._class_features[0]:
            with torch.inference_mode(False), torch.no_grad():
                self._class_features = state, self.encode_classes()
        return self._class_features[1]

    def class_features_for(self, features: Tensor) -> Tensor:
        """The class features [B, C, D] that images are compared with: their scaled dot products are `logits`.

        Args:
            features: image features [B, D], where a method's class features depend on the image.

        Raises:
            ValueError: a method with several class features per class does not say which of them count.
        """
        kept = self.class_features()
        if kept.dim() != 2:
            raise WrongValue(f"{type(self).__name__} does not define class_features_for")
        return kept.expand(len(features), -1, -1)

    @torch.no_grad()
    def kept_class_features(self) -> Tensor | None:
        """The class features if they are all that `logits` takes from the text tower, None if an image changes them."""
        if self._class_features[0] != self._class_version():
            self._class_features = (None, None)
            self.logits(F.normalize(torch.ones(1, self.encoder.output_width, device=self.device), dim=-1))
        return self._class_features[1]

    def keep_class_features(self, features: Tensor) -> None:
        """Cache class features that an equal model has computed, so that the text tower need not run.

        Args:
            features: [C, D] or [G, C, D], what `class_features` gave there.
        """
        # A copy: what lies in a file's buffer need not begin where kernels like it, and they then add in another order.
        self._class_features = self._class_version(), features.to(self.device, copy=True)

    def _class_version(self) -> tuple:
        return self.version(), tower_version(self.backbone.text)

    def layouts(self, count: int) -> list[PromptLayout]:
        """The prompts around the first `count` names, or this rank's share, in slices of classes that fit the chunk."""
        own = self.sharing.share(count)
        key = ("layouts", count, own.start, own.stop)
        return self.once(key, lambda: self._lay_out([*self.names, *self.others][:count], own))

    @property
    def sharing(self) -> Ranks:
        """The ranks among which prompts are shared out: only where gradients make that worth while."""
        return self.ranks if torch.is_grad_enabled() else ALONE

    def check_names(self) -> None:
        """Lay out the prompts, if the method has its own: a name that is too long is an error now, not while training.

        Raises:
            ValueError: naming the class.
        """
        if type(self).sequences is not PromptModel.sequences:
            self.layouts(len(self.names))

    def _lay_out(self, names: Sequence[str], own: slice) -> list[PromptLayout]:
        sequences = [prompts[own] for prompts in self.sequences(names)]  # all are made: an error is one on every rank
        parts = sliced_layouts(sequences, self.chunk, rows_that_fit(self.encoder, self.device))
        return [part.to(self.device) for part in parts]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, computed once per list of class names: the next `set_classes` discards it."""
        if key not in self._of_these_classes:
            with torch.inference_mode(False):  # tensors made in inference mode cannot be used in training
                self._of_these_classes[key] = make()
        return self._of_these_classes[key]

    @property
    def encoder(self) -> TextEncoder:
        """The backbone's text tower."""
        return self.backbone.text_encoder

    @property
    def logit_scale(self) -> Tensor:
        """CLIP's exp(logit_scale)."""
        return self.backbone.logit_scale.exp()

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self.backbone.logit_scale.device

    def autocast(self) -> AbstractContextManager:
        """The precision in which towers run while training (and image towers always)."""
        dtype = autocast_dtype(self.precision, self.device)
        return torch.autocast(self.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)

    # ---- what depends on what
    # --------------------------------------------------------------------------------------------

    def version(self) -> tuple:
        """A value that differs after every change of a trained parameter.

        In-place changes and loading are counted by torch. Edits through `p.data` are not, but they happen in training,
        and every call of `train()` counts as a change.
        """
        return self._changes, *map(tensor_version, self.parameters())

    def image_version(self) -> tuple:
        """A value that differs whenever `encode_image` may give other features: every cache of them asks this."""
        return tower_version(self.backbone.visual), self.version() if self.image_features_are_trained() else ()

    def trained_in_image_tower(self) -> list[nn.Parameter]:
        """The image tower's parameters that are trained: also this model's own, or requiring a gradient."""
        own = set(self.parameters())
        return [p for p in self.backbone.visual.parameters() if p.requires_grad or p in own]

    def image_features_are_trained(self) -> bool:
        """Whether image features depend on anything trained: tried by changing it, again whenever the tower changes.

        Raises:
            ValueError: something in the image tower is trained, but does not change what `encode_image` returns.
        """
        own = self.trained_in_image_tower()
        trained = dict.fromkeys([*self.parameters(), *own])  # each once
        state = layers_and_hooks(self.backbone.visual), set(trained)
        if state != self._image_features_trained[0]:
            moves = self._change_shows(list(trained))
            if own and not moves:
                raise WrongValue(
                    f"{type(self).__name__} trains parameters of the image tower, but its encode_image gives the same "
                    "features when they change; encode images through the tower that is trained"
                )
            self._image_features_trained = state, moves
        return self._image_features_trained[1]

    @torch.no_grad()
    def _change_shows(self, trained: Sequence[nn.Parameter]) -> bool:
        if not trained:
            return False
        random = torch.Generator().manual_seed(0)
        size, gpus = self.backbone.preprocess.size, [self.device] if self.device.type == "cuda" else []
        image = torch.randn(2, 3, size, size, generator=random).to(self.device)
        values = [p.clone() for p in trained]
        with torch.random.fork_rng(devices=gpus):  # dropout may draw; the caller's random state stays
            before = self.encode_image(image)
            try:
                for p in trained:  # past torch's counters: a graph built before stays valid
                    p.data.add_(0.5 * torch.randn(p.shape, generator=random).to(p))
                self._changes += 1
                same = (self.encode_image(image) - before).abs().max() <= 1e-4  # False for NaN, which moved too
            finally:
                for p, value in zip(trained, values, strict=True):
                    p.data.copy_(value)
                self._changes += 1
        return not bool(same)

    # ---- as a module
    # -----------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "PromptModel":
        """Training mode for what is trained; the towers stay in eval mode."""
        self._changes += mode
        return super().train(mode)

    def _apply(self, fn: Callable, recurse: bool = True) -> "PromptModel":
        """`to`, `cuda`, ...: the backbone moves, too, and what was cached on the old device is discarded."""
        super()._apply(fn, recurse)
        self.backbone.model._apply(fn)
        self.set_classes(self.names, self.others)
        return self

    def get_extra_state(self) -> dict:
        """What a checkpoint says beside the numbers: `settings`."""
        return self.settings()

    def set_extra_state(self, state: dict) -> None:
        """Nothing: the model keeps its own settings; the stored ones are read before loading (`trained.py`)."""


def class_list(names: Sequence[str]) -> list[str]:
    """Class names as a list.

    Raises:
        ValueError: one is no text, or there is one text instead of a list.
    """
    if isinstance(names, str):
        raise WrongValue(f"expected a list of class names, found one text: write [{names!r}]")
    names = list(names)
    for name in names:
        if not isinstance(name, str):
            raise WrongValue(f"a class name is a text, found {name!r}")
    return names


def check_arguments(method: str, **given: tuple) -> None:
    """Refuse arguments that a model cannot be made with.

    Args:
        method: for the message; given: name of an argument -> (its value, checks as config keys have them).

    Raises:
        ValueError: naming the first that breaks a check.
    """
    for name, (value, *checks) in given.items():
        for check in checks:
            wrong = check(value)
            if wrong:
                raise WrongValue(f"{method}: the argument {name} {wrong}, found {shown(value)}")


def tensor_version(p: Tensor) -> tuple[int, int]:
    """A value that differs after a change of a tensor (one made in inference mode has no counter)."""
    return p.data_ptr(), 0 if p.is_inference() else p._version


def tower_version(tower: nn.Module) -> tuple:
    """A value that differs after a change of a tower: of its weights, its layers, or what is hooked to them."""
    return layers_and_hooks(tower), *map(tensor_version, tower.parameters())


def accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Accuracy in percent of logits [B, C] against labels [B], a scalar."""
    return 100 * (logits.argmax(dim=1) == label).float().mean()
