"""Stanford Cars (Krause et al. 2013): 196 makes, models and years."""

from pathlib import Path

from . import splits
from .base import SplitDataset, read_mat
from .splits import Item


class StanfordCars(SplitDataset):
    """Official test list; validation is split off the official training list. Paths are relative to the data set."""

    dataset_dir = "stanford_cars"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""

        def build() -> splits.Split:
            names = read_names(folder / "devkit" / "cars_meta.mat")
            train = read_annotations(folder / "devkit" / "cars_train_annos.mat", "cars_train", names)
            test = read_annotations(folder / "cars_test_annos_withlabels.mat", "cars_test", names)
            return splits.Split(*splits.split_train_val(train), test)

        return folder, splits.load_split(folder / "split_zhou_StanfordCars.json", folder, build)


def read_names(path: Path) -> list[str]:
    """Class names with the year moved to the front: "AM General Hummer SUV 2000" -> "2000 AM General Hummer SUV"."""
    names = []
    for name in read_mat(path, "class_names"):
        model, _, year = str(name).rpartition(" ")
        names.append(f"{year} {model}" if model else year)
    return names


def read_annotations(path: Path, image_dir: str, names: list[str]) -> list[Item]:
    """Items of a MATLAB struct array with the fields `fname` and `class` (1-based)."""
    items = []
    for row in read_mat(path, "annotations"):
        label = int(row["class"]) - 1
        if not 0 <= label < len(names):
            raise splits.DataError(f"{path}: expected classes from 1 to {len(names)}, found {label + 1}.")
        items.append(Item(f"{image_dir}/{row['fname']}", label, names[label]))
    return items
