"""Getting one file over HTTP: resumed when interrupted, checked by SHA-256, never half there under its final name."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # connections that may break, as long as each brought something


class DownloadError(OSError):
    """A file could not be had: no network, not there, cut off, not what was asked for."""


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(url: str, folder: str | Path, sha256: str = "", hint: str = "") -> Path:
    """The local copy of a file; downloaded unless `folder` has it.

    A file of that name with another hash is left alone, said aloud, and the download goes to a second name that carries
    the hash. Two processes that want the same file download it once.

    Args:
        url: address; its last part is the file's name.
        folder: where the file is looked for and put; `~` is expanded.
        sha256: hash of the file in hexadecimal, or its beginning; empty: whatever the server sends is taken.
        hint: what else the user can do when the file cannot be had; ends the error text.

    Returns:
        Path of the complete, checked file.

    Raises:
        DownloadError: no way to get it, or what came is not it; says what was sought, where, and where to put it.
    """
    folder = Path(folder).expanduser()
    places, wrong = _places(folder, url.rsplit("/", 1)[-1], sha256), []
    for place in places:
        if place.is_file() and not sha256:
            return place
        if place.is_file() and (found := sha256_of(place)).startswith(sha256):
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
        with _lock(free[0]):
            if not (free[0].is_file() and sha256_of(free[0]).startswith(sha256)):  # another process was faster
                _download(url, free[0], sha256)
        return free[0]
    except OSError as error:
        raise DownloadError(_no_file(url, places, wrong, sha256, error, hint)) from error


def _places(folder: Path, filename: str, sha256: str) -> list[Path]:
    """The file's usual place, and the one for when something else has that name."""
    first = folder / filename
    return [first, first.with_name(f"{first.stem}-{sha256[:8]}{first.suffix}")] if sha256 else [first]


def _no_file(url: str, places: list[Path], wrong: list[str], sha256: str, error: OSError, hint: str) -> str:
    lines = [f"cannot get {places[0].name}: {error}", f"  sought: {url}", f"  looked in: {places[0].parent}"]
    lines += [f"  found, and not used: {what} (expected {sha256})" for what in wrong]
    free = [place for place in places if not place.exists()] or places[:1]
    check = f" (SHA-256 {sha256})" if sha256 else ""
    lines.append(f"  what to do: get the file on another machine and put it at {free[0]}{check}")
    return "\n".join(lines) + (f", {hint}" if hint else "")


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Let one process at a time download `target`; where the system has no file locks, each may."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(target.with_name(target.name + ".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(url: str, target: Path, sha256: str) -> None:
    part = target.with_name(target.name + ".part")
    resumed = bool(sha256) and part.exists() and part.stat().st_size > 0
    if not resumed:  # without a hash nobody could tell whether old and new bytes belong together
        part.unlink(missing_ok=True)
    _fill(url, part)
    found = sha256_of(part)
    if resumed and not found.startswith(sha256):  # the old beginning was of another file: once more, from the start
        part.unlink()
        _fill(url, part)
        found = sha256_of(part)
    if not found.startswith(sha256):
        size = part.stat().st_size
        part.unlink()
        raise DownloadError(
            f"the server's file ({size} bytes) has SHA-256 {found}, expected {sha256}; it was refused and deleted"
        )
    os.replace(part, target)


def _fill(url: str, part: Path) -> None:
    """Bring `part` to its full length, over as many connections as it takes while each brings something."""
    for _ in range(ATTEMPTS):
        start = part.stat().st_size if part.exists() else 0
        problem = "the connection was cut"
        try:
            if _stream(url, part, start):
                return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 416:
                raise DownloadError(f"the server answered {error.code} {error.reason}") from error
            part.unlink(missing_ok=True)  # it has no such range: the old part is longer than the file
            continue
        except urllib.error.URLError as error:
            problem = f"no connection ({error.reason})"
        except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
            problem = f"the connection was cut ({error or type(error).__name__})"
        if (part.stat().st_size if part.exists() else 0) <= start:
            break
    kept = part.stat().st_size if part.exists() else 0
    raise DownloadError(problem + (f"; {kept} bytes are kept in {part}, run again to go on from there" if kept else ""))


def _stream(url: str, part: Path, start: int) -> bool:
    """Append to `part` what one connection brings; True if the server's promised length was reached."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if response.status != 206 or not sent or int(sent[1]) != start:
            start = 0  # the server sends the whole file again
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        chunk = response.read1(CHUNK)
        _refuse_page(response.headers.get_content_type(), chunk if start == 0 else b"")
        with open(part, "ab" if start else "wb") as file, _progress(part, total, start) as bar:
            while chunk:
                file.write(chunk)
                bar.update(len(chunk))
                chunk = response.read1(CHUNK)
    return total is None or part.stat().st_size == total


def _refuse_page(content_type: str, head: bytes) -> None:
    if content_type == "text/html" or head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        title = re.search(rb"<title>(.*?)</title>", head, re.I | re.S)
        said = f" titled {title[1].decode('utf-8', 'replace').strip()!r}" if title else ""
        raise DownloadError(f"the server sent a web page{said} instead of the file (a login or proxy page?)")


def _progress(part: Path, total: int | None, start: int):  # noqa: ANN202 (a tqdm bar)
    from tqdm import tqdm

    return tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None)
