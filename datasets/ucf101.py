"""UCF101 (Soomro et al. 2012): 101 actions, the middle frame of every video, first of the official splits."""

import re
from pathlib import Path

from . import splits
from .base import SplitDataset
from .splits import Item


class UCF101(SplitDataset):
    """Official test list 01; validation is split off training list 01."""

    dataset_dir = "ucf101"

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, splits.Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images, lists = splits.require(folder / "UCF-101-midframes"), folder / "ucfTrainTestlist"

        def build() -> splits.Split:
            labels = read_labels(lists / "classInd.txt")
            train, val = splits.split_train_val(read_list(lists / "trainlist01.txt", labels))
            return splits.Split(train, val, read_list(lists / "testlist01.txt", labels))

        return images, splits.load_split(folder / "split_zhou_UCF101.json", images, build)


def read_labels(path: Path) -> dict[str, int]:
    """Read "1 ApplyEyeMakeup" lines; labels count from 1 there and from 0 here."""
    labels = {}
    for number, line in enumerate(splits.read_lines(path), 1):
        label, _, action = line.partition(" ")
        if not label.isdigit() or not action:
            raise splits.DataError(f'{path}, line {number}: expected "label action", found "{line}".')
        labels[action] = int(label) - 1
    return labels


def read_list(path: Path, labels: dict[str, int]) -> list[Item]:
    """Read "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1" lines; the frame is Apply_Eye_Makeup/v_…_c01.jpg."""
    items = []
    for number, line in enumerate(splits.read_lines(path), 1):
        action, _, video = line.split(" ")[0].partition("/")
        if action not in labels or not video.endswith(".avi"):
            raise splits.DataError(
                f'{path}, line {number}: expected an action of classInd.txt and an .avi file, found "{line}".'
            )
        name = "_".join(re.findall("[A-Z][^A-Z]*", action))
        items.append(Item(f"{name}/{video.removesuffix('.avi')}.jpg", labels[action], name))
    return items
