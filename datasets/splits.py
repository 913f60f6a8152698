"""Train, validation and test splits: their files, listings of folders, and CoOp's rules where there is no file.

Everything works on light `Item`s (relative path, label, class name). Dassl's `Datum`, which looks at the disk when it
is made, is created last and only for the images that are used (`base.finish`); `shots` draws what is trained on.

Differences from CoOp: a split that has to be built comes from sorted listings with a fixed seed.
"""

import os
import random
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..config.merge import shown
from ..toolbox.dassl.utils import read_json as read_json_within
from ..toolbox.dassl.utils import write_json
from .errors import DataError, DataMissing

# CoOp's first seed: where CoOp builds a split from an annotation file (not a folder listing), ours is that very split.
SPLIT_SEED = 1
MOST_BYTES = 2**29  # of a JSON file; the split of a million images has some 100 MB
# Folders that systems create: thumbnails and recycle bins of network storage, leftovers of archives. Not data.
SYSTEM_FOLDERS = frozenset({"@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN", "__MACOSX", "lost+found"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})


class Item(NamedTuple):
    """One labelled image: path relative to the image folder ("/" between parts), 0-based label, class name."""

    path: str
    label: int
    classname: str


class Split(NamedTuple):
    """Three lists of items; `val` may be empty."""

    train: list[Item]
    val: list[Item]
    test: list[Item]


# --- where the data are ----------------------------------------------------------------------------------------------


def dataset_folder(root: str, name: str, folder: str) -> Path:
    """Folder of a data set under the data root.

    Args:
        root: the data root (`DATASET.ROOT`); "~" is expanded.
        name: registry name of the data set, for the message.
        folder: its folder below the root.

    Raises:
        DataMissing: the folder does not exist.
    """
    with fetch_hint(name, root):
        return require(Path(os.path.abspath(os.path.expanduser(root))) / folder)


def require(path: Path) -> Path:
    """Return `path` if that file or folder exists; `DataMissing` otherwise."""
    if not path.exists():
        raise DataMissing(f"{path} does not exist.")
    return path


@contextmanager
def fetch_hint(name: str, root: str) -> Iterator[None]:
    """Complete a `DataMissing` raised in the block with whose data are missing and how to get them."""
    try:
        yield
    except DataMissing as error:
        place = shlex.quote(root) if root else "ROOT"
        raise DataMissing(
            f"{name}: {error}\n"
            f"Fetch and lay out the data with: python -m mocoop.datasets.prepare {name} --root {place}\n"
            "The expected folders are drawn in docs/DATASETS.md."
        ) from None


# --- reading and writing ---------------------------------------------------------------------------------------------


def read_json(path: str | Path) -> object:
    """Read a JSON file.

    Raises:
        DataError: the file is cut short, too long, nested too deep or is not JSON.
    """
    try:
        return read_json_within(path, MOST_BYTES)
    except ValueError as error:
        raise DataError(f"{path} is not a whole JSON file ({error}). Delete it or fetch it again.") from None


def save_split(path: str | Path, train: Iterable[Item], val: Iterable[Item], test: Iterable[Item]) -> None:
    """Write a split as CoOp's split_zhou_*.json: {"train": [[path, label, class name], …], "val": …, "test": …}."""
    write_json({"train": list(train), "val": list(val), "test": list(test)}, path)


def read_split(path: str | Path, image_dir: str | Path) -> Split:
    """Read a split JSON; the order of its lists is kept, since the few-shot draw depends on it.

    Args:
        path: the JSON file.
        image_dir: folder to which its paths are relative.

    Raises:
        DataError: not a split (keys, entries), cut short, or a path that leaves `image_dir`.
        DataMissing: it names images that do not exist (all are counted, ten are named).
    """
    split = read_items(path)
    check_images(image_dir, [item.path for part in split for item in part], f"listed in {path}")
    return split


def read_items(path: str | Path) -> Split:
    """Read a split JSON, whether or not its images exist; see `read_split`.

    Raises:
        DataError: not a split (keys, entries), cut short, or a path that leaves the image folder.
    """
    raw = read_json(path)
    if not isinstance(raw, dict) or not {"train", "val", "test"} <= raw.keys():
        found = shown(sorted(raw)) if isinstance(raw, dict) else type(raw).__name__
        raise DataError(f"{path}: expected an object with the keys train, val, test; found {found}.")
    return Split(*(to_items(raw[part], f"{path}, {part}") for part in ("train", "val", "test")))


