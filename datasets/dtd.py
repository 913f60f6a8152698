"""Describable Textures (DTD, Cimpoi et al. 2014): 47 classes, split 50/20/30 per class, not by the official lists."""

from pathlib import Path

from . import splits
from .base import SplitDataset


class DescribableTextures(SplitDataset):
    """Label = rank of the folder name."""

    dataset_dir = "dtd"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images = splits.require(folder / "images")

        def build() -> splits.Split:
            return splits.split_folder(splits.list_folder(images))

        return images, splits.load_split(folder / "split_zhou_DescribableTextures.json", images, build)
