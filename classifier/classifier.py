"""A classifier of images from class names and a few labelled images, in scikit-learn's manner."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import methods
from ..clip import Backbone, build_transform, check_name, load_backbone
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import printable
from ..trainers.model import PromptModel
from ..trainers.trained import load_trained
from . import auto, file, hub
from .calibration import Evaluation, Judged, evaluate, fit_temperature, fit_threshold
from .experts import Routing, survey
from .explain import Explanation, explain, explain_each
from .images import Images, Reader, Skipped, Unreadable
from .labels import Label, Labelled, as_known, check_classes, labelled, positions
from .similarity import SimilarityMap, similarity_map
from .training import Plan, TrainingImages, Watch, held_out_logits, settings, train
from .words import PromptWords, prompt_words


class Predicted(NamedTuple):
    """A batch of B predictions: places among the images given, names, features [B, D], probabilities [B, C]."""

    indices: list[int]
    names: list[str]
    features: Tensor
    probabilities: Tensor


class Classifier:
    """A method around CLIP: fit on a few labelled images, or on class names alone, then predict.

    Nothing happens before `fit`. Training runs with the method's published settings (its config for images of one's
    own), of which any can be given by name, those of the model (`topk=1`, `groups=[...]`, `words="a photo of a"`) as
    well as those of training (`epochs=20`, `lr=0.01`, `views=8`; see `training.Recipe`).

    Args:
        method: a name of `mocoop list methods`, or "auto": the best of `candidates` by cross-validation on the labelled
            images.
        backbone: a name of `clip.names`, or a `Backbone` that is loaded already (it is not changed).
        shots: labelled images drawn per class; None = all.
        seed: of the draw, of training and of folds.
        folds: parts in which images are held out in turn to measure the temperature and the figures, with one training
            for each; 0 = none, probabilities are then uncalibrated.
        least_precision: of the answers; `threshold_` is chosen for it on held-out images. None = no threshold.
        candidates: methods that "auto" tries (None = all); seconds: what "auto" may take, the final training included.
        device: where everything runs (default: a GPU if there is one).
        workers: threads that read images (default: one a core, 16 at most).
        **settings: of the method and its training.

    Attributes:
        classes_: the labels [C]; columns of probabilities are in their order.
        model: the trained `PromptModel`; preprocess: from a Pillow image to the tensor [3, S, S] that it takes.
        temperature_: probabilities are softmax(logits / temperature_).
        threshold_: answers below this probability are unsure.
        figures_: measured on held-out images: accuracy, nll, ece, ... (see `calibration.Evaluation`), {} if none were.
        tried_: what "auto" tried, best first, as plain data.
        history_: one record per epoch of the final training.
        versions_: of the packages that wrote the file it was loaded from, {} if it was fitted here.
    """

    _estimator_type = "classifier"  # for scikit-learn before 1.6
    own = (
        "method",
        "backbone",
        "shots",
        "seed",
        "folds",
        "least_precision",
        "candidates",
        "seconds",
        "device",
        "workers",
    )

    def __init__(
        self,
        method: str = "MoCoOp",
        backbone: str | Backbone = "ViT-B/16",
        shots: int | None = None,
        seed: int = 1,
        *,
        folds: int = 3,
        least_precision: float | None = None,
        candidates: Sequence[str] | None = None,
        seconds: float = 600.0,
        device: str | torch.device | None = None,
        workers: int | None = None,
        **settings: object,
    ):
        self.method, self.backbone, self.shots, self.seed = method, backbone, shots, seed
        self.folds, self.least_precision, self.candidates, self.seconds = folds, least_precision, candidates, seconds
        self.device, self.workers, self.settings = device, workers, settings
        self._model: PromptModel | None = None

    # ---- scikit-learn's conventions
    # ------------------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, object]:
        """The constructor's arguments as they were given."""
        return {name: getattr(self, name) for name in self.own} | self.settings

    def set_params(self, **params: object) -> Classifier:
        """Change arguments of the constructor; they hold from the next `fit` on."""
        for name, value in params.items():
            if name in self.own:
                setattr(self, name, value)
            else:
                self.settings = {**self.settings, name: value}
        return self

    def __sklearn_tags__(self) -> object:
        """What scikit-learn, from 1.6 on, asks of an estimator; only it calls this."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=False, string=True),
        )

    def __repr__(self) -> str:
        given = {**self.get_params(), "backbone": getattr(self.backbone, "name", self.backbone)}
        defaults = Classifier().get_params() if given.keys() - {"method"} else {}
        shown = [f"{k}={v!r}" for k, v in given.items() if k in ("method", "backbone") or v != defaults.get(k)]
        return f"Classifier({', '.join(shown)})"

    # ---- training
    # ---------------------------------------------------------------------------------------------------------

    def fit(
        self,
        images: Images | None = None,
        labels: Sequence[Label] | None = None,
        names: Mapping[Label, str] | Sequence[str] | None = None,
        unreadable: Unreadable = "raise",
        watch: Watch | None = None,
    ) -> Classifier:
        """Train on labelled images.

        Args:
            images: a folder with one folder of images per class (where it has `train/` and `test/`, only `train/` is
                looked at), or N images; None for a method that trains nothing, with the class names in `names`.
            labels: N labels, texts or whole numbers; none with a folder.
            names: what prompts call a label (default: itself, underscores as spaces).
            unreadable: "raise", or "skip" images that cannot be read, with a warning that names them.
            watch: called after each epoch of each training, see `training.Watch`.

        Raises:
            FileNotFoundError, DataError: the folder is not there, is empty or has one class only.
            WrongValue: labels, names or a setting make no sense; MethodError: the method is not known.
            ImageError: an image cannot be read; DownloadError, WeightsError: CLIP cannot be had.
        """
        self.check()
        if images is None:
            return self.fit_names(names)
        found = labelled(images, labels, "train", names).few(self.shots, self.seed)
        classes = found.classes()
        texts = check_classes(classes, found.names)
        backbone = self.load_backbone()
        kept = self.readable(found, backbone, unreadable)
        if lost := [label for label in classes if label not in kept.labels]:
            raise WrongValue(f"no image that can be read is left of {', '.join(map(repr, lost[:10]))}")
        data = TrainingImages(kept.images, torch.tensor(positions(kept.labels, classes)), self.seed, self.workers)
        plan, logits, held = self.choose(texts, backbone, data, watch)
        model = plan.model(self.seed)
        self.history_ = train(model, data, range(len(data.labels)), plan.recipe, self.seed, watch)
        self.accept(model, classes)
        self.calibrate(logits, held)
        self.fit_ = {"images": len(data.labels), **self.described(plan)}
        return self

    def fit_names(self, names: Mapping[Label, str] | Sequence[str] | None) -> Classifier:
        """A method that trains nothing, on class names alone.

        Raises:
            WrongValue: there are none, or the method needs images.
        """
        row = methods.named(self.method) if self.method != "auto" else None
        if row is None or row.trained or not names:
            raise WrongValue(
                f"{self.method} needs labelled images; only methods that train nothing do with names=[...]"
            )
        called = dict(names) if isinstance(names, Mapping) else {}
        texts = check_classes(list(names), called)
        backbone = self.load_backbone()
        plan = Plan(row, backbone, texts, *settings(row, backbone.name, self.settings))
        self.history_, self.tried_ = [], []
        self.accept(plan.model(self.seed), list(names))
        self.fit_ = {"images": 0, **self.described(plan)}
        return self

    def check(self) -> None:
        """Refuse arguments that make no sense, before anything is read.

        Raises:
            WrongValue, MethodError, ValueError: naming the argument.
        """
        for name, value, least in (("shots", self.shots, 1), ("folds", self.folds, 0)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise WrongValue(f"{name}: expected a whole number of at least {least}, found {value!r}")
        if self.folds == 1 or (self.method == "auto" and not self.folds):
            raise WrongValue("folds: images are held out in at least 2 parts; 0 = none, which auto cannot do with")
        if self.least_precision is not None and not 0 < self.least_precision <= 1:
            raise WrongValue(f"least_precision: expected a number above 0, at most 1, found {self.least_precision!r}")
        if not isinstance(self.seconds, Real) or not self.seconds > 0:  # (NaN is not, either)
            raise WrongValue(f"seconds: expected a number above 0, found {self.seconds!r}")
        if self.candidates is not None and not len(self.candidates):
            raise WrongValue("candidates: expected names of methods, found none; None stands for all")
        if isinstance(self.backbone, str):
            check_name(self.backbone)
        if self.method != "auto":
            settings(methods.named(self.method), getattr(self.backbone, "name", self.backbone), self.settings)

    def load_backbone(self) -> Backbone:
        """CLIP on its device."""
        if isinstance(self.backbone, Backbone):
            return self.backbone
        return load_backbone(self.backbone, self.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def readable(self, found: Labelled, backbone: Backbone, unreadable: Unreadable) -> Labelled:
        """The images that can be read; each is opened once, so that a bad one does not end a long training."""
        reader = Reader(found.images, backbone.preprocess, workers=self.workers, unreadable=unreadable)
        kept = [index for index, _, _ in reader.read()]
        self.say_skipped(reader.skipped)
        return found.only(kept)

    def choose(
        self, names: list[str], backbone: Backbone, data: TrainingImages, watch: Watch | None
    ) -> tuple[Plan, Tensor, Tensor]:
        """The method to train, and its logits [n, C] and labels [n] of held-out images (n = 0 without folds)."""
        self.tried_ = []
        if self.method == "auto":
            plans = auto.plans(names, backbone, self.candidates, self.settings)
            plan, tried = auto.compare(plans, data, self.folds, self.seconds, self.seed, watch)
            self.tried_ = [record.row() for record in tried]
            return plan, tried[0].logits, tried[0].labels
        row = methods.named(self.method)
        plan = Plan(row, backbone, names, *settings(row, backbone.name, self.settings))
        if not self.folds:
            return plan, torch.empty(0, len(names)), torch.empty(0, dtype=torch.long)
        return plan, *held_out_logits(plan, data, self.folds, self.seed, watch)

    def calibrate(self, logits: Tensor, labels: Tensor) -> None:
        """Fit temperature and threshold, and note the figures, on held-out images: logits [n, C], labels [n]."""
        if not len(labels):
            return
        self.temperature_ = fit_temperature(logits, labels)
        probabilities = (logits / self.temperature_).softmax(dim=1)
        self.threshold_ = fit_threshold(probabilities, labels, self.least_precision)
        found = evaluate(probabilities, labels, self.classes_.tolist(), self.threshold_)
        self.figures_ = {"held_out": found.figures(), "per_class": found.per_class, "confusion": found.confusion}
        self.figures_["reliability"] = found.reliability

    def accept(self, model: PromptModel, classes: Sequence[Label]) -> None:
        """Take a trained model and its labels; uncalibrated."""
        self._model, self.classes_ = model, as_array(classes)
        self.temperature_, self.threshold_, self.figures_, self.versions_ = 1.0, 0.0, {}, {}

    def described(self, plan: Plan) -> dict[str, object]:
        """How it was trained, as plain data."""
        from dataclasses import asdict

        return {"method": plan.row.name, "shots": self.shots, "seed": self.seed, "recipe": asdict(plan.recipe)}

    # ---- prediction
    # -------------------------------------------------------------------------------------------------------

    @property
    def model(self) -> PromptModel:
        """The trained model.

        Raises:
            WrongValue: there is none yet.
        """
        if self._model is None:
            raise WrongValue("this classifier is not trained yet: call fit, or load a saved one")
        return self._model

    @property
    def preprocess(self) -> Callable:
        """From a Pillow image to the float tensor [3, S, S] that the model takes."""
        return build_transform(self.model.backbone.preprocess)

    def stream(
        self,
        images: Images,
        batch_size: int = 64,
        unreadable: Unreadable = "raise",
        skipped: list[Skipped] | None = None,
    ) -> Iterator[Predicted]:
        """Predictions batch by batch, in order, in constant memory, while threads read ahead.

        Args:
            images: in any form that `images` knows.
            batch_size: images per batch.
            unreadable: "raise", or "skip" images that cannot be read.
            skipped: a list that gets those, before the batch that comes behind them.

        Raises:
            ImageError: an image cannot be read, with unreadable="raise".
            FileNotFoundError: a folder without images.
            WrongValue: the numbers of an image, or of the model, are so large that no probability comes of them.
        """
        model = self.model
        reader = Reader(images, model.backbone.preprocess, batch_size, self.workers, unreadable)
        for batch in reader:
            with torch.no_grad():
                features = model.encode_image(batch.images.to(model.device))
                probabilities = (model.logits(features).float() / self.temperature_).softmax(dim=1)
            check_finite(probabilities, batch.names)
            hand_over(reader.skipped, skipped)
            yield Predicted(batch.indices, batch.names, features, probabilities.cpu())
        hand_over(reader.skipped, skipped)

    def predict_proba(self, images: Images, batch_size: int = 64, unreadable: Unreadable = "raise") -> np.ndarray:
        """Probabilities [N, C] in the order of `classes_`.

        Args:
            images: see `stream`; batch_size: images at once.
            unreadable: "raise", or "skip": the row of such an image is NaN, and a warning names it.

        Raises:
            ImageError, FileNotFoundError: see `stream`.
        """
        skipped: list[Skipped] = []
        batches = list(self.stream(images, batch_size, unreadable, skipped))
        self.say_skipped(skipped)
        count = sum(len(batch.indices) for batch in batches) + len(skipped)
        table = np.full((count, len(self.classes_)), np.nan, dtype=np.float32)
        for batch in batches:
            table[batch.indices] = batch.probabilities.numpy()
        return table

    def predict(
        self, images: Images, batch_size: int = 64, unreadable: Unreadable = "raise", unsure: object | None = None
    ) -> np.ndarray:
        """The most probable label of each image, [N].

        Args:
            images, batch_size: see `predict_proba`.
            unreadable: "raise", or "skip": the answer for such an image is None, and a warning names it.
            unsure: what to answer where the probability is below `threshold_` (None = the label all the same).

        Raises:
            ImageError, FileNotFoundError: see `stream`.
        """
        table = self.predict_proba(images, batch_size, unreadable)
        missing = np.isnan(table).any(axis=1)
        answers = self.classes_[np.where(missing, 0, np.nan_to_num(table).argmax(axis=1))]
        doubtful = ~missing & (table.max(axis=1) < self.threshold_) if unsure is not None else np.zeros_like(missing)
        if not (missing | doubtful).any():
            return answers
        answers = answers.astype(object)
        answers[missing], answers[doubtful] = None, unsure
        return answers

    def evaluate(
        self,
        images: Images,
        labels: Sequence[Label] | None = None,
        batch_size: int = 64,
        unreadable: Unreadable = "raise",
    ) -> Evaluation:
        """Figures on labelled images: accuracy, per class, confusion, log-loss, Brier, ECE, and what is answered.

        Args:
            images, labels: as in `fit` (where a folder has `train/` and `test/`, `test/` is taken).
            batch_size: images at once; unreadable: "raise", or "skip": such images do not count, and are named.

        Raises:
            WrongValue: a label is no class of this classifier; and as `fit`.
        """
        found = labelled(images, labels, "test", None)
        classes = self.classes_.tolist()
        known = as_known(found.labels, classes)
        places = torch.tensor(positions(known, classes))
        skipped: list[Skipped] = []
        batches = list(self.stream(found.images, batch_size, unreadable, skipped))
        self.say_skipped(skipped)
        if not batches:
            raise WrongValue("expected images to evaluate, found none that can be read")
        indices = torch.tensor([index for batch in batches for index in batch.indices])
        probabilities = torch.cat([batch.probabilities for batch in batches])
        result = evaluate(probabilities, places[indices], classes, self.threshold_)
        result.skipped = skipped
        names = (name for batch in batches for name in batch.names)
        best, answers = (values.tolist() for values in probabilities.max(dim=1))
        result.judged = [
            Judged(name, known[index], classes[answer], p)
            for name, index, answer, p in zip(names, indices.tolist(), answers, best, strict=True)
        ]
        return result

    def score(self, images: Images, labels: Sequence[Label] | None = None) -> float:
        """Accuracy on labelled images, 0 to 1; see `evaluate`."""
        return self.evaluate(images, labels).accuracy

    def explain(self, image: object) -> Explanation:
        """Why an image is answered as it is; see `explain.explain`."""
        return explain(self.model, self.classes_.tolist(), self.temperature_, image)

    def explain_each(
        self, images: Images, unreadable: Unreadable = "raise", skipped: list[Skipped] | None = None
    ) -> Iterator[Explanation]:
        """The same for images one after the other; see `explain.explain_each`."""
        return explain_each(self.model, self.classes_.tolist(), self.temperature_, images, unreadable, skipped)

    def similarity(self, image: object, chosen: Label | None = None) -> SimilarityMap:
        """How much each patch looks like a class (None = the answer), on a ViT; see `similarity.similarity_map`."""
        return similarity_map(self.model, self.classes_.tolist(), image, chosen)

    def words(self, count: int = 5) -> list[PromptWords]:
        """The vocabulary's words nearest to the context vectors; see `words.prompt_words`."""
        return prompt_words(self.model, self.classes_.tolist(), count)

    def routing(
        self,
        images: Images,
        labels: Sequence[Label] | None = None,
        batch_size: int = 64,
        unreadable: Unreadable = "raise",
    ) -> Routing:
        """Which experts labelled images go to, and what accuracy each is good for; see `experts.survey`.

        Args:
            images, labels, batch_size, unreadable: as in `evaluate`.

        Raises:
            WrongValue: the method has no router, or a label is no class of this classifier; and as `fit`.
        """
        found = labelled(images, labels, "test", None)
        classes, skipped = self.classes_.tolist(), []
        batches = self.stream(found.images, batch_size, unreadable, skipped)
        seen = ((batch.indices, batch.names, batch.features) for batch in batches)
        result = survey(self.model, classes, seen, positions(as_known(found.labels, classes), classes))
        self.say_skipped(skipped)
        return result

    @staticmethod
    def say_skipped(skipped: Sequence[Skipped]) -> None:
        """Warn of images that could not be read; the first ten are named."""
        if skipped:
            named = "\n".join(f"  {printable(entry.reason)}" for entry in skipped[:10])
            more = f"\n  and {len(skipped) - 10} more" if len(skipped) > 10 else ""
            warnings.warn(
                f"{len(skipped)} images cannot be read and are left out:\n{named}{more}", stacklevel=level_of_caller()
            )

    # ---- classes
    # ----------------------------------------------------------------------------------------------------------

    def add_classes(self, classes: Sequence[Label] | Mapping[Label, str]) -> Classifier:
        """Know more classes from now on, by their names, without training.

        Args:
            classes: labels, or label -> what prompts call it. They come after the others in `classes_`.

        Raises:
            WrongValue: one is known already, or stands twice; ValueError: the method cannot take other classes.
        """
        called = dict(classes) if isinstance(classes, Mapping) else {label: str(label) for label in classes}
        if isinstance(classes, str) or len(called) != len(list(classes)):
            raise WrongValue(f"expected a list of classes that differ, found {classes!r}")
        names = dict(zip(self.classes_.tolist(), self.model.names, strict=True))
        if known := [label for label in called if label in names]:
            raise WrongValue(f"known already: {', '.join(map(repr, known[:10]))}")
        return self.set_classes(names | called)

    def remove_classes(self, classes: Sequence[Label]) -> Classifier:
        """Forget classes.

        Raises:
            WrongValue: one is not known, or fewer than two would be left.
        """
        listed = [classes] if isinstance(classes, str | int) else list(classes)
        positions(listed, self.classes_.tolist())
        names = zip(self.classes_.tolist(), self.model.names, strict=True)
        return self.set_classes({label: name for label, name in names if label not in listed})

    def set_classes(self, names: Mapping[Label, str]) -> Classifier:
        """Score exactly these classes from now on: label -> what prompts call it. What was trained stays.

        Held-out figures are of the classes that it was trained on, and are dropped.

        Raises:
            WrongValue, DataError, ValueError: see `add_classes`; the classifier then stays as it was.
        """
        texts = check_classes(list(names), names)
        model, before = self.model, list(self.model.names)
        try:
            model.set_classes(texts)
            model.kept_class_features()
        except Exception:
            model.set_classes(before)
            raise
        self.classes_, self.figures_ = as_array(list(names)), {}
        return self

    def set_templates(self, templates: Sequence[str]) -> Classifier:
        """Use other hand-written templates, with "{}" for the class name, in a method that has such.

        Raises:
            WrongValue: it has learned prompts instead; ValueError: a template has not exactly one "{}".
        """
        if not hasattr(self.model, "set_templates"):
            raise WrongValue(f"{self.model.method} has learned prompts; only zero-shot methods take other templates")
        self.model.set_templates(templates)
        self.figures_ = {}
        return self

    # ---- the saved form
    # ---------------------------------------------------------------------------------------------------

    def save(self, path: str | PathLike, embed: file.Embed = "no", overwrite: bool = False) -> None:
        """Write one .safetensors file, all or nothing; `load` reads it.

        Args:
            path: of the file.
            embed: what of CLIP goes into it: "no" (it is named, with a hash), "image" (the image tower: classes cannot
                be changed then), or "all".
            overwrite: replace an existing file.

        Raises:
            FileExistsError, OSError, WrongValue: see `file.write`; WrongValue: the name has another ending.
        """
        from .. import __version__

        if Path(path).suffix != ".safetensors":
            raise WrongValue(f"expected a name that ends in .safetensors, by which load knows it; found {str(path)!r}")
        header = file.Header(
            format=file.FORMAT,
            versions={"mocoop": __version__, "torch": torch.__version__},
            model=self.model.settings(),
            precision=self.model.precision,
            labels=self.classes_.tolist(),
            clip={},
            temperature=self.temperature_,
            threshold=self.threshold_,
            figures={**self.figures_, "tried": self.tried_},
            fit=self.fit_,
        )
        file.write(Path(path), self.model, header, embed, overwrite)

    @classmethod
    def load(
        cls,
        path: str | PathLike,
        device: str | torch.device | None = None,
        backbone: Backbone | str | None = None,
    ) -> Classifier:
        """See `load`."""
        path = hub.fetch(path) if isinstance(path, str) and path.startswith(hub.PREFIX) else Path(path)
        saved = path / file.FILE if path.is_dir() and (path / file.FILE).is_file() else path
        if saved.is_file() and saved.suffix == ".safetensors":
            return cls._from_file(saved, device, backbone)
        model = load_trained(path, device=device, backbone=backbone)
        made = cls(model.method, model.backbone.name, device=device)
        made.accept(model, model.names)
        made.history_, made.tried_, made.fit_ = [], [], {"method": model.method, "dataset": model.trained_on}
        return made

    @classmethod
    def _from_file(cls, path: Path, device: str | torch.device | None, backbone: Backbone | str | None) -> Classifier:
        model, header = file.read(path, device, backbone)
        made = cls(model.method, model.backbone.name, device=device)
        made.accept(model, header.labels)
        made.temperature_, made.threshold_, made.versions_ = header.temperature, header.threshold, header.versions
        made.figures_ = {name: value for name, value in header.figures.items() if name != "tried"}
        made.history_, made.tried_, made.fit_ = [], header.figures.get("tried", []), header.fit
        return made


