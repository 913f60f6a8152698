"""A user's own images: folders of class folders, any format that Pillow reads. The folder itself is the data root.

Nothing is silently skipped, guessed or merged: what cannot be used is counted, in one line for each kind.
"""

import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from ..clip.tokenizer import CONTEXT_LENGTH, SpecialToken, TextTooLong, Tokenizer
from ..config.merge import shown
from ..toolbox.dassl.utils import printable, readable_formats, unreadable
from . import splits
from .base import SplitDataset
from .errors import DataError, DataMissing

SPLIT_FILE = "split_image_folder.json"
SHOTS = "split_fewshot"  # our own folder, among the class folders
# Names of the folders of the three parts, in upper or lower case.
PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
UNDECODED = "files that Pillow does not decode"
LAYOUTS = "Expected train/ and test/ (and maybe val/) with one folder per class each, or class folders alone"


class ImageFolder(SplitDataset):
    """Either `train/`, `test/` and perhaps `val/` with one folder per class each, or one folder per class alone.

    The second form is split 50/20/30 per class; the split is saved beside the class folders. Class names are folder
    names, or come from `classnames.txt` ("folder name of the class" on each line) or `classnames.json`.
    """

    upright = True  # for the loaders: EXIF rotation and transparency are applied, see `read_image`

    @classmethod
    def load(cls, root: str, save: bool = True) -> tuple[Path, Path, splits.Split]:
        """Read the full split; `root` is the folder of images. Returns it twice, and the split.

        Args:
            root: the folder of images.
            save: write down a split that is made (False: for a check only).

        Raises:
            DataMissing, DataError: something is missing or broken.
        """
        folder = Path(os.path.abspath(os.path.expanduser(root)))
        if not root or not folder.is_dir():
            raise DataMissing(
                f"ImageFolder: {folder if root else 'no folder given'}{' is not a folder' if root else ''}.\n"
                "Give the folder of your images with --root: it holds train/ and test/ (and maybe val/) with one "
                "folder per class each, or one folder per class alone. See docs/DATASETS.md."
            )
        check_readable_names([str(folder)], "the path of the folder of images")
        return folder, *cls.read(folder, save)

    @classmethod
    def read(cls, folder: Path, save: bool = True) -> tuple[Path, splits.Split]:
        """Read the split from a folder of images; see `load`. Returns (image folder, split)."""
        parts = part_folders(folder)
        if parts:
            check_other_folders(folder, set(parts.values()))
        return folder, read_parts(folder, parts) if parts else read_classes(folder, save)


# --- which layout it is ----------------------------------------------------------------------------------------------


def part_folders(folder: Path) -> dict[str, str]:
    """The folders of train, val and test, e.g. {"train": "Train", "test": "testing"}; {} for class folders alone.

    A class may be called "train" or "test": such a folder is a part only if there are class folders in it.

    Raises:
        DataError: train without test or the other way round, or two folders for one part.
    """
    present = splits.class_folders(folder)
    found = {part: [name for name in present if name.lower() in names] for part, names in PARTS.items()}
    named = [name for names in found.values() for name in names]
    if not any(splits.class_folders(folder / name) for name in named):
        if found["train"] and found["test"] and len(named) == len(present):
            raise DataError(f"{folder}: {' and '.join(f'{name}/' for name in named)} hold no class folders. {LAYOUTS}.")
        return {}
    for part, names in found.items():
        if not names and part != "val":
            held = next(name for name in named if splits.class_folders(folder / name))
            raise DataError(f"{folder} has {held}/ with folders in it, but no {part}/. {LAYOUTS}.")
        if len(names) > 1:
            raise DataError(f"{folder}: {' and '.join(names)} are both {part}. Keep one of them, or merge them.")
    return {part: names[0] for part, names in found.items() if names}


