"""Downloading and unpacking files of strangers: resumed, checked, and never half-finished under their final name."""

import errno
import hashlib
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from .errors import DataError
from .splits import read_json, read_lines

DRIVE = "https://drive.google.com"
TIMEOUT_SECONDS = 60
RETRIES = 5


class FetchError(DataError):
    """A file could not be had; the message says from where and why."""


# --- downloads -------------------------------------------------------------------------------------------------------


def download(urls: tuple[str, ...], path: Path, md5: str = "") -> None:
    """Download the first of several addresses that works to `path`, with a progress bar.

    A broken transfer is retried, and goes on where it stopped when the command is called again. `path` appears when the
    file is whole and what it should be.

    Args:
        urls: addresses; "drive:ID" is a file on Google Drive.
        path: where the file goes.
        md5: expected sum, if known.

    Raises:
        FetchError: no address worked; each is named with its reason.
        DataError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in urls:
        address = f"{DRIVE}/uc?id={url.removeprefix('drive:')}" if url.startswith("drive:") else url
        try:
            _download(address, path, md5)
            return
        except FetchError as error:
            reasons.append(f"  {address}: {error}")
    raise FetchError("\n".join(reasons))


def _download(url: str, path: Path, md5: str) -> None:
    """Download one address through gdown to a name of its own, check it, then give it its final name."""
    import gdown
    from gdown.exceptions import DownloadError

    fresh = path.with_name(f"{path.name}.unchecked")
    try:
        gdown.download(
            url=url,
            output=str(fresh),
            resume=True,
            use_cookies=False,
            timeout=TIMEOUT_SECONDS,
            retries=RETRIES,
        )
    except (DownloadError, OSError) as error:  # what requests raises is an OSError
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(f"The disk of {path.parent} is full. Make room and run this again; it goes on.") from None
        raise FetchError(_first_sentence(error)) from None
    try:
        check_download(fresh, md5)
    except FetchError:
        fresh.unlink()
        raise
    fresh.chmod(0o644)  # gdown's files are readable by their owner only, and data folders are often shared
    os.replace(fresh, path)


def _first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or repr(error)


def check_download(path: Path, md5: str = "") -> None:
    """Check that a file is what was asked for: no web page, not empty, of the expected sum, and JSON if it says so.

    Raises:
        FetchError: it is not.
    """
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        raise FetchError("the server answered with an empty file")
    if re.match(rb"\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)", head, re.IGNORECASE | re.DOTALL):
        title = re.search(rb"<title>(.*?)</title>", head, re.IGNORECASE | re.DOTALL)
        named = f' called "{title[1].decode(errors="replace").strip()}"' if title else ""
        raise FetchError(f"the server answered with a web page{named} instead of the file")
    if md5 and (found := md5_of(path)) != md5:
        raise FetchError(f"expected the MD5 sum {md5}, found {found}: the file is damaged or another version")
    if ".json" in path.suffixes:
        try:
            read_json(path)
        except DataError:
            raise FetchError("the file is no whole JSON file") from None


def md5_of(path: Path) -> str:
    """MD5 sum of a file, with a progress bar for large ones."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file, bar(path.stat().st_size, f"Checking {path.name}") as progress:
        while block := file.read(1 << 20):
            digest.update(block)
            progress.update(len(block))
    return digest.hexdigest()


def bar(size: int, what: str) -> tqdm:
    """A progress bar in bytes that goes away when done."""
    return tqdm(total=size, desc=what, unit="B", unit_scale=True, leave=False, delay=1)


# --- archives --------------------------------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path, makes: dict[str, str], kind: str = "plain") -> None:
    """Unpack an archive and move what is wanted to its place, which it takes only when everything is unpacked.

    Args:
        archive: a tar (compressed or not) or zip file.
        folder: folder of the data set.
        makes: path below `folder` -> name inside the archive; what exists already is left alone.
        kind: see `sources.File`.

    Raises:
        DataError: corrupt, cut short, hostile, without what is wanted, or the disk is full.
    """
    work = folder / f".unpacking-{archive.name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        with trouble_with(archive):
            (extract_nested if kind == "imagenet_train" else extract)(archive, work)
        if kind == "imagenet_val":
            sort_into_classes(work, validation_wnids(folder / "ILSVRC2012_devkit_t12" / "data"))
        for place, name in makes.items():
            target = folder / place
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(find(work, name, archive) if name else work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def trouble_with(archive: Path) -> Iterator[None]:
    """Turn what the archive modules raise into one `DataError` that names the archive."""
    try:
        yield
    except tarfile.FilterError as error:
        raise DataError(f"{archive} is refused, since unpacking it would not be safe: {error}.") from None
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise DataError(f"{archive} is corrupt or cut short ({error}). Delete it and fetch it again.") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"The disk is full: {archive} could not be unpacked. Make room and run this again."
            ) from None
        if error.errno is None:  # gzip and bz2 say "not a gzipped file" with an OSError that has no number
            raise DataError(f"{archive} is corrupt ({error}). Delete it and fetch it again.") from None
        raise


