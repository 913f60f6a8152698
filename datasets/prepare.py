"""Fetch, lay out and check the benchmark's data.

    python -m mocoop.datasets.prepare NAME... | all --root data              fetch what is missing, then check
    python -m mocoop.datasets.prepare NAME... | all --root data --check      check only; nothing is fetched or written
    ... --decode                                                             when checking, decode every image
    python -m mocoop.datasets.prepare ImageFolder --root path/to/images --check --decode      a folder of your own

Names are those of the registry (OxfordPets) or of the configs (oxford_pets). Run it again after any interruption:
transfers go on where they stopped, finished parts are not touched.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ..checkout import bind_package
from ..plugin import DATASETS
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import did_you_mean, readable_formats
from . import fetch, splits
from .errors import DataError, DataMissing
from .sources import SOURCES, File

DOWNLOADS = ".downloads"
OWN = "ImageFolder"  # has nothing to fetch and no counts to be compared with, but can be checked


def dataset_class(name: str) -> type:
    """The class of a data set, by registry name."""
    module, attribute = DATASETS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def resolve(names: Sequence[str]) -> list[str]:
    """Registry names of what was asked for: registry or config names, in upper or lower case, or "all".

    Raises:
        ValueError: a name that is not known; the nearest is suggested.
    """
    known = {name.lower(): name for name in SOURCES}
    known |= {DATASETS[name].split(":")[0].rpartition(".")[2]: name for name in (*SOURCES, OWN)} | {OWN.lower(): OWN}
    found = []
    for name in names:
        if name.lower() == "all":
            found += SOURCES
        elif name.lower() in known:
            found.append(known[name.lower()])
        else:
            meant = did_you_mean(name, known.values(), end=".")
            raise WrongValue(f'"{name}" is not a data set{meant} One of: all, {", ".join(SOURCES)}.')
    return list(dict.fromkeys(found))


# --- fetching --------------------------------------------------------------------------------------------------------


def prepare(name: str, root: Path, keep: bool = False) -> list[str]:
    """Fetch and lay out what is missing of one data set.

    Args:
        name: registry name.
        root: data root.
        keep: keep downloaded archives in `.downloads` after unpacking.

    Returns:
        What could not be done, one text each.
    """
    from filelock import FileLock

    folder = root / dataset_class(name).dataset_dir
    folder.mkdir(parents=True, exist_ok=True)
    problems = []
    with FileLock(folder / ".prepare.lock"):  # a second command waits, and then finds everything done
        for file in SOURCES[name].files:
            try:
                install_file(file, folder, root, keep)
            except (DataError, DataMissing) as error:
                if file.needed or not published_split(name, folder):
                    problems.append(str(error))
                else:
                    print(f"{error}\n(Not needed: the published split is there.)")
    return problems


def published_split(name: str, folder: Path) -> bool:
    """Whether the split JSON of a data set is in its folder."""
    return any((folder / file.name).is_file() for file in SOURCES[name].files if file.name.startswith("split_zhou_"))


def install_file(file: File, folder: Path, root: Path, keep: bool) -> None:
    """Put one file, or what its archive holds, where it belongs, unless it is there.

    Raises:
        DataError: it could not be fetched or unpacked; the message says what to do.
    """
    if all((folder / path).exists() for path in file.makes or [file.name]):
        return
    if file.unless and (folder / file.unless).exists():
        return
    print(f"{folder.name}: {file.name}", flush=True)
    own, given = folder / DOWNLOADS / file.name, folder / file.name
    if given.is_file():  # put there by the user; it is not deleted
        if reason := fetch.why_wrong(given, file.name, file.md5):
            raise DataError(f"{given}: {reason.removesuffix('.')}. Fetch it again.")
        fetch.unpack(given, folder, file.makes, file.kind)
        return
    if not own.is_file():
        fetch_file(file, own, given, root)
    if not file.makes:
        os.replace(own, given)
    else:
        try:
            fetch.unpack(own, folder, file.makes, file.kind)
        except fetch.DiskFull:
            raise
        except DataError as error:
            own.unlink()
            raise DataError(f"{error} It was deleted; run this command again to fetch it anew.") from None
        if not keep:
            own.unlink()
    if not any(own.parent.iterdir()):
        own.parent.rmdir()


def fetch_file(file: File, path: Path, given: Path, root: Path) -> None:
    """Get a file from another data set that has it (classnames.txt), or download it.

    Raises:
        DataError: it has to be fetched by hand; the message says from where and where to put it.
    """
    twin = root / dataset_class("ImageNet").dataset_dir / file.name
    if file.name == "classnames.txt" and twin.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(twin.read_bytes())
        return
    try:
        if not file.urls:
            raise fetch.FetchError("  it may only be downloaded after registration")
        fetch.download(file.urls, path, file.md5)
    except fetch.FetchError as error:
        source = f" from {file.page}" if file.page else ""
        raise DataError(
            f"{file.name} could not be fetched:\n{error}\nFetch it by hand{source}, put it at {given} "
            "and run this command again."
        ) from None


# --- checking --------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What was found of one data set: counts (None = no such part or not known) and problems."""

    name: str
    classes: int | None = None
    train: int | None = None
    val: int | None = None
    test: int | None = None
    problems: list[str] = field(default_factory=list)

    def row(self) -> list[str]:
        """Cells of the table: name, four counts (with the expected one where it differs), state."""
        expected, cells = SOURCES.get(self.name), []
        for part in ("classes", "train", "val", "test"):
            found, right = getattr(self, part), getattr(expected, part, None)
            text = "-" if found is None else f"{found:,}"
            cells.append(text if found == right else f"{text} (expected {right:,})" if right is not None else text)
        return [self.name, *cells, "faulty" if self.problems else "good"]