def check_other_folders(folder: Path, parts: set[str]) -> None:
    """What lies beside train/ and test/: folders of images are refused, since they look like classes; others are named.

    Args:
        folder: of images.
        parts: names of the folders of train, test and val.

    Raises:
        DataError: naming the folders of images.
    """
    report_stray_entries(folder)
    others = [name for name in splits.class_folders(folder, [SHOTS]) if name not in parts]
    if classes := [printable(name) for name in others if holds_images(folder / name)]:
        raise DataError(
            f"{folder} has {', '.join(f'{name}/' for name in sorted(parts))} and beside them {len(classes)} folders of "
            f"images: {', '.join(classes[:10])}. {LAYOUTS}; move them into the parts, or elsewhere."
        )
    if others:
        print(f"{folder}: skipped {len(others)} folders that are not a part: {', '.join(map(printable, others[:10]))}")


def check_no_parts(folder: Path, classes: list[str]) -> None:
    """Refuse folders that look like parts of the data under other names, not like classes.

    Args:
        folder: of images; classes: the folders in it.

    Raises:
        DataError: all of them hold folders and no images, or some differ only in being of train, val or test.
    """
    first = ", ".join(f"{printable(name)}/" for name in classes[:10])
    if not any(holds_images(folder / name) for name in classes) and all(
        splits.class_folders(folder / name) for name in classes
    ):
        raise DataError(
            f"{folder}: {len(classes)} folders ({first}) hold folders, but no images of their own: they look like "
            f"parts or groups of classes. {LAYOUTS}."
        )
    of_parts: dict[str, dict[str, set[str]]] = defaultdict(dict)
    for name in classes:
        parts, rest = part_words(name)
        if parts:
            of_parts[rest][name] = parts
    for found in of_parts.values():
        if len(found) > 1 and len(set().union(*found.values())) > 1:
            named = " and ".join(f"{printable(name)}/" for name in sorted(found))
            raise DataError(
                f"{folder}: {named} look like parts of the data, and would be classes. {LAYOUTS}; rename or move them."
            )


