"""Labels: from a folder or from lists to images, classes, and the names that prompts call them by.

Labels are what was given, texts or whole numbers: folder names, say. In prompts underscores become spaces (CoOp's
rule), and a class may have another name there (`classnames.txt` in a folder, `names` of `Classifier.fit`).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
from torch import Tensor

from ..datasets import image_folder
from ..datasets.shots import few_shot
from ..toolbox.dassl.errors import WrongValue
from .images import Images, each_image

Label = str | int


@dataclass
class Labelled:
    """N images with their labels.

    Attributes:
        images: in any form that `images` knows.
        labels: N labels as given.
        names: what prompts call a label, where that is not the label itself.
    """

    images: list[object]
    labels: list[Label]
    names: dict[Label, str]

    def classes(self) -> list[Label]:
        """The labels that occur, sorted."""
        return sorted(set(self.labels), key=lambda label: (isinstance(label, str), label))  # a mixture is refused later

    def few(self, shots: int | None, seed: int) -> Labelled:
        """At most so many images of each class, drawn as for a few-shot run; None = all of them."""
        items = [_Item(index, label) for index, label in enumerate(self.labels)]
        kept = few_shot(items, shots, random.Random(seed)) if shots is not None else items
        return self.only(item.index for item in kept)

    def only(self, indices: Iterable[int]) -> Labelled:
        """Some of the images, by their places."""
        kept = list(indices)
        return Labelled([self.images[i] for i in kept], [self.labels[i] for i in kept], self.names)


@dataclass(frozen=True)
class _Item:
    index: int
    label: Label


def labelled(images: Images, labels: Sequence[Label] | None, part: str, names: Mapping[Label, str] | None) -> Labelled:
    """Images with labels, from a folder or from lists.

    Args:
        images: a folder of class folders, or N images.
        labels: N labels; None with a folder.
        part: "train" or "test": which part of a folder is meant that has both.
        names: what prompts call a label, where that is not the label itself.

    Raises:
        FileNotFoundError, DataError, WrongValue: there is nothing, or not what was expected; says what and where.
    """
    if labels is None:
        if not isinstance(images, str | os.PathLike):
            raise WrongValue("images without labels: give labels=[...], or a folder with one folder per class")
        found = labelled_folder(Path(images), part)
        return Labelled(found.images, found.labels, {**found.names, **(names or {})})
    listed = list(each_image(images))
    plain = [plain_label(label) for label in (labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels)]
    if len(listed) != len(plain):
        raise WrongValue(f"expected one label per image, found {len(listed)} images and {len(plain)} labels")
    if not listed:
        raise WrongValue("expected labelled images, found none")
    return Labelled(listed, plain, dict(names or {}))


def labelled_folder(folder: Path, part: str) -> Labelled:
    """Images of class folders; in a folder with `train/` and `test/` those of one part, which a line says.

    Raises:
        FileNotFoundError, DataError: see `datasets.image_folder`.
    """
    folder = Path(os.path.abspath(folder.expanduser()))
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; expected one with a folder of images per class")
    parts = image_folder.part_folders(folder)
    place = folder / parts.get(part, "")
    if parts:
        print(f"{folder}: {parts[part]}/ is used")
    classes = image_folder.class_folders(place, [image_folder.SHOTS], least=2 if part == "train" else 1)
    names = names_of_folders(folder, classes, strict=part == "train")
    items = image_folder.list_images(place, classes, names)
    labels: list[Label] = [classes[item.label] for item in items]
    return Labelled([str(place / item.path) for item in items], labels, {k: v for k, v in names.items() if k != v})


def names_of_folders(folder: Path, classes: list[str], strict: bool) -> dict[str, str]:
    """Class names of class folders; for evaluation some of the classes may lack, and only labels matter."""
    return image_folder.class_names(folder, classes) if strict else {name: name for name in classes}


def plain_label(label: object) -> Label:
    """A label as a text or a whole number of Python's own.

    Raises:
        WrongValue: it is neither.
    """
    if isinstance(label, str) or (isinstance(label, Integral) and not isinstance(label, bool)):
        return str(label) if isinstance(label, str) else int(label)
    raise WrongValue(f"a label is a text or a whole number, found {label!r}")


def check_classes(classes: Sequence[Label], names: Mapping[Label, str]) -> list[str]:
    """The class names for prompts, in the order of the classes.

    Args:
        classes: labels; names: of those that are not called by their label.

    Raises:
        WrongValue: there are fewer than two classes, or texts and numbers; a label stands twice; `names` knows another.
        DataError: two classes have the same prompts, or one has no name in them.
    """
    if len({isinstance(label, str) for label in classes}) > 1:
        raise WrongValue("labels are all texts or all whole numbers, found both")
    if len(classes) < 2:
        raise WrongValue(f"expected at least two classes, found {len(classes)}: {', '.join(map(repr, classes))}")
    if twice := [label for label, count in Counter(classes).items() if count > 1]:
        raise WrongValue(f"a class is named once, found twice: {', '.join(map(repr, twice[:10]))}")
    if unknown := [label for label in names if label not in classes]:
        raise WrongValue(f"names are given for {', '.join(map(repr, unknown[:10]))}: no class has this label")
    texts = [names.get(label, str(label)) for label in classes]
    how = "Give other labels, or names={label: name}."
    image_folder.check_names({str(k): v for k, v in zip(classes, texts, strict=True)}, "class names", how)
    return texts


def as_known(labels: Sequence[Label], classes: Sequence[Label]) -> list[Label]:
    """Labels of folders as a classifier calls its classes: `red_fox` is "red fox" where only this one is known.

    (Runs of `train.py` know their classes by what prompts call them.)

    Raises:
        WrongValue: two labels are the same class.
    """
    spaced = {label: label.replace("_", " ") for label in set(labels) if isinstance(label, str)}
    meant = {label: text for label, text in spaced.items() if label not in classes and text in classes}
    for label, text in meant.items():
        if twice := sorted(other for other in spaced if other != label and meant.get(other, other) == text):
            raise WrongValue(f"{label!r} and {twice[0]!r} are both the class {text!r}: put their images together")
    return [meant.get(label, label) for label in labels]


def positions(labels: Iterable[Label], classes: Sequence[Label]) -> list[int]:
    """The place of each label among the classes.

    Raises:
        WrongValue: a label is none of them.
    """
    place = {label: i for i, label in enumerate(classes)}
    found = list(labels)
    if unknown := sorted({repr(label) for label in found if label not in place}):
        raise WrongValue(
            f"{len(unknown)} labels are no class of this classifier: {', '.join(unknown[:10])}; its classes are "
            f"{', '.join(map(repr, classes[:10]))}{', …' if len(classes) > 10 else ''}"
        )
    return [place[label] for label in found]
