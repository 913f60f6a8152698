"""ImageNet-Sketch (Wang et al. 2019): sketches of the 1,000 ImageNet classes."""

from pathlib import Path

from . import splits
from .base import ImageNetShift, labelled, read_classnames


class ImageNetSketch(ImageNetShift):
    """Label = rank of the WNID, hence ImageNet's; every class of classnames.txt must be there."""

    dataset_dir = "imagenet-sketch"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the test items from the folder of the data set. Returns (image folder, split)."""
        images, names = splits.require(folder / "images"), read_classnames(folder / "classnames.txt")
        splits.same_classes(splits.class_folders(images), names, str(images))
        return images, splits.Split([], [], labelled(images, names))