def part_words(name: str) -> tuple[set[str], str]:
    """The parts that a folder's name mentions, and its other words: "TrainSplit2" -> {"train"}, "split"."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+", name)]
    parts = {word: part for part, known in PARTS.items() for word in known}
    return {parts[word] for word in words if word in parts}, " ".join(word for word in words if word not in parts)


# --- reading the split -----------------------------------------------------------------------------------------------


def read_parts(folder: Path, parts: dict[str, str]) -> splits.Split:
    """Read train, test and, if it is there, val. All classes are needed in train and test, some in val.

    Args:
        folder: of images.
        parts: see `part_folders`.

    Raises:
        DataError: the class folders differ, hold no image, or are not those of the names file.
    """
    train = class_folders(folder / parts["train"], least=2)
    names = class_names(folder, train)
    where = f"{folder / parts['test']} (compared with {parts['train']})"
    splits.same_classes(class_folders(folder / parts["test"]), train, where)
    label = {name: rank for rank, name in enumerate(train)}
    items: dict[str, list[splits.Item]] = {part: [] for part in PARTS}
    for part, place in parts.items():
        if part == "val" and not any((folder / place).iterdir()):
            continue
        here = class_folders(folder / place)
        if unknown := sorted(set(here) - set(train)):
            raise DataError(
                f"{folder / place}: {', '.join(map(printable, unknown[:10]))}: no such class folder in "
                f"{parts['train']}."
            )
        # A label is the rank of the folder in train; val need not have all classes.
        listed = list_images(folder / place, here, names, f"{place}/")
        items[part] = [item._replace(label=label[item.path.split("/")[1]]) for item in listed]
    return splits.Split(**items)


def read_classes(folder: Path, save: bool = True) -> splits.Split:
    """Read class folders alone: split them and save the split, or read the one that was saved the first time."""
    classes = class_folders(folder, [SHOTS], least=2)
    check_no_parts(folder, classes)
    names = class_names(folder, classes)
    listed = list_images(folder, classes, names)
    path = folder / SPLIT_FILE
    if path.is_file():
        return saved_split(path, listed, names)
    split = splits.split_folder(listed)
    return splits.load_split(path, folder, lambda: split, "it is used from now on") if save else split


def saved_split(path: Path, listed: list[splits.Item], names: dict[str, str]) -> splits.Split:
    """The saved split of class folders, without the images that are gone; a line says what was added or removed.

    Args:
        path: of the split file.
        listed: the images that are there now.
        names: name of each class folder that is there now (the names file may have changed since, labels may not).

    Raises:
        DataError: a class of the split is gone, or has lost its last image of training or test.
    """
    split = splits.read_items(path)
    there, known = {item.path for item in listed}, {item.path for part in split for item in part}
    anew = "Delete that file to make a new split (and train again: test images may have been training images)."
    if added := there - known:
        print(
            f"{len(added)} images, for example {printable(min(added))}, were added after {path} was made and are not "
            f"used. {anew}"
        )
    if gone := known - there:
        print(
            f"{len(gone)} images of {path}, for example {printable(min(gone))}, are gone or cannot be used; the others "
            "stay."
        )
    kept = splits.Split(*([item for item in part if item.path in there] for part in split))
    for part in ("train", "test"):
        before, after = ({item.path.split("/")[0] for item in getattr(s, part)} for s in (split, kept))
        if lost := sorted(before - after):
            raise DataError(
                f"{path}: no {part} image is left of {len(lost)} classes: {', '.join(map(printable, lost[:10]))}. Put "
                f"some back, or {anew[0].lower()}{anew[1:]}"
            )
    return splits.Split(*([i._replace(classname=names[i.path.split("/")[0]]) for i in part] for part in kept))


# --- looking at folders ----------------------------------------------------------------------------------------------


def class_folders(folder: Path, ignored: Iterable[str] = (), least: int = 1) -> list[str]:
    """Class folders in a folder, sorted; see `splits.class_folders`. Says what else lies there.

    Args:
        folder: of class folders.
        ignored: names of folders that are not classes.
        least: number of classes that are needed, 1 or 2.

    Raises:
        DataError: there are fewer; a name is not readable; or the images of one are in another one, too (a link), and
            would have two labels.
    """
    report_stray_entries(folder)
    found = splits.class_folders(folder, ignored)
    check_readable_names(found, f"class folders in {folder}")
    if not found:
        raise DataError(f"{folder}: expected one folder of images per class, found none. {LAYOUTS}.")
    if len(found) < least:
        raise DataError(
            f"{folder}: expected at least two class folders, found one: {found[0]}. If the classes, or train/ and "
            f"test/, are in it, the folder to give is {folder / found[0]}."
        )
    check_links(folder, found)
    return found


def check_links(folder: Path, classes: list[str]) -> None:
    """Refuse class folders that are links to a folder above, or to (a part of) another class folder.

    Raises:
        DataError: naming the link, or the two class folders.
    """
    places = sorted((Path(os.path.realpath(folder / name)).parts, name) for name in classes)
    for place, name in places:
        if Path(os.path.realpath(folder)).parts[: len(place)] == place:
            raise DataError(f"{folder / name} is a link to a folder that holds it: links in a loop. Remove the link.")
    for (outer, one), (inner, other) in pairwise(places):
        if inner[: len(outer)] == outer:
            raise DataError(
                f"{folder}: the images of {other} are also those of {one} (a link), and would have two labels. Remove "
                "the link."
            )


def report_stray_entries(folder: Path) -> None:
    """Report what lies beside class folders and is not a class.

    Raises:
        DataError: a link leads nowhere; a class may be missing.
    """
    with os.scandir(folder) as entries:
        shown = sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    if broken := [printable(entry.name) for entry in shown if entry.is_symlink() and not reachable(entry)]:
        raise DataError(
            f"{folder}: {len(broken)} broken links: {', '.join(broken[:10])}. A class may be missing: repair or remove "
            "them."
        )
    if system := [entry.name for entry in shown if entry.name in splits.SYSTEM_FOLDERS]:
        print(f"{folder}: skipped folders of the system: {', '.join(system)}")
    endings = (os.path.splitext(entry.name)[1].lower() for entry in shown if not splits.is_folder(entry))
    if count := sum(ending in readable_suffixes() for ending in endings):
        print(f"{folder}: skipped {count} images that are in no class folder")


def reachable(entry: os.DirEntry) -> bool:
    """Whether there is something at an entry, or where its link leads to."""
    try:
        entry.stat()
    except OSError:  # nothing there, or links in a loop
        return False
    return True


def holds_images(folder: Path) -> bool:
    """Whether images lie in a folder (not only below it)."""
    return any(file.suffix.lower() in readable_suffixes() for file in folder.iterdir())


def list_images(folder: Path, classes: list[str], names: dict[str, str], prefix: str = "") -> list[splits.Item]:
    """Items of class folders: label = rank of the folder, images sorted within a class. Says what was skipped.

    Args:
        folder: holds the class folders.
        classes: the class folders in it, sorted.
        names: class name of each.
        prefix: put before every path.

    Raises:
        DataError: a class folder without an image that can be used.
    """
    passed: dict[str, list[str]] = defaultdict(list)
    images = {name: usable_images(folder / name, passed) for name in classes}
    for reason, paths in passed.items():
        paths = sorted(printable(os.path.relpath(path, folder)) for path in paths)
        which = f" ({common_endings(paths)})" if reason == UNDECODED else ""
        print(f"{folder}: skipped {len(paths)} {reason}{which}, for example {paths[0]}")
    if empty := [name for name in classes if not images[name]]:
        raise DataError(
            f"{folder}: {len(empty)} class folders hold no image that can be used: {', '.join(empty[:10])}."
        )
    return [
        splits.Item(f"{prefix}{name}/{image}", label, names[name])
        for label, name in enumerate(classes)
        for image in images[name]
    ]


def common_endings(paths: list[str]) -> str:
    """The five most common endings of files with their numbers, e.g. "3 .heic, 1 without ending"."""
    counts = Counter(os.path.splitext(path)[1].lower() or "without ending" for path in paths)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(5))


def usable_images(folder: Path, passed: dict[str, list[str]]) -> list[str]:
    """Sorted paths, relative to a class folder, of the images in it and below; the rest goes to `passed` by reason."""
    suffixes, found, waiting = readable_suffixes(), [], [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False) and entry.name not in splits.SYSTEM_FOLDERS:
                    waiting.append(Path(entry.path))
                elif reason := unusable(entry, suffixes):
                    passed[reason].append(entry.path)
                else:
                    found.append(entry.path[len(os.fspath(folder)) + 1 :].replace(os.sep, "/"))
    return sorted(found)


def unusable(entry: os.DirEntry, suffixes: frozenset[str]) -> str:
    """Why a file (or what else is there, but no folder) cannot be used as an image, in the plural; "" if it can."""
    if entry.name in splits.SYSTEM_FOLDERS:
        return "folders of the system (thumbnails, bins)"
    if not reachable(entry):
        return "broken links"
    state = entry.stat()
    if stat.S_ISDIR(state.st_mode):
        return "links to folders (only class folders may be links)"
    if not stat.S_ISREG(state.st_mode):
        return "pipes, sockets or devices"
    ending = os.path.splitext(entry.name)[1].lower()
    if ending not in suffixes:
        return UNDECODED
    if re.search(r"[\ud800-\udfff]", entry.path):
        return "images whose names are not UTF-8 (rename them)"
    return "" if state.st_size else "empty images (0 bytes)"


@lru_cache(maxsize=1)
def readable_suffixes() -> frozenset[str]:
    """Endings of the image formats that this Pillow decodes, with the dot, in small letters."""
    from PIL import Image

    formats = {*readable_formats()} & Image.OPEN.keys()
    return frozenset(suffix for suffix, form in Image.registered_extensions().items() if form in formats)


def check_readable_names(names: Iterable[str], what: str) -> None:
    """Refuse names with control characters or what is not UTF-8; `what` says whose names they are."""
    if strange := [printable(name) for name in names if unreadable(name)]:
        raise DataError(
            f"{printable(what)}: names that are not UTF-8, or hold control characters: {', '.join(strange[:10])}. "
            "Rename them."
        )


# --- class names -----------------------------------------------------------------------------------------------------


def class_names(folder: Path, classes: list[str]) -> dict[str, str]:
    """Class name of each class folder: from classnames.json, else classnames.txt, else the folder's own.

    Raises:
        DataError: the file leaves a class out, names one that does not exist, or names one twice; or two names read the
            same in a prompt.
    """
    if (folder / "classnames.json").exists():
        path = folder / "classnames.json"
        names = splits.read_json(path)
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise DataError(f'{path}: expected an object {{"folder": "name of the class"}}.')
    elif (folder / "classnames.txt").exists():
        path = folder / "classnames.txt"
        names = read_names(path, classes)
    else:
        path, names = folder, {name: name for name in classes}
    if missing := sorted(set(classes) - names.keys()):
        raise DataError(f"{path}: no name for {len(missing)} class folders: {', '.join(map(printable, missing[:10]))}.")
    if unknown := sorted(names.keys() - set(classes)):
        raise DataError(
            f"{path}: {len(unknown)} names without a class folder: {', '.join(map(printable, unknown[:10]))}."
        )
    check_names({name: names[name] for name in classes}, path)
    return names


def read_names(path: Path, classes: list[str]) -> dict[str, str]:
    """Read "folder name of the class" lines; since folders may hold blanks, the longest folder that fits is meant."""
    names = {}
    for number, line in enumerate(splits.read_lines(path), 1):
        fitting = [name for name in classes if line.startswith((f"{name} ", f"{name}\t"))]
        if not fitting:
            raise DataError(
                f'{path}, line {number}: expected a class folder, a blank and a name, found "{printable(line):.200}".'
            )
        name = max(fitting, key=len)
        if name in names:
            raise DataError(f'{path}, line {number}: class folder "{name}" has two names.')
        names[name] = line[len(name) :].strip()
    return names


HOW_TO_NAME = "Name the classes in classnames.txt, a line of folder and name each, or rename the folders."


def name_tokens(name: str) -> tuple[int, ...]:
    """The tokens of a class name in a prompt.

    Raises:
        SpecialToken: it holds one of CLIP's own marks.
        TextTooLong: not even the name alone fits into a prompt.
    """
    ids = Tokenizer().encode(name.replace("_", " "))
    if len(ids) > CONTEXT_LENGTH - 2:  # start and end token
        raise TextTooLong(f"{shown(name)} has {len(ids)} tokens, a prompt of CLIP holds {CONTEXT_LENGTH - 2}")
    return tuple(ids)


def check_names(names: dict[str, str], where: Path | str, how: str = HOW_TO_NAME) -> None:
    """Check that every class has a name of its own in prompts, where "red_fox", "red fox" and "Red Fox" are one.

    Args:
        names: class folder -> class name.
        where: they come from; how: to repair them, for the message.

    Raises:
        DataError: naming the class folders whose prompts are equal or hold no name, or whose names CLIP cannot take.
    """
    alike = defaultdict(list)
    check_readable_names(names.values(), f"class names in {where}")
    for folder, name in names.items():
        try:
            alike[name_tokens(name)].append(f"{folder} ({name!r})")
        except (SpecialToken, TextTooLong) as error:
            raise DataError(
                f"{where}: the name of class folder {printable(folder)} cannot be used: {error}. {how}"
            ) from None
    if () in alike:
        raise DataError(f"{where}: these class names leave nothing in a prompt: {', '.join(alike[()][:10])}. {how}")
    if equal := [" = ".join(folders) for folders in alike.values() if len(folders) > 1]:
        raise DataError(
            f"{where}: classes have the same prompts, so that no method can tell them apart: {'; '.join(equal[:10])}"
            f"{f'; and {len(equal) - 10} more such groups' if len(equal) > 10 else ''}. {how}"
        )
