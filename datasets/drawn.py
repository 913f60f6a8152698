"""What data sets that draw themselves share: drawn into the data root on first use, whole or not at all."""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..toolbox.dassl.utils import write_json
from . import splits
from .base import SplitDataset
from .splits import Split

NOTE = "drawn_by.json"
LEFT_BEHIND = 3600  # seconds after which a half-drawn folder is one of a process that was killed; drawing takes seconds


def draw_once(name: str, folder: Path, version: Mapping[str, int], world: str, draw: Callable[[Path], Split]) -> Path:
    """Draw a data set unless it is there. Returns its folder.

    It is built in a temporary folder beside and renamed when whole, so a half-built one never passes for a whole one.

    Args:
        name: of the data set.
        folder: where it goes.
        version: of the code and the seed, noted in the folder.
        world: what the data set belongs to, for messages.
        draw: draws the images below a folder and returns the split.

    Raises:
        DataError: the folder is there, but drawn by another version of this code, or not by it at all.
    """
    clear_leftovers(folder)
    if folder.exists():
        check_version(folder, version, world)
        return folder
    print(f"Drawing {name} into {folder} (once; nothing is downloaded)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        splits.save_split(temporary / f"split_zhou_{name}.json", *draw(temporary / "images"))
        write_json(version, temporary / NOTE)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.exists():  # else another process was faster, with the same images
                raise
        return folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while drawing a folder have left beside it."""
    for path in folder.parent.glob(f".{folder.name}.*-*.tmp"):
        if time.time() - path.stat().st_mtime > LEFT_BEHIND:
            shutil.rmtree(path, ignore_errors=True)


def check_version(folder: Path, version: Mapping[str, int], world: str) -> None:
    """Refuse a folder that other code drew: its accuracies would not compare."""
    note = folder / NOTE
    try:
        found = splits.read_json(note) if note.is_file() else None
    except splits.DataError:
        found = "a damaged file"
    if found != version:
        raise splits.DataError(
            f"{folder} was not drawn by this version of {world} (expected version {version['version']}, seed "
            f"{version['seed']} in {NOTE}, found {found}). Delete the folder; it will be drawn again in seconds."
        )


@contextmanager
def drawn_again(name: str, folder: Path) -> Iterator[None]:
    """Complete an error about what is in a folder that was drawn with how to get it whole."""
    try:
        yield
    except (splits.DataError, splits.DataMissing) as error:
        raise type(error)(
            f"{name}: {error}\nDelete the folder {folder}: it is drawn again in seconds, and runs stay as they are."
        ) from None


class DrawnSet(SplitDataset):
    """A data set that draws itself; a subclass gives `dataset_dir` and `make`."""

    @classmethod
    def make(cls, root: str) -> Path:
        """Draw the data set below the data root unless it is there. Returns its folder."""
        raise TypeError(f"{cls.__name__} does not say how it is drawn")

    @classmethod
    def load(cls, root: str) -> tuple[Path, Path, Split]:
        """Draw if missing, then read the split; see `SplitDataset.load`."""
        folder = cls.make(root)
        with drawn_again(cls.__name__, folder):
            return folder, *cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> tuple[Path, Split]:
        """Read the split from the folder of the data set. Returns (image folder, split)."""
        images = folder / "images"
        return images, splits.read_split(splits.require(folder / f"split_zhou_{cls.__name__}.json"), images)
