"""Food-101 (Bossard et al. 2014), split 50/20/30 per class as CoOp does, not by the official lists."""

from pathlib import Path

from . import splits
from .base import SplitDataset


class Food101(SplitDataset):
    """Label = rank of the folder name."""

    dataset_dir = "food-101"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images = splits.require(folder / "images")

        def build() -> splits.Split:
            return splits.split_folder(splits.list_folder(images))

        return images, splits.load_split(folder / "split_zhou_Food101.json", images, build)