def load(
    path: str | PathLike, device: str | torch.device | None = None, backbone: Backbone | str | None = None
) -> Classifier:
    """A classifier that can predict, from what was left behind.

    Args:
        path: a file of `Classifier.save`, a folder with such a `classifier.safetensors`, the folder of a run of
            `train.py` or of a protocol, a checkpoint, or "hf://OWNER/NAME" of the Hugging Face Hub.
        device: where it goes (default: a GPU if there is one).
        backbone: CLIP, or its name, where the stored name does not lead to it.

    Raises:
        FileNotFoundError: there is nothing of the kind.
        ValueError: it is damaged, of a later version, or CLIP here is another one.
    """
    return Classifier.load(path, device, backbone)


def check_finite(probabilities: Tensor, names: Sequence[str]) -> None:
    """Refuse probabilities [B, C] that are no numbers; `names` of the images.

    Raises:
        WrongValue: with the first such image.
    """
    wrong = (~probabilities.isfinite().all(1)).nonzero()[:, 0].tolist()
    if wrong:
        raise WrongValue(
            f"no probabilities come of {names[wrong[0]]}: the numbers of the trained model, or those of the image, are "
            "too large (a tensor that is taken as prepared has numbers of about -3 to 3)"
        )


def hand_over(found: list[Skipped], to: list[Skipped] | None) -> None:
    """Move what was skipped to the caller's list, if there is one."""
    if to is not None:
        to += found
    found.clear()


def level_of_caller() -> int:
    """The `stacklevel` by which a warning of the calling function names the first line outside of this folder."""
    level, frame, here = 1, sys._getframe(1), os.path.dirname(__file__)
    while frame.f_back is not None and os.path.dirname(frame.f_code.co_filename) == here:
        level, frame = level + 1, frame.f_back
    return level


def as_array(classes: Sequence[Label]) -> np.ndarray:
    """Labels as an array [C] of texts or whole numbers."""
    return np.array(list(classes))
