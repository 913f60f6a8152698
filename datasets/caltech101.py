"""Caltech101 (Fei-Fei et al. 2004): 100 classes of objects, split 50/20/30 per class."""

from pathlib import Path

from . import splits
from .base import SplitDataset

# CoOp leaves out the background folder and the second folder of faces.
IGNORED = ("BACKGROUND_Google", "Faces_easy")
NAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}


class Caltech101(SplitDataset):
    """Label = rank of the folder name before renaming, so capital letters come first."""

    dataset_dir = "caltech-101"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images = splits.require(folder / "101_ObjectCategories")

        def build() -> splits.Split:
            return splits.split_folder(splits.list_folder(images, IGNORED, NAMES))

        return images, splits.load_split(folder / "split_zhou_Caltech101.json", images, build)
