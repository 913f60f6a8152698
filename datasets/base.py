"""What the data sets share on top of `splits` and `shots`: a class reads its files, the base class does the rest."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dassl.data.datasets import DatasetBase, Datum
from yacs.config import CfgNode

from . import shots, splits
from .splits import Item, Split


class Prepared(NamedTuple):
    """What a data set hands to `DatasetBase`: lists of `Datum`, and every class name in original label order."""

    train: list
    val: list
    test: list
    all_classnames: list[str]


class SplitDataset(DatasetBase):
    """A data set with training, validation and test images. A subclass gives `dataset_dir` and `read`.

    Attributes (besides those of `DatasetBase`, whose `classnames` are the present classes):
        all_classnames: every class name in original label order, whatever half is present; duplicates kept.
    """

    dataset_dir = ""  # folder below the data root
    val_is_test = False

    def __init__(self, cfg: CfgNode):
        name = type(self).__name__
        folder, image_dir, split = self.load(cfg.DATASET.ROOT)
        data = finish(cfg, name, folder, image_dir, split)
        super().__init__(train_x=data.train, val=data.test if self.val_is_test else data.val, test=data.test)
        self.all_classnames = data.all_classnames

    @classmethod
    def load(cls, root: str) -> tuple[Path, Path, Split]:
        """Read the full split under a data root.

        Returns:
            The folder of the data set, the folder to which the items' paths are relative, and the split.

        Raises:
            DataMissing, DataError: something is missing or broken.
        """
        folder = splits.dataset_folder(root, cls.__name__, cls.dataset_dir)
        with splits.fetch_hint(cls.__name__, root):
            image_dir, split = cls.read(folder)
        return folder, image_dir, split

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        raise TypeError(f"{cls.__name__} does not say how it is read")


def finish(cfg: CfgNode, name: str, folder: str | Path, image_dir: str | Path, split: Split) -> Prepared:
    """Turn a full split into what the config asks for: shots first, then classes (so base and new share one draw).

    Args:
        cfg: reads `DATASET.NUM_SHOTS`, `SEED`, and `DATASET.SUBSAMPLE_CLASSES` where it is defined ("all" otherwise).
        name: registry name of the data set.
        folder: folder of the data set; the few-shot cache is its sub-folder `split_fewshot`.
        image_dir: folder to which the items' paths are relative.
        split: all items; an empty `val` stays empty.

    Raises:
        DataError: see `splits.label_names` and `shots.subsample`.
    """
    names = splits.label_names(split, name)
    train, val = shots.draw(split, cfg.DATASET.NUM_SHOTS, cfg.SEED, name, Path(folder) / "split_fewshot")
    classes = getattr(cfg.DATASET, "SUBSAMPLE_CLASSES", "all")
    lists = shots.subsample(classes, train, val, split.test)
    shots.report_single_class(lists[0], classes)
    return Prepared(*(to_datums(items, image_dir) for items in lists), all_classnames=names)


def to_datums(items: Iterable[Item], image_dir: str | Path) -> list:
    """Dassl's `Datum` for each item (which checks that the file exists)."""
    return [Datum(impath=os.path.join(image_dir, i.path), label=i.label, classname=i.classname) for i in items]


class ImageNetShift(SplitDataset):
    """A copy of ImageNet's test set from another source; a subclass gives `read`, whose split has only `test`.

    As in CoOp the training items are the test items (class names are derived from them), there is no validation set,
    and NUM_SHOTS and SUBSAMPLE_CLASSES have no effect. Training on it is possible; a warning is printed then.
    """

    def __init__(self, cfg: CfgNode):
        _, image_dir, split = self.load(cfg.DATASET.ROOT)
        half = getattr(cfg.DATASET, "SUBSAMPLE_CLASSES", "all")
        if half != "all":
            print(
                f"{type(self).__name__} has test images only: SUBSAMPLE_CLASSES {half} has no effect, all classes stay"
            )
        items = to_datums(split.test, image_dir)
        DatasetBase.__init__(self, train_x=items, test=items)
        self.all_classnames = splits.label_names(Split(split.test, [], split.test), type(self).__name__)


def labelled(folder: Path, names: dict[str, str], prefix: str = "") -> list[Item]:
    """Items of ImageNet-like class folders: label = rank of the folder (WNID), class name looked up.

    Args:
        folder: holds one folder of images per class.
        names: class name of each folder name, see `read_classnames`.
        prefix: put before every path.

    Raises:
        DataMissing: no such folder.
        DataError: a class folder without a name, or without images.
    """
    if unknown := [name for name in splits.class_folders(splits.require(folder)) if name not in names]:
        raise splits.DataError(
            f"{folder}: {len(unknown)} class folders are not in classnames.txt: {', '.join(unknown[:10])}."
        )
    return splits.list_folder(folder, names=names, prefix=prefix)


def read_classnames(path: Path) -> dict[str, str]:
    """Read ImageNet's classnames.txt: "n01440764 tench" on each line, the name being all after the first space.

    Raises:
        DataError: a line without a name, or a WNID that comes twice.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(splits.read_lines(path), 1):
        wnid, _, name = line.partition(" ")
        if not name or wnid in names:
            raise splits.DataError(f'{path}, line {number}: expected a new WNID, a space and a name, found "{line}".')
        names[wnid] = name
    return names


def read_mat(path: Path, key: str) -> list:
    """One variable of a MATLAB file as a list; structs are dicts.

    Raises:
        DataMissing: no such file.
        DataError: not a whole MATLAB file, or no such variable in it.
    """
    from scipy.io import loadmat

    splits.require(path)
    try:
        value = loadmat(path, simplify_cells=True)[key]
    except Exception as error:  # scipy's parser may raise anything on a broken file, OSError included
        raise splits.DataError(f'{path}: expected a MATLAB file with "{key}" ({error!r}). Fetch it again.') from None
    return [value] if isinstance(value, dict | str) else list(value)
