"""ImageNet (ILSVRC 2012): 1,000 classes. No split is published; CoOp tests on the official validation images."""

from pathlib import Path

from . import splits
from .base import SplitDataset, labelled, read_classnames


class ImageNet(SplitDataset):
    """Train = images/train, test = images/val, and val is the test list itself (whole, whatever the shots).

    Differs from CoOp: images are listed in sorted order, not in that of the file system, so that a seed gives the same
    shots everywhere; the listing is made anew each time (seconds) and preprocessed.pkl is neither read nor written.
    """

    dataset_dir = "imagenet"
    val_is_test = True

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images, names = folder / "images", read_classnames(folder / "classnames.txt")
        for part in ("train", "val"):
            splits.same_classes(splits.class_folders(splits.require(images / part)), names, str(images / part))
        return images, splits.Split(
            labelled(images / "train", names, "train/"), [], labelled(images / "val", names, "val/")
        )
