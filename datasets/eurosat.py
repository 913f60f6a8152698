"""EuroSAT (Helber et al. 2019): 10 kinds of land use seen from a satellite, split 50/20/30 per class."""

from pathlib import Path

from . import splits
from .base import SplitDataset

NAMES = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}


class EuroSAT(SplitDataset):
    """Label = rank of the folder name; the names are CoOp's longer ones."""

    dataset_dir = "eurosat"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images = splits.require(folder / "2750")

        def build() -> splits.Split:
            splits.same_classes(splits.class_folders(images), NAMES, str(images))
            return splits.split_folder(splits.list_folder(images, names=NAMES))

        return images, splits.load_split(folder / "split_zhou_EuroSAT.json", images, build)
