"""Oxford Flowers 102 (Nilsback and Zisserman 2008), split 50/20/30 per class, not by the official setid."""

from pathlib import Path

from . import splits
from .base import SplitDataset, read_mat
from .splits import Item


class OxfordFlowers(SplitDataset):
    """Labels from imagelabels.mat, names from cat_to_name.json; both count from 1."""

    dataset_dir = "oxford_flowers"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images = splits.require(folder / "jpg")

        def build() -> splits.Split:
            return splits.split_folder(read_labels(folder / "imagelabels.mat", folder / "cat_to_name.json"))

        return images, splits.load_split(folder / "split_zhou_OxfordFlowers.json", images, build)


def read_labels(labels: Path, names: Path) -> list[Item]:
    """Items in image order: the i-th label (i from 1) belongs to image_<i with five digits>.jpg."""
    name_of = splits.read_json(splits.require(names))
    items = []
    for number, label in enumerate(read_mat(labels, "labels"), 1):
        if str(label) not in name_of:
            raise splits.DataError(f"{names}: expected a name for label {label} of {labels}, found none.")
        items.append(Item(f"image_{number:05d}.jpg", int(label) - 1, name_of[str(label)]))
    return items