def to_items(entries: object, where: str) -> list[Item]:
    """Check and convert the [path, label, class name] entries of a JSON list."""
    if not isinstance(entries, list):
        raise DataError(f"{where}: expected a list of [path, label, class name], found {type(entries).__name__}.")
    items = []
    for number, entry in enumerate(entries):
        match entry:
            case [str(path), int(label), str(classname)] if label >= 0:
                items.append(Item(path, label, classname))
            case _:
                raise DataError(
                    f"{where}, entry {number}: expected [path, label >= 0, class name], found {shown(entry)}."
                )
        if path.startswith("/") or ".." in path.split("/"):
            raise DataError(f"{where}, entry {number}: expected a path below the image folder, found {path!r}.")
    return items


def load_split(
    path: str | Path, image_dir: str | Path, build: Callable[[], Split], note: str = "it is not the published one"
) -> Split:
    """Read the split JSON at `path`, or build the split and save it there (atomically) if there is none.

    Args:
        path: the JSON file.
        image_dir: folder to which its paths are relative.
        build: makes the split from a folder listing or annotation files; must be deterministic.
        note: said of a split that was built.

    Raises:
        DataError, DataMissing: as `read_split`; a built split is checked alike.
    """
    if Path(path).is_file():
        return read_split(path, image_dir)
    split = build()
    check_images(image_dir, [item.path for part in split for item in part], "that the annotations name")
    if try_to(lambda: save_split(path, *split), f"the split {path}"):
        counts = f"{len(group_by_label(split.train))} classes, {'/'.join(f'{len(part):,}' for part in split)} images"
        print(f"Built a split of {counts} and saved it to {path} ({note})")
    return split


def try_to(write: Callable[[], None], what: str) -> bool:
    """Write; on a read-only or full disk print that and continue: everything written here can be made again."""
    try:
        write()
        return True
    except OSError as error:
        print(f"Could not save {what} ({error.strerror or error}); continuing without it")
        return False


def check_images(image_dir: str | Path, paths: Sequence[str], which: str) -> None:
    """Check that every path exists below `image_dir`: one listing per folder instead of a look at every file.

    Raises:
        DataMissing: some do not; all are counted, ten are named.
    """
    present: dict[str, frozenset[str]] = {}
    missing = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in present:
            present[folder] = _file_names(os.path.join(image_dir, folder))
        # The second look covers file systems on which "A.JPG" and "a.jpg" are one file.
        if name not in present[folder] and not os.path.isfile(os.path.join(image_dir, path)):
            missing.append(path)
    if missing:
        named = "".join(f"\n  {path}" for path in missing[:10])
        raise DataMissing(
            f"{len(missing):,} of the {len(paths):,} images {which} do not exist under {image_dir}:"
            f"{named}{chr(10) + '  …' if len(missing) > 10 else ''}\n"
            "The images were not extracted completely, or the file belongs to another version of the data set."
        )


def _file_names(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def read_lines(path: Path) -> list[str]:
    """Lines of an annotation file without blanks at their ends; empty ones are dropped.

    Raises:
        DataMissing: no such file.
        DataError: not a text file, or empty.
    """
    try:
        lines = require(path).read_text(encoding="utf-8-sig").splitlines()  # as in `read_json`
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file ({error}). Fetch it again.") from None
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty. Fetch it again.")
    return lines


# --- making a split --------------------------------------------------------------------------------------------------


def class_folders(image_dir: str | Path, ignored: Iterable[str] = ()) -> list[str]:
    """Sorted (by code point, as Python sorts) names of the sub-folders, without hidden, ignored and system ones."""
    ignored = {*ignored, *SYSTEM_FOLDERS}
    with os.scandir(image_dir) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.name not in ignored and is_folder(e))


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder, or a link to one; links in a loop are not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def same_classes(found: Iterable[str], expected: Iterable[str], where: str) -> None:
    """Check that the class folders are the expected ones; `DataError` names the first missing and unexpected ones."""
    found, expected = set(found), set(expected)
    if found == expected:
        return
    differences = [("missing", sorted(expected - found)), ("not expected", sorted(found - expected))]
    listed = "; ".join(f"{len(names)} {what}: {', '.join(names[:10])}" for what, names in differences if names)
    raise DataError(f"{where}: expected {len(expected):,} class folders, found {len(found):,} ({listed}).")


