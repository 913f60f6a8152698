"""SUN397 (Xiao et al. 2010): 397 scenes, first of the official partitions."""

from pathlib import Path

from . import splits
from .base import SplitDataset
from .splits import Item


class SUN397(SplitDataset):
    """Official test list 01; validation is split off training list 01."""

    dataset_dir = "sun397"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images = splits.require(folder / "SUN397")

        def build() -> splits.Split:
            classes = [line.removeprefix("/") for line in splits.read_lines(folder / "ClassName.txt")]
            labels = {name: label for label, name in enumerate(classes)}
            train, val = splits.split_train_val(read_list(folder / "Training_01.txt", labels))
            return splits.Split(train, val, read_list(folder / "Testing_01.txt", labels))

        return images, splits.load_split(folder / "split_zhou_SUN397.json", images, build)


def read_list(path: Path, labels: dict[str, int]) -> list[Item]:
    """Read "/a/apartment_building/outdoor/sun_x.jpg" lines; that class is called "outdoor apartment_building"."""
    items = []
    for number, line in enumerate(splits.read_lines(path), 1):
        scene, _, _ = line.removeprefix("/").rpartition("/")
        if scene not in labels:
            raise splits.DataError(
                f'{path}, line {number}: expected an image below a class of ClassName.txt, found "{line}".'
            )
        name = " ".join(reversed(scene.split("/")[1:]))
        items.append(Item(line.removeprefix("/"), labels[scene], name))
    return items
