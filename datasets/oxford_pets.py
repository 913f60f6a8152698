"""Oxford-IIIT Pets (Parkhi et al. 2012): 37 breeds of cats and dogs."""

from pathlib import Path

from . import splits
from .base import SplitDataset
from .splits import Item


class OxfordPets(SplitDataset):
    """Official test list; validation is split off the official training list."""

    dataset_dir = "oxford_pets"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images, annotations = splits.require(folder / "images"), folder / "annotations"

        def build() -> splits.Split:
            train, val = splits.split_train_val(read_list(annotations / "trainval.txt"))
            return splits.Split(train, val, read_list(annotations / "test.txt"))

        return images, splits.load_split(folder / "split_zhou_OxfordPets.json", images, build)


def read_list(path: Path) -> list[Item]:
    """Read "american_bulldog_100 2 2 1" lines: image stem, 1-based class, species, breed. The stem names the class."""
    items = []
    for number, line in enumerate(splits.read_lines(path), 1):
        fields = line.split(" ")
        if len(fields) != 4 or not fields[1].isdigit() or "_" not in fields[0]:
            raise splits.DataError(
                f'{path}, line {number}: expected "image class species breed", found "{line}". Fetch the file again.'
            )
        breed = fields[0].rsplit("_", 1)[0].lower()
        items.append(Item(f"{fields[0]}.jpg", int(fields[1]) - 1, breed))
    return items
