"""ImageNetV2 (Recht et al. 2019), matched frequency: ten new test images for each ImageNet class."""

from pathlib import Path

from . import splits
from .base import ImageNetShift, read_classnames
from .splits import Item


class ImageNetV2(ImageNetShift):
    """Folder "7" holds the class of line 7 (from 0) of classnames.txt, which must therefore be in WNID order."""

    dataset_dir = "imagenetv2"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the test items from the folder of the data set. Returns (image folder, split)."""
        images = splits.require(folder / "imagenetv2-matched-frequency-format-val")
        names = list(read_classnames(folder / "classnames.txt").values())
        splits.same_classes(splits.class_folders(images), [str(label) for label in range(len(names))], str(images))
        items = (Item(i.path, int(i.classname), names[int(i.classname)]) for i in splits.list_folder(images))
        # The folders sort as text ("10" before "2"); items come in label order as in CoOp.
        return images, splits.Split([], [], sorted(items, key=lambda item: item.label))
