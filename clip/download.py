"""Getting one file over HTTP with gdown: resumed when interrupted, checked, never half there under its final name."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

TIMEOUT = 60.0  # seconds without a byte
RETRIES = 3  # broken connections before giving up, with longer pauses each time; the next call continues the download


class DownloadError(OSError):
    """A file could not be downloaded: no network, not there, cut off, or not what was asked for."""


def progress(size: int, what: str) -> tqdm:
    """A progress bar in bytes that shows after a second and goes away when done."""
    return tqdm(total=size, desc=what, unit="B", unit_scale=True, leave=False, delay=1)


def hash_of(path: str | Path, kind: str = "sha256") -> str:
    """The hash of a file ("sha256" or "md5") in hexadecimal."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file, progress(os.path.getsize(path), f"Checking {Path(path).name}") as bar:
        while block := file.read(1 << 20):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def why_not_the_file(path: Path) -> str:
    """Why what a server sent cannot be the file (it is empty, or a web page); "" if it can."""
    with open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        return "it is empty"
    if re.match(rb"\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)", head, re.IGNORECASE | re.DOTALL):
        title = re.search(rb"<title>(.*?)</title>", head, re.IGNORECASE | re.DOTALL)
        named = f' called "{title[1].decode(errors="replace").strip()}"' if title else ""
        return f"it is a web page{named} instead of the file (a login or proxy page?)"
    return ""


def download(url: str, target: Path, check: Callable[[Path], str], resume: bool = True) -> None:
    """Download one address (Google Drive's too) to `target`, which appears when the file is whole and checked.

    An interrupted transfer is continued by the next call. Where that is impossible (the server sends no ranges, or what
    is there is not the beginning of its file), it starts again.

    Args:
        url: the address.
        target: where the file goes, in a folder that exists. Only one process at a time may do this.
        check: says why the file at a path is not what was asked for; "" if it is.
        resume: whether `check` would find a file that is cut short or put together from two.

    Raises:
        DownloadError: no file came, or a wrong one, which is deleted.
        OSError: the disk is full, or the folder cannot be written.
    """
    # (a name for each address, so that parts from several mirrors are not mixed)
    fresh = target.with_name(f"{target.name}.{zlib.crc32(url.encode()):08x}")
    if not resume:
        _discard(_leftovers(fresh))
    for old in (bool(_leftovers(fresh)), False):  # first continue what is there; if that fails, start again without it
        why_not = _transfer(url, fresh) or check(fresh)
        if not why_not:
            break
        _discard(_leftovers(fresh))
        if not old:
            raise DownloadError(f"what the server sent was deleted: {why_not}")
    fresh.chmod(0o644)  # gdown's files are readable by their owner only, and such folders are often shared
    os.replace(fresh, target)
    _discard(_leftovers(target, r"\.[0-9a-f]{8}"))


def _leftovers(path: Path, mark: str = "") -> list[Path]:
    """The file at `path`, if there, and gdown's unfinished ones for it; `mark`: a pattern after its name."""
    name = re.compile(re.escape(path.name) + mark + r"(.{8}\.part)?")
    return [found for found in path.parent.iterdir() if name.fullmatch(found.name)]


def _discard(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _transfer(url: str, path: Path) -> str:
    """Bring the file at `path` to its full length; returns why what is there cannot be continued, or ""."""
    import gdown
    from requests import RequestException

    try:
        gdown.download(url=url, output=str(path), resume=True, use_cookies=False, timeout=TIMEOUT, retries=RETRIES)
    except (gdown.exceptions.DownloadError, gdown.exceptions.FileURLRetrievalError, RequestException) as error:
        if "byte range" in str(error):  # gdown's words where the server sends none, or another than was asked for
            return "the server sends no part of the file"
        kept = sum(file.stat().st_size for file in _leftovers(path))
        if not kept:
            _discard(_leftovers(path))
        more = f" ({kept:,} bytes are kept; run this again to go on from there)" if kept else ""
        raise DownloadError(_reason(error) + more) from error
    return ""


def _reason(error: Exception) -> str:
    """What went wrong on the way, in one line."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code} {response.reason}"
    text = str(error).partition("\nThe received bytes are kept")[0]  # what follows is advice about gdown's own command
    if found := re.search(r"\[Errno -?\d+\] [\w ,.-]+|timed out", text):
        return f"no connection ({found[0]})"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or repr(error)


def fetch(url: str, folder: str | Path, sha256: str = "", hint: str = "") -> Path:
    """The local copy of a file; downloaded unless `folder` has it.

    A file of that name with another hash is left alone, with a warning, and the download goes to a second name that
    contains the hash. Two processes that want the same file download it once.

    Args:
        url: address; its last part is the file's name.
        folder: where the file is looked for and put; `~` is expanded.
        sha256: hash of the file in hexadecimal, or its beginning; empty: whatever the server sends is accepted.
        hint: what else the user can do if the download fails; ends the error text.

    Returns:
        Path of the complete, checked file.

    Raises:
        DownloadError: it cannot be downloaded, or another file came; says what was wanted, from where, and where to put
        it.
    """
    from filelock import FileLock

    folder = Path(folder).expanduser()
    places, wrong = _places(folder, url.rsplit("/", 1)[-1], sha256), []
    for place in places:
        if place.is_file() and not sha256:
            return place
        if place.is_file() and (found := hash_of(place)).startswith(sha256):
            return place
        if place.exists():
            wrong.append(f"{place} is there, but its SHA-256 is {found}" if place.is_file() else f"{place} is a folder")
    free = [place for place in places if not place.exists()]
    try:
        if not free:
            raise DownloadError("no free name to download to: delete or rename the wrong files")
        if wrong:
            warnings.warn(f"{'; '.join(wrong)}, expected {sha256}. It is left alone; using {free[0]}", stacklevel=2)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{free[0]}.lock"):
            if not (free[0].is_file() and hash_of(free[0]).startswith(sha256)):  # another process was faster
                download(
                    url,
                    free[0],
                    lambda path: why_not_the_file(path) or _why_other_hash(path, sha256),
                    resume=bool(sha256),
                )
        return free[0]
    except OSError as error:
        raise DownloadError(_cannot_get(url, places, wrong, sha256, error, hint)) from error


def _why_other_hash(path: Path, sha256: str) -> str:
    """Why a file is not the one with that hash; "" if it is."""
    found = hash_of(path)
    if found.startswith(sha256):
        return ""
    size = path.stat().st_size
    return f"its {size} bytes have SHA-256 {found}, expected {sha256}"


def _places(folder: Path, filename: str, sha256: str) -> list[Path]:
    """The file's usual place, and a second one for when something else has that name."""
    first = folder / filename
    return [first, first.with_name(f"{first.stem}-{sha256[:8]}{first.suffix}")] if sha256 else [first]


def _cannot_get(url: str, places: list[Path], wrong: list[str], sha256: str, error: OSError, hint: str) -> str:
    lines = [f"cannot get {places[0].name}: {error}", f"  wanted: {url}", f"  looked in: {places[0].parent}"]
    lines += [f"  found, and not used: {what} (expected {sha256})" for what in wrong]
    free = [place for place in places if not place.exists()] or places[:1]
    check = f" (SHA-256 {sha256})" if sha256 else ""
    lines.append(f"  what to do: get the file on another machine and put it at {free[0]}{check}")
    return "\n".join(lines) + (f", {hint}" if hint else "")