def extract(archive: Path, target: Path) -> None:
    """Unpack a tar or zip file into an empty folder; nothing gets out of it, links and devices included."""
    if archive.suffix == ".zip":
        extract_zip(archive, target)
        return
    with open(archive, "rb") as file, bar(archive.stat().st_size, f"Unpacking {archive.name}") as progress:
        with tarfile.open(fileobj=file) as tar:
            for member in tar:
                extract_member(tar, member, target)
                progress.update(file.tell() - progress.n)


def extract_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Unpack one member with Python's "data" filter: no path or link out of `target`, no devices, plain permissions."""
    if not hasattr(tarfile, "data_filter"):
        raise DataError("This Python cannot unpack archives safely; use 3.10.12, 3.11.4, 3.12 or newer.")
    tar.extract(member, target, filter="data")


def extract_zip(archive: Path, target: Path) -> None:
    """Unpack a zip file; refuses what a tar's "data" filter refuses, and what does not fit on the disk."""
    with zipfile.ZipFile(archive) as zipped:
        members = zipped.infolist()
        for member in members:
            path, link = PurePosixPath(member.filename.replace("\\", "/")), (member.external_attr >> 28) == 0o12
            if path.is_absolute() or ".." in path.parts or link:
                raise DataError(f"{archive} is refused: {member.filename!r} is a link or leads out of the folder.")
        size = sum(member.file_size for member in members)
        if size > (free := shutil.disk_usage(target).free):
            raise DataError(f"{archive} needs {size:,} bytes unpacked; the disk of {target.parent} has {free:,} left.")
        with bar(size, f"Unpacking {archive.name}") as progress:
            for member in members:
                zipped.extract(member, target)
                progress.update(member.file_size)


def find(folder: Path, name: str, archive: Path) -> Path:
    """Find a file or folder by name, the least deep one; failing that unpack an archive of that name and look there.

    Raises:
        DataError: nothing is called so.
    """
    level = [folder]
    while level:
        entries = sorted(entry for parent in level for entry in parent.iterdir() if entry.name != "__MACOSX")
        for entry in entries:
            if entry.name == name and not entry.is_symlink():
                return entry
        for entry in entries:
            if entry.name in (f"{name}.tar.gz", f"{name}.tgz", f"{name}.tar", f"{name}.zip") and entry.is_file():
                inner = folder / f".inner-{name}"
                inner.mkdir()
                with trouble_with(entry):
                    extract(entry, inner)
                return find(inner, name, archive)
        level = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
    top = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10])
    raise DataError(f'{archive}: expected "{name}" in it, found {top or "nothing"}.')


# --- ImageNet --------------------------------------------------------------------------------------------------------


def extract_nested(archive: Path, target: Path) -> None:
    """Unpack a tar of tars (ImageNet's training images), each into a folder of its name, without storing them."""
    with open(archive, "rb") as file, bar(archive.stat().st_size, f"Unpacking {archive.name}") as progress:
        with tarfile.open(fileobj=file) as outer:
            for member in outer:
                if not member.isfile():
                    continue
                folder = target / PurePosixPath(member.name).stem
                with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                    for image in inner:
                        extract_member(inner, image, folder)
                progress.update(file.tell() - progress.n)


def validation_wnids(devkit: Path) -> list[str]:
    """WNID of each ImageNet validation image, in the order of their numbers, from the development kit.

    Raises:
        DataError: its files are missing, broken, or name an unknown class.
    """
    from .base import read_mat

    wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in read_mat(devkit / "meta.mat", "synsets")}
    path = devkit / "ILSVRC2012_validation_ground_truth.txt"
    numbers = read_lines(path)
    if unknown := [number for number in numbers if not number.isdigit() or int(number) not in wnids]:
        raise DataError(f'{path}: expected class numbers of meta.mat, found "{unknown[0]}".')
    return [wnids[int(number)] for number in numbers]


def sort_into_classes(folder: Path, wnids: list[str]) -> None:
    """Move ILSVRC2012_val_00000001.JPEG and so on into folders by WNID.

    Raises:
        DataError: there are not as many images as labels.
    """
    images = sorted(folder.rglob("ILSVRC2012_val_*.JPEG"))
    if len(images) != len(wnids):
        raise DataError(f"{folder}: expected {len(wnids):,} validation images, found {len(images):,}.")
    for image, wnid in zip(images, wnids, strict=True):
        (folder / wnid).mkdir(exist_ok=True)
        image.rename(folder / wnid / image.name)
