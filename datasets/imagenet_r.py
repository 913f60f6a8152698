"""ImageNet-R (Hendrycks et al. 2021): paintings, toys, tattoos and other renditions of 200 ImageNet classes."""

from pathlib import Path

from . import splits
from .base import ImageNetShift, labelled, read_classnames


class ImageNetR(ImageNetShift):
    """Labels 0 to 199: rank among the classes present, so scores are over these classes only."""

    dataset_dir = "imagenet-rendition"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the test items from the folder of the data set. Returns (image folder, split)."""
        images = folder / "imagenet-r"
        return images, splits.Split([], [], labelled(images, read_classnames(folder / "classnames.txt")))
