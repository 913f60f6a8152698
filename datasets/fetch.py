"""Downloading and unpacking untrusted files: checked, and never incomplete under their final name."""

import errno
import lzma
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tqdm.utils import CallbackIOWrapper

from ..clip import download as http
from ..clip.download import DownloadError, hash_of, progress
from .errors import DataError
from .splits import read_json, read_lines

DRIVE = "https://drive.google.com"
FULL = (errno.ENOSPC, errno.EDQUOT)
# Names and sizes that no disk takes: too long, or a file and a folder of one name.
IMPOSSIBLE_NAMES = (None, errno.EINVAL, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


class FetchError(DataError):
    """A file could not be downloaded; the message says from where and why."""


class DiskFull(DataError):
    """There is no disk space for a file that is downloaded or unpacked."""


# --- downloads -------------------------------------------------------------------------------------------------------


def download(urls: tuple[str, ...], path: Path, md5: str = "") -> None:
    """Download the first of several addresses that works to `path`, with a progress bar.

    A broken transfer is retried, and goes on where it stopped when the command is called again. `path` appears when the
    file is whole and what it should be.

    Args:
        urls: addresses; "drive:ID" is a file on Google Drive.
        path: where the file goes.
        md5: expected MD5 checksum, if known.

    Raises:
        FetchError: no address worked; each is named with its reason.
        DiskFull: there is no room.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in urls:
        address = f"{DRIVE}/uc?id={url.removeprefix('drive:')}" if url.startswith("drive:") else url
        resume = (
            bool(md5) or is_archive(path.name) or path.name.endswith(".json")
        )  # otherwise a truncated file would not be noticed
        try:
            http.download(address, path, lambda fresh: why_wrong(fresh, path.name, md5), resume)
            return
        except DownloadError as error:
            reasons.append(f"  {address}: {error}")
        except OSError as error:
            if error.errno in FULL:
                raise DiskFull(
                    f"The disk of {path.parent} is full. Make room and run this again; it goes on."
                ) from None
            raise
    raise FetchError("\n".join(reasons))


def why_wrong(path: Path, name: str, md5: str = "") -> str:
    """Why a file is not what was asked for; "" if it is.

    It must not be a web page or empty, and have the expected checksum. Where none is known, JSON is parsed and an
    archive read to its end.

    Args:
        path: the file.
        name: what it is called once it is accepted.
        md5: expected MD5 checksum, if known.
    """
    if reason := http.why_not_the_file(path):
        return reason
    if md5:
        found = hash_of(path, "md5")
        return (
            "" if found == md5 else f"it is damaged or another version: expected the MD5 checksum {md5}, found {found}"
        )
    try:
        if name.endswith(".json"):
            read_json(path)
        elif is_archive(name):
            read_through(path)
    except DiskFull:
        raise
    except DataError as error:
        return str(error).replace(str(path), "it")
    return ""


def is_archive(name: str) -> bool:
    """Whether a file of that name is to be unpacked."""
    return bool(re.search(r"\.(zip|tar|tgz|tar\.\w+)$", name))


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
    except DataError:
        raise
    except tarfile.FilterError as error:
        raise DataError(f"{archive} is refused, since unpacking it would not be safe: {error}.") from None
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(
                f"The disk is full: {archive} could not be unpacked. Make room and run this again."
            ) from None
        if error.errno in IMPOSSIBLE_NAMES:  # gzip and bz2 say "not a gzipped file" with an OSError that has no number
            raise DataError(f"{archive} is corrupt ({error}).") from None
        raise
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError),
        *(ValueError, OverflowError, LookupError),  # from impossible numbers and names
    ) as error:
        raise DataError(f"{archive} is corrupt or cut short ({error}).") from None


def read_through(archive: Path) -> None:
    """Read an archive to its end without writing anything.

    Raises:
        DataError: corrupt, cut short or hostile.
        DiskFull: unpacked it would not fit beside it.
    """
    size = 0
    with trouble_with(archive):
        if is_zip(archive):
            with zipfile.ZipFile(archive) as zipped:
                check_room(archive, check_zip(zipped, archive), archive.parent)
                if bad := zipped.testzip():
                    raise zipfile.BadZipFile(f"bad CRC-32 of {bad!r}")
        else:
            with open_tar(archive, "Reading") as tar:
                for member in tar:
                    check_member(archive, member.name, member.isfile() or member.isdir())
                    size += member.size
                    check_room(archive, size, archive.parent)


def is_zip(archive: Path) -> bool:
    """Whether a file begins as zip files do."""
    with open(archive, "rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def check_member(archive: Path, name: str, plain: bool) -> None:
    """Refuse a member of an archive that is no plain file or folder (links, devices) or leads out of the folder.

    Raises:
        DataError: it is.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or not plain:
        raise DataError(f"{archive} is refused: {name!r} is a link or a device, or leads out of the folder.")


def check_room(archive: Path, size: int, folder: Path) -> None:
    """Check that so many bytes fit on the disk of a folder.

    Raises:
        DiskFull: they do not.
    """
    if size > (free := shutil.disk_usage(folder).free):
        raise DiskFull(f"{archive} needs {size:,} bytes unpacked; the disk of {folder} has {free:,} left.")


@contextmanager
def open_tar(archive: Path, doing: str) -> Iterator[tarfile.TarFile]:
    """A tar file, compressed or not, with a progress bar; read to its end when the block is done.

    tarfile silently stops at an unreadable or missing header, and before gzip's checksum.

    Raises:
        tarfile.ReadError: what follows the last member is not an end.
    """
    with open(archive, "rb") as file, progress(archive.stat().st_size, f"{doing} {archive.name}") as bar:
        with tarfile.open(fileobj=CallbackIOWrapper(bar.update, file, "read")) as tar:
            yield tar
            check_end(tar)


def check_end(tar: tarfile.TarFile) -> None:
    """Check that all members of a tar file were read: after them come zeros, at least one block.

    Raises:
        tarfile.ReadError: they do not.
    """
    if tar.fileobj.tell() < tar.offset + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends without the mark of an end")
    while block := tar.fileobj.read(1 << 20):
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"no header of a file at byte {tar.offset:,}")