def check(name: str, root: Path, decode: bool = False) -> Report:
    """Read a data set as a training run would, without writing anything, and compare its counts with CoOp's.

    Args:
        name: registry name.
        root: data root.
        decode: also decode every image (minutes for the large ones).
    """
    report = Report(name)
    folder = root / dataset_class(name).dataset_dir
    files = () if name == OWN else SOURCES[name].files
    missing = [f for f in files if f.name.startswith("split_zhou_") and not (folder / f.name).is_file()]
    if folder.is_dir() and missing:
        report.problems.append(
            f"{name}: {folder / missing[0].name} is missing. A run would build a split by CoOp's rules, which is not "
            "the published one."
        )
        return report
    try:
        _, image_dir, split = dataset_class(name).load(str(root), **({"save": False} if name == OWN else {}))
        if split.train:  # the shifts of ImageNet have test images only
            splits.label_names(split, name)
        splits.check_images(image_dir, [item.path for part in split for item in part], f"of {name}")
    except (DataError, DataMissing) as error:
        report.problems.append(str(error))
        return report
    items = {item.path for part in split for item in part}
    if not split.test:
        report.problems.append(f"{name}: there is no test image under {image_dir}.")
    report.classes = len({item.label for item in split.test} | {item.label for item in split.train})
    report.train, report.val, report.test = (len(part) or None for part in split)
    expected = SOURCES.get(name, report)
    if any(getattr(report, part) != getattr(expected, part) for part in ("classes", "train", "val", "test")):
        report.problems.append(f"{name}: the counts are not those of the benchmark, see the table.")
    if decode:
        bad = undecodable([os.path.join(image_dir, path) for path in sorted(items)], name)
        if bad:
            report.problems.append(f"{name}: {len(bad)} images do not decode:\n" + "\n".join(bad))
    return report


def undecodable(paths: Sequence[str], what: str) -> list[str]:
    """Decode images; returns "  path (reason)" for each that fails."""
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
        reasons = tqdm(
            pool.map(decode_error, paths), total=len(paths), desc=f"Decoding {what}", unit=" images", disable=None
        )
        return [f"  {path} ({reason})" for path, reason in zip(paths, reasons, strict=True) if reason]


def decode_error(path: str) -> str:
    """Why an image does not decode; "" if it does."""
    from PIL import Image

    try:
        with Image.open(path, formats=readable_formats()) as image:
            image.convert("RGB")
    except Exception as error:  # Pillow's plugins raise what their parsers stumble over
        return str(error) or repr(error)
    return ""


# --- the command -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if everything asked for is there and as it should be."""
    parser = argparse.ArgumentParser(
        prog="python -m mocoop.datasets.prepare",
        description="Fetch, lay out and check the benchmark's data.",
        epilog=f"NAME is all, or: {', '.join(SOURCES)} (or a config's name such as oxford_pets); with --check also "
        f"{OWN}, whose --root is the folder of images itself.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="data set, or all")
    parser.add_argument("--root", required=True, help="data root; each data set gets a folder in it")
    parser.add_argument("--check", action="store_true", help="only check what is there; fetch and write nothing")
    parser.add_argument("--decode", action="store_true", help="when checking, decode every image")
    parser.add_argument("--keep-archives", action="store_true", help="keep downloaded archives after unpacking")
    args = parser.parse_args(argv)
    try:
        names = resolve(args.names)
        if OWN in names and not args.check:
            raise WrongValue(f"{OWN} is a folder of your own: there is nothing to fetch, only to --check.")
    except WrongValue as error:
        parser.error(str(error))
    root = Path(os.path.abspath(os.path.expanduser(args.root)))
    reports = []
    try:
        for name in names:
            undone = [] if args.check else [f"{name}: {text}" for text in prepare(name, root, args.keep_archives)]
            report = check(name, root, args.decode)
            # What could not be fetched explains what is missing; it is said once.
            report.problems = undone or report.problems
            reports.append(report)
    except OSError as error:  # no right to write, disk gone
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "Stopped. Run this again to go on.\n")
    from tabulate import tabulate  # (a tenth of a second, which help need not wait for)

    print(tabulate([r.row() for r in reports], ["Data set", "classes", "train", "val", "test", "state"]))
    problems = [problem for report in reports for problem in report.problems]
    if problems:
        print("\n" + "\n\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    bind_package()
    sys.exit(main())
