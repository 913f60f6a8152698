"""Files, names and seeds. Nothing here imports torch until a function needs it."""

import difflib
import json
import os
import platform
import random
import re
import stat
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import WrongValue
from .images import ImageError, read_image

__all__ = [
    "ImageError",
    "atomic_write",
    "check_availability",
    "check_isfile",
    "check_writable",
    "collect_env_info",
    "cores",
    "did_you_mean",
    "download_url",
    "get_most_similar_str_to_a_from_b",
    "listdir_nohidden",
    "keep_freed_memory",
    "mkdir_if_missing",
    "nearest",
    "printable",
    "read_image",
    "read_json",
    "remove_leftovers",
    "set_random_seed",
    "tolist_if_not",
    "unreadable",
    "write_json",
    "write_text",
]

LONGEST_NAME = 200  # that a similar one is sought for
LEFTOVERS = (f".{'[0-9a-f]' * 12}.tmp.*", f".probe-{'[0-9a-f]' * 32}")  # of `atomic_write`, of `check_writable`


def mkdir_if_missing(directory: str | os.PathLike) -> None:
    """Create a folder and its parents; an existing one, or the empty name (here), is fine."""
    if os.fspath(directory):
        os.makedirs(directory, exist_ok=True)


def check_writable(directory: str | os.PathLike) -> None:
    """Create an output folder if needed and write to it once, so that a run fails before it has computed anything.

    Raises:
        OSError: naming the folder and the reason, if it cannot be created or written to.
    """
    probe = Path(directory) / f".probe-{uuid.uuid4().hex}"
    try:
        mkdir_if_missing(directory)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f'Cannot write to the output folder "{directory}": {error.strerror or error}. '
            "Choose another folder or change its permissions."
        ) from error


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[str]:
    """Write a file all or nothing: yields a temporary path in the same folder, which replaces `path` on success.

    Args:
        path: the file to write; its folder is created.

    Yields:
        The temporary path (its name ends like `path`'s, since some writers choose the format by the suffix). On an
        error it is removed and `path` keeps what it had. What killed processes have left of the same file goes with
        the next success, an hour later or more.
    """
    folder, name = os.path.split(os.fspath(path))
    mkdir_if_missing(folder)
    temporary = os.path.join(folder, f".{uuid.uuid4().hex[:12]}.tmp.{name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        remove_abandoned(folder or ".", name)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def remove_abandoned(folder: str, name: str, seconds: float = 3600) -> None:
    """Remove temporary files of `atomic_write` for a file `name` of a folder that nobody has written to for so long."""
    ours = re.compile(rf"\.[0-9a-f]{{12}}\.tmp\.{re.escape(name)}")
    for path in (Path(folder, other) for other in os.listdir(folder) if ours.fullmatch(other)):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove what killed processes have left of `atomic_write` and `check_writable` in a folder and those below.

    Args:
        folder: that no other process writes to.
    """
    for pattern in LEFTOVERS:
        for path in Path(folder).rglob(pattern):
            path.unlink(missing_ok=True)


def check_isfile(fpath: str) -> bool:
    """Whether a file exists; warns if not."""
    exists = os.path.isfile(fpath)
    if not exists:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return exists


def read_json(fpath: str | os.PathLike, most_bytes: int = 2**26) -> Any:
    """Read a JSON file.

    Args:
        fpath: the file; most_bytes: how long it may be.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is no regular file (but a pipe, a device), too long, nested too deep, or no JSON.
    """
    if not stat.S_ISREG(os.stat(fpath).st_mode):
        raise WrongValue("it is no regular file")
    with open(fpath, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise WrongValue(f"it has more than {most_bytes:,} bytes")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise WrongValue(f"it is no JSON: {error!s:.200}") from error


def write_text(text: str, fpath: str | os.PathLike) -> None:
    """Write a text file atomically, in UTF-8; its folder is created."""
    with atomic_write(fpath) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


def write_json(obj: Any, fpath: str | os.PathLike) -> None:
    """Write a JSON file atomically, indented by 4; its folder is created."""
    with atomic_write(fpath) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(obj, file, indent=4, separators=(",", ": "))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next tensors, instead of returning it to the system every time.

    glibc gives large blocks back at once and asks for them anew, page by page, in the next operation: a large training
    step on a CPU spends a third of its time on that. The process then holds its peak until it ends.

    Returns:
        Whether the C library has taken the setting (glibc does; others are left as they are).
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # the numbers in glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(mmap_threshold, 2**30) and mallopt(trim_threshold, 2**31 - 1))
    except (OSError, AttributeError, TypeError):
        return False


def set_random_seed(seed: int) -> None:
    """Seed Python's `random`, numpy and torch (CPU and every CUDA device), in that order.

    Args:
        seed: 0 <= seed < 2**32 (numpy's limit). 0 is a seed like any other.

    Raises:
        ValueError: for any other number, before a generator is touched (Dassl has seeded `random` by then).
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise WrongValue(
            f"Expected a seed between 0 and 2**32 - 1, found {seed!r}; for an unseeded run do not seed at all"
        )
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def download_url(url: str, dst: str, from_gdrive: bool = False) -> None:
    """Download a file, whole or not at all.

    Args:
        url: the address; a Google Drive share link or id needs `from_gdrive`.
        dst: the file to write.
        from_gdrive: fetch with gdown, which knows Google Drive's confirmation page.

    Raises:
        OSError: naming the address, if nothing could be fetched.
    """
    with atomic_write(dst) as temporary:
        if from_gdrive:
            import gdown

            if gdown.download(url, temporary, quiet=False) is None:
                raise OSError(f'Could not download "{url}" from Google Drive; fetch it by hand and save it as "{dst}"')
        else:
            from urllib.request import urlretrieve

            try:
                urlretrieve(url, temporary)
            except (OSError, ValueError) as error:
                raise OSError(
                    f'Could not download "{url}": {error}; fetch it by hand and save it as "{dst}"'
                ) from error


def collect_env_info() -> str:
    """Describe Python, torch and the hardware, one line each.

    Unlike Dassl, which prints torch's own report, no subprocess is started; that report takes seconds.
    """
    import numpy
    import PIL
    import torch
    import torchvision

    lines = [
        f"Python: {platform.python_version()} on {platform.platform()}",
        f"PyTorch: {torch.__version__} (CUDA {torch.version.cuda}, {torch.get_num_threads()} CPU threads)",
        f"torchvision: {torchvision.__version__}",
        f"numpy: {numpy.__version__}",
        f"Pillow: {PIL.__version__}",
    ]
    lines += [f"GPU {i}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return "\n".join(lines)


def listdir_nohidden(path: str, sort: bool = False) -> list[str]:
    """Names in a folder that do not start with "."; in the file system's order unless `sort`.

    Unsorted by default as in Dassl: sorting would change the few-shot draws of existing users.
    """
    items = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(items) if sort else items


def nearest(name: str, names: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names most like one that is not known, best first; one only, if that has the same letters and digits.

    By difflib's ratio of letters and digits without case (so that "vit_b16" finds "ViT-B/16"), then of the names as
    they are; the later wins a tie.

    Args:
        name: what was given; one of more than 200 letters is like no other.
        names: what there is; most: how many are wanted; cutoff: the least ratio, 0 to 1.
    """
    if len(name) > LONGEST_NAME:
        return []
    matcher, close = difflib.SequenceMatcher(b=_letters(name)), []
    for place, other in enumerate(names):
        matcher.set_seq1(_letters(other))
        if matcher.real_quick_ratio() >= cutoff and matcher.quick_ratio() >= cutoff and matcher.ratio() >= cutoff:
            close.append((matcher.ratio(), difflib.SequenceMatcher(None, other, name).ratio(), place, other))
    close.sort(reverse=True)
    return [other for *_, other in close[: 1 if close and close[0][0] == 1 else most]]


def printable(text: str) -> str:
    """A text with control characters, and what is not UTF-8, escaped as in Python ("\\x1b", "\\udcff")."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def unreadable(text: str) -> bool:
    """Whether a text holds control characters, line ends or what is not UTF-8, which no table or log can show."""
    return re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", text) is not None


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def did_you_mean(name: str, names: Iterable[str], most: int = 1, end: str = "") -> str:
    """`; did you mean X?` (or `X or Y?`) for those of `names` that are like one that is not known; else `end`."""
    close = nearest(name, names, most)
    return f"; did you mean {' or '.join(close)}?" if close else end


def get_most_similar_str_to_a_from_b(a: str, b: Sequence[str]) -> str | None:
    """Return the string of `b` most similar to `a` (see `nearest`), None if `b` is empty."""
    return next(iter(nearest(a, b, cutoff=0.0)), None)


def check_availability(requested: str, available: Sequence[str]) -> None:
    """Check a name against the choices.

    Raises:
        ValueError: listing the choices and the nearest one, if it is none of them.
    """
    if requested not in available:
        similar = get_most_similar_str_to_a_from_b(requested, available)
        raise WrongValue(f"Expected one of {list(available)}, found [{requested}] (do you mean [{similar}]?)")


def tolist_if_not(x: Any) -> list:
    """Return a list as it is and anything else as the only element of one."""
    return x if isinstance(x, list) else [x]