def extract(archive: Path, target: Path) -> None:
    """Unpack a tar or zip file into an empty folder; links, devices, ways out and what does not fit are refused."""
    if is_zip(archive):
        extract_zip(archive, target)
        return
    with open_tar(archive, "Unpacking") as tar:
        for member in tar:
            extract_member(tar, member, target, archive)


def extract_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, archive: Path) -> None:
    """Unpack one member, if it is a plain file or folder, with Python's "data" filter (no path out, plain permissions).

    Links are refused although the filter allows some: it had holes (CVE-2025-4517).
    """
    if not hasattr(tarfile, "data_filter"):
        raise DataError("This Python cannot unpack archives safely; use 3.10.12, 3.11.4, 3.12 or newer.")
    check_member(archive, member.name, member.isfile() or member.isdir())
    check_room(archive, member.size, target)
    tar.extract(member, target, filter="data")


def check_zip(zipped: zipfile.ZipFile, archive: Path) -> int:
    """Check all names of a zip file; returns its size unpacked in bytes.

    Raises:
        DataError: a link, or a way out of the folder.
    """
    for member in zipped.infolist():
        kind = member.external_attr >> 28  # of the file on Unix, 0 from other systems
        check_member(archive, member.filename, kind in (0, 0o04, 0o10))
    return sum(member.file_size for member in zipped.infolist())


def extract_zip(archive: Path, target: Path) -> None:
    """Unpack a zip file into a folder; refuses what a tar may not hold either."""
    with zipfile.ZipFile(archive) as zipped:
        size = check_zip(zipped, archive)
        check_room(archive, size, target)
        with progress(size, f"Unpacking {archive.name}") as bar:
            for member in zipped.infolist():
                zipped.extract(member, target)
                bar.update(member.file_size)


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
    with open_tar(archive, "Unpacking") as outer:
        for member in outer:
            if not member.isfile():
                continue
            folder = target / PurePosixPath(member.name).stem
            folder.mkdir(exist_ok=True)
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                for image in inner:
                    extract_member(inner, image, folder, archive)
                check_end(inner)


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
