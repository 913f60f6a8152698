"""FGVC Aircraft (Maji et al. 2013): 100 variants; the official train, val and test lists are used as they are."""

from pathlib import Path

from . import splits
from .base import SplitDataset
from .splits import Item


class FGVCAircraft(SplitDataset):
    """Label = line of variants.txt."""

    dataset_dir = "fgvc_aircraft"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images = splits.require(folder / "images")
        variants = splits.read_lines(folder / "variants.txt")
        labels = {name: label for label, name in enumerate(variants)}
        lists = (read_list(folder / f"images_variant_{part}.txt", labels) for part in ("train", "val", "test"))
        split = splits.Split(*lists)
        splits.check_images(images, [item.path for part in split for item in part], "that the lists name")
        return images, split


def read_list(path: Path, labels: dict[str, int]) -> list[Item]:
    """Read "1025794 707-320" lines: image stem, a space, the variant (which may hold spaces)."""
    items = []
    for number, line in enumerate(splits.read_lines(path), 1):
        stem, _, variant = line.partition(" ")
        if variant not in labels:
            raise splits.DataError(
                f'{path}, line {number}: expected an image and a variant of variants.txt, found "{line}".'
            )
        items.append(Item(f"{stem}.jpg", labels[variant], variant))
    return items
