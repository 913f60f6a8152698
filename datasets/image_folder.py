"""A user's own images: folders of class folders, any format that Pillow reads. The folder itself is the data root."""

import os
from collections import Counter
from pathlib import Path

from . import splits
from .base import SplitDataset
from .errors import DataError, DataMissing

SPLIT_FILE = "split_image_folder.json"
# Pillow registers these endings, but needs other programs to decode them.
NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}


class ImageFolder(SplitDataset):
    """Either `train/`, `test/` and perhaps `val/` with one folder per class each, or one folder per class alone.

    The second form is split 50/20/30 per class; the split is saved beside the class folders. Class names are folder
    names, or come from `classnames.txt` ("folder name of the class" on each line) or `classnames.json`.
    """

    @classmethod
    def load(cls, root: str, save: bool = True) -> tuple[Path, Path, splits.Split]:
        """Read the full split; `root` is the folder of images. Returns it twice, and the split.

        Args:
            root: the folder of images.
            save: write down a split that is made (False: for a check only).

        Raises:
            DataMissing, DataError: something is missing or broken.
        """
        folder = Path(os.path.abspath(os.path.expanduser(root)))
        if not root or not folder.is_dir():
            raise DataMissing(
                f"ImageFolder: {folder if root else 'no folder given'}{' is not a folder' if root else ''}.\n"
                "Give the folder of your images with --root: it holds train/ and test/ (and maybe val/) with one "
                "folder per class each, or one folder per class alone. See docs/DATASETS.md."
            )
        return folder, *cls.read(folder, save)

    @classmethod
    def read(cls, folder: Path, save: bool = True) -> tuple[Path, splits.Split]:
        """Read the split from a folder of images; see `load`. Returns (image folder, split)."""
        present = set(splits.class_folders(folder))
        if {"train", "test"} <= present:
            return folder, read_parts(folder)
        if stray := [part for part in ("train", "test") if part in present and splits.class_folders(folder / part)]:
            raise DataError(
                f"{folder} has {stray[0]}/ with folders in it, but no {'test' if stray == ['train'] else 'train'}/. "
                "Expected train/ and test/ with one folder per class each, or class folders alone."
            )
        return folder, read_classes(folder, save)


def read_parts(folder: Path) -> splits.Split:
    """Read train/, test/ and, if it is there, val/. All classes are needed in train and test, some in val.

    Raises:
        DataError: the class folders differ, hold no image, or are not those of the names file.
    """
    train = splits.class_folders(folder / "train")
    names = class_names(folder, train)
    splits.same_classes(splits.class_folders(folder / "test"), train, f"{folder / 'test'} (compared with train)")
    label = {name: rank for rank, name in enumerate(train)}
    parts = {}
    for part in ("train", "val", "test"):
        here = splits.class_folders(folder / part) if (folder / part).is_dir() else []
        if unknown := sorted(set(here) - set(train)):
            raise DataError(f"{folder / part}: {', '.join(unknown[:10])}: no such class folder in train.")
        listed = list_images(folder / part, names, f"{part}/") if here else []
        # A label is the rank of the folder in train; in val some classes may lack.
        parts[part] = [item._replace(label=label[item.path.split("/")[1]]) for item in listed]
    return splits.Split(**parts)


def read_classes(folder: Path, save: bool = True) -> splits.Split:
    """Read class folders alone: split them (and save that), or read the split that was saved when first seen."""
    names = class_names(folder, [name for name in splits.class_folders(folder) if name != "split_fewshot"])
    listed = list_images(folder, names)
    if not save and not (folder / SPLIT_FILE).is_file():
        return splits.split_folder(listed)
    split = splits.load_split(
        folder / SPLIT_FILE, folder, lambda: splits.split_folder(listed), "it is used from now on"
    )
    if added := {item.path for item in listed} - {item.path for part in split for item in part}:
        print(
            f"{len(added)} images, for example {min(added)}, were added after {folder / SPLIT_FILE} was made and are "
            "not used. Delete that file to split anew (and train anew: test images may have been training images)."
        )
    # The names file may have changed since the split was saved; folders and labels have not.
    return splits.Split(*([i._replace(classname=names[i.path.split("/")[0]]) for i in part] for part in split))


def list_images(folder: Path, names: dict[str, str], prefix: str = "") -> list[splits.Item]:
    """Items of class folders: every file whose ending Pillow decodes. Says which endings were passed over."""
    suffixes = readable_suffixes()
    items = splits.list_folder(folder, ("split_fewshot",), names, prefix, suffixes)
    files = (name for c in names for _, _, found in os.walk(folder / c) for name in found if not name.startswith("."))
    passed = Counter(ending for name in files if (ending := os.path.splitext(name)[1].lower()) not in suffixes)
    if passed:
        endings = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in passed.most_common(5))
        print(f"{folder}: passed over {passed.total()} files that Pillow does not decode ({endings})")
    return items


def readable_suffixes() -> frozenset[str]:
    """Endings of the image formats that this Pillow decodes, with the dot, in small letters."""
    from PIL import Image

    return frozenset(
        suffix
        for suffix, form in Image.registered_extensions().items()
        if form in Image.OPEN and form not in NOT_DECODED
    )


def class_names(folder: Path, classes: list[str]) -> dict[str, str]:
    """Class name of each class folder: from classnames.json, else classnames.txt, else the folder's own.

    Raises:
        DataError: the file leaves a class out, names one that does not exist, or names one twice.
    """
    if (folder / "classnames.json").exists():
        path = folder / "classnames.json"
        names = splits.read_json(path)
        if not isinstance(names, dict) or not all(isinstance(name, str) and name for name in names.values()):
            raise DataError(f'{path}: expected an object {{"folder": "name of the class"}}.')
    elif (folder / "classnames.txt").exists():
        path = folder / "classnames.txt"
        names = read_names(path, classes)
    else:
        return {name: name for name in classes}
    if missing := sorted(set(classes) - names.keys()):
        raise DataError(f"{path}: no name for {len(missing)} class folders: {', '.join(missing[:10])}.")
    if unknown := sorted(names.keys() - set(classes)):
        raise DataError(f"{path}: {len(unknown)} names without a class folder: {', '.join(unknown[:10])}.")
    return names


def read_names(path: Path, classes: list[str]) -> dict[str, str]:
    """Read "folder name of the class" lines; since folders may hold blanks, the longest folder that fits is meant."""
    names = {}
    for number, line in enumerate(splits.read_lines(path), 1):
        fitting = [name for name in classes if line.startswith((f"{name} ", f"{name}\t"))]
        if not fitting:
            raise DataError(f'{path}, line {number}: expected a class folder, a blank and a name, found "{line}".')
        name = max(fitting, key=len)
        if name in names:
            raise DataError(f'{path}, line {number}: class folder "{name}" has two names.')
        names[name] = line[len(name) :].strip()
    return names