def image_names(folder: str | Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> list[str]:
    """Sorted paths (relative to `folder`) of the image files in a folder and below, without hidden ones."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(".") or name in SYSTEM_FOLDERS:
                continue
            if entry.is_dir(follow_symlinks=False):
                found += [f"{name}/{below}" for below in image_names(entry.path, suffixes)]
            elif name[name.rfind(".") :].lower() in suffixes:
                found.append(name)
    return sorted(found)


def list_folder(
    image_dir: str | Path,
    ignored: Iterable[str] = (),
    names: Mapping[str, str] = MappingProxyType({}),
    prefix: str = "",
    suffixes: Iterable[str] = IMAGE_SUFFIXES,
) -> list[Item]:
    """Items of a folder of class folders: label = rank of the folder name, images sorted within a class.

    Args:
        image_dir: holds one folder of images per class.
        ignored: names of folders that are no classes.
        names: class name of a folder; others are called as their folder (labels do not depend on it).
        prefix: put before every path.
        suffixes: endings of image files, in small letters.

    Raises:
        DataError: no class folder, or one without images.
    """
    items, empty = [], []
    for label, folder in enumerate(class_folders(image_dir, ignored)):
        images = image_names(os.path.join(image_dir, folder), suffixes)
        name = names.get(folder, folder)
        items += [Item(f"{prefix}{folder}/{image}", label, name) for image in images]
        empty += [] if images else [folder]
    if empty:
        raise DataError(f"{image_dir}: {len(empty)} class folders hold no image: {', '.join(empty[:10])}.")
    if not items:
        raise DataError(f"{image_dir}: expected one folder of images per class, found none.")
    return items


def group_by_label(items: Iterable[Item]) -> dict[int, list[Item]]:
    """Items of each label; labels in order of first appearance, items in list order (as CoOp visits them)."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return groups


def split_folder(items: Iterable[Item], train: float = 0.5, val: float = 0.2, seed: int = SPLIT_SEED) -> Split:
    """Split every class at random 50/20/30 (CoOp's rule for data sets without official lists).

    Per class, in order of first appearance: shuffle, the first round(0.5 n) are train, the next round(0.2 n) val.

    Raises:
        DataError: a class is too small to give each part an image.
    """
    rng = random.Random(seed)
    split, small = Split([], [], []), []
    for group in group_by_label(items).values():
        rng.shuffle(group)
        first, second = round(train * len(group)), round(train * len(group)) + round(val * len(group))
        parts = group[:first], group[first:second], group[second:]
        small += [] if all(parts) else [f"{group[0].classname} ({len(group)})"]
        for whole, part in zip(split, parts, strict=True):
            whole.extend(part)
    if small:
        raise DataError(
            f"{len(small)} classes have too few images for a train/val/test split of {train:.0%}/{val:.0%}/rest "
            f"(at least 4 are needed): {', '.join(small[:10])}."
        )
    return split


def split_train_val(items: Iterable[Item], val: float = 0.2, seed: int = SPLIT_SEED) -> tuple[list[Item], list[Item]]:
    """Split off a validation set (CoOp's rule for data sets with an official train list).

    Per class, in order of first appearance: shuffle, the first round(0.2 n) are val, the rest train.

    Raises:
        DataError: a class is too small to give an image to each part.
    """
    rng = random.Random(seed)
    train_items, val_items, small = [], [], []
    for group in group_by_label(items).values():
        rng.shuffle(group)
        count = round(val * len(group))
        small += [] if 0 < count < len(group) else [f"{group[0].classname} ({len(group)})"]
        val_items += group[:count]
        train_items += group[count:]
    if small:
        raise DataError(
            f"{len(small)} classes have too few training images to split {val:.0%} off for validation "
            f"(at least 3 are needed): {', '.join(small[:10])}."
        )
    return train_items, val_items


def label_names(split: Split, where: str) -> list[str]:
    """All class names of a split in label order, from its training items; equal names of different labels are kept.

    Raises:
        DataError: nothing to train on or to test, labels with gaps, two names for a label, or a label of val or test
            that train does not have.
    """
    if not split.train or not split.test:
        raise DataError(f"{where}: expected training and test images, found {len(split.train)} and {len(split.test)}.")
    names: dict[int, str] = {}
    for part, items in zip(Split._fields, split, strict=True):
        for item in items:
            known = names.setdefault(item.label, item.classname) if part == "train" else names.get(item.label)
            if known is None:
                raise DataError(f"{where}: label {item.label} ({item.classname}) is in {part} but not in train.")
            if known != item.classname:
                raise DataError(f"{where}: label {item.label} has two names, {known!r} and {item.classname!r}.")
    if gaps := sorted(set(range(max(names) + 1)) - names.keys()):
        raise DataError(
            f"{where}: labels have gaps: expected images of every label from 0 to {max(names)}, found none of "
            f"{len(gaps)} labels: {', '.join(map(str, gaps[:10]))}."
        )
    return [names[label] for label in range(len(names))]
