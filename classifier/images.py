"""Images in any form to batches for a backbone: read ahead by threads, in order, in constant memory.

An image is a path, a Pillow image, an array [H, W] or [H, W, C] (uint8, or numbers from 0 to 1; C is 1, 3 or 4), a
uint8 tensor [3, H, W], or a floating-point tensor [3, S, S], which is taken as prepared (`Classifier.preprocess`).
Many images are a list or generator of these, an array [N, H, W, C], a tensor [N, 3, H, W], or a folder, which stands
for all images in it and below.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..clip import Preprocess
from ..clip.preprocess import build_square, normalised
from ..datasets.image_folder import usable_images
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import cores, printable, read_image
from ..toolbox.dassl.utils.images import ImageError, to_rgb

Images = Iterable[object] | str | PathLike | Image.Image | np.ndarray | Tensor
Unreadable = Literal["raise", "skip"]
In, Out = TypeVar("In"), TypeVar("Out")
CHANNELS = (1, 3, 4)  # grey, RGB, RGB and transparency
LONGEST = 200  # times as long as wide: such an image would be blown up to gigabytes before its centre is cut out


class Skipped(NamedTuple):
    """An image that could not be read: its place among the images given, its name, and the reason."""

    index: int
    name: str
    reason: str


class Batch(NamedTuple):
    """B images: their places among those given, their names (paths, or "image 3"), and pixels [B, 3, S, S]."""

    indices: list[int]
    names: list[str]
    images: Tensor


# ---- what is given
# -----------------------------------------------------------------------------------------------------------


def each_image(images: Images) -> Iterator[object]:
    """One by one, the images that an argument stands for.

    Raises:
        FileNotFoundError: a folder without images, or a path where nothing is.
        WrongValue: the argument is no image and holds none.
    """
    if isinstance(images, str | PathLike) and Path(images).is_dir():
        yield from folder_images(Path(images))
    elif is_one(images):
        yield images
    elif isinstance(images, Iterable):
        for image in images:
            yield from image if isinstance(image, Tensor) and image.dim() == 4 else (image,)
    else:
        raise WrongValue(f"expected an image, a folder or several images, found {type(images).__name__}")


def is_one(images: object) -> bool:
    """Whether an argument is a single image."""
    if isinstance(images, np.ndarray):
        return images.ndim == 2 or (images.ndim == 3 and images.shape[2] in CHANNELS)
    if isinstance(images, Tensor):
        return images.dim() == 3
    return isinstance(images, str | PathLike | Image.Image)


def folder_images(folder: Path) -> list[str]:
    """Paths of all images in a folder and below, sorted; what is passed over is printed, a line for each kind.

    Raises:
        FileNotFoundError: there is none.
    """
    passed: dict[str, list[str]] = defaultdict(list)
    found = [str(folder / name) for name in usable_images(folder, passed)]
    for reason, paths in passed.items():
        print(printable(f"{folder}: passed over {len(paths)} {reason}, for example {min(paths)}"))
    if not found:
        raise FileNotFoundError(f"{folder}: expected images in this folder or below, found none")
    return found


def name_of(image: object, index: int) -> str:
    """What to call an image in messages: its path, or its place."""
    if isinstance(image, str | PathLike):
        return str(image)
    return getattr(image, "filename", "") or f"image {index}"


# ---- one image
# ---------------------------------------------------------------------------------------------------------------


def to_image(image: object, name: str) -> Image.Image:
    """An image in any form as RGB, upright, on white where it was transparent.

    Args:
        image: see the module; name: for messages.

    Raises:
        ImageError: it cannot be read, or is none.
    """
    if isinstance(image, str | PathLike):
        opened = read_image(str(image), upright=True)
    else:
        try:
            opened = to_rgb(image if isinstance(image, Image.Image) else from_array(image), upright=True)
        except Exception as error:  # a Pillow image may be a lazily opened file, and that may be damaged in any way
            raise ImageError(f"Cannot read {name} ({error})") from error
    shorter, longer = sorted(opened.size)
    if longer > LONGEST * shorter:
        raise ImageError(
            f"Cannot use {name}: it has {opened.width} x {opened.height} pixels, expected a longer side of at most "
            f"{LONGEST} times the shorter; crop it"
        )
    return opened


def from_array(image: object) -> Image.Image:
    """An array [H, W] or [H, W, C], or a uint8 tensor [3, H, W], as a Pillow image.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] != 3:
            raise WrongValue(f"expected a tensor [3, H, W], found {list(image.shape)}")
        image = image.permute(1, 2, 0).cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise WrongValue(f"expected a path, a Pillow image, an array or a tensor, found {type(image).__name__}")
    if not (image.size and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in CHANNELS))):
        raise WrongValue(f"expected an array [H, W] or [H, W, 3], found {list(image.shape)}")
    if image.dtype != np.uint8:
        if not np.issubdtype(image.dtype, np.floating) or not (image.min() >= 0 and image.max() <= 1):
            raise WrongValue(f"expected uint8, or numbers from 0 to 1, found {image.dtype} with other values")
        image = np.rint(255 * image).astype(np.uint8)
    return Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)


def prepared(image: Tensor, size: int, name: str) -> Tensor:
    """A floating-point tensor [3, S, S] as it is.

    Raises:
        ImageError: it has another shape, or numbers that are infinite or NaN.
    """
    if image.shape != (3, size, size) or not image.isfinite().all():
        raise ImageError(
            f"Cannot use {name}: a tensor of floating-point numbers is taken as prepared and needs the shape "
            f"[3, {size}, {size}] and finite numbers, found {list(image.shape)}; give pixels as uint8"
        )
    return image.detach().float().cpu()


# ---- many images
# -------------------------------------------------------------------------------------------------------------


@dataclass
class Reader:
    """Batches of prepared images; iterating starts anew (but a generator that was given can be read once only).

    Args:
        images: see the module.
        preprocess: what images must look like.
        batch_size: images per batch; the last one may be smaller.
        workers: threads that read (None: one a core, 16 at most).
        unreadable: "raise", or "skip": the image goes to `skipped`, and others go on.
        shape: from an RGB image to one of S x S pixels, instead of the backbone's own; it runs in the calling thread,
            in order, so that it may draw random numbers.
    """

    images: Images
    preprocess: Preprocess
    batch_size: int = 64
    workers: int | None = None
    unreadable: Unreadable = "raise"
    shape: Callable[[Image.Image], Image.Image] | None = None
    skipped: list[Skipped] = field(default_factory=list)

    def __iter__(self) -> Iterator[Batch]:
        """Batches in order.

        Raises:
            ImageError: an image cannot be read, with unreadable="raise".
        """
        self.skipped = []
        for group in grouped(self.read(), self.batch_size):
            indices, names, parts = (list(column) for column in zip(*group, strict=True))
            yield Batch(indices, names, self.batch(parts))

    def read(self) -> Iterator[tuple[int, str, Tensor | np.ndarray | Image.Image]]:
        """(place, name, image) of all that can be read: prepared [3, S, S], pixels [S, S, 3], or before `shape`."""
        if self.batch_size < 1 or self.unreadable not in ("raise", "skip"):
            raise WrongValue(
                'expected batch_size >= 1 and unreadable "raise" or "skip", found '
                f"{self.batch_size!r} and {self.unreadable!r}"
            )
        work = partial(
            read_one, square=None if self.shape else build_square(self.preprocess), size=self.preprocess.size
        )
        workers = self.workers or min(16, cores())
        for index, name, found in ahead(enumerate(each_image(self.images)), work, workers, 2 * self.batch_size):
            if isinstance(found, ImageError):
                if self.unreadable == "raise":
                    raise found
                self.skipped.append(Skipped(index, name, str(found)))
            else:
                yield index, name, found

    def batch(self, parts: list) -> Tensor:
        """Images [B, 3, S, S] of B results of `read`."""
        shape = self.shape or (lambda image: image)
        pixels = {i: np.asarray(shape(part)) for i, part in enumerate(parts) if not isinstance(part, Tensor)}
        done = dict(zip(pixels, self.normalise(list(pixels.values())), strict=True)) if pixels else {}
        if len(done) == len(parts):
            return torch.stack(list(done.values()))
        return torch.stack([done.get(i, part) for i, part in enumerate(parts)])

    def normalise(self, pixels: list[np.ndarray]) -> Tensor:
        """[S, S, 3] each -> [B, 3, S, S]."""
        return normalised(torch.from_numpy(np.stack(pixels)), self.preprocess)


def read_one(numbered: tuple[int, object], square: Callable | None, size: int) -> tuple[int, str, object]:
    """Read an image in a thread: (place, name, what `Reader.read` says or the error). No torch: it would start threads.

    Args:
        numbered: place and image; square: from an RGB image to S x S pixels, None = left to the caller; size: S.
    """
    index, image = numbered
    name = name_of(image, index)
    try:
        if isinstance(image, Tensor) and image.is_floating_point():
            return index, name, prepared(image, size, name)
        opened = to_image(image, name)
        return index, name, opened if square is None else np.asarray(square(opened))
    except ImageError as error:
        return index, name, error


def ahead(items: Iterable[In], work: Callable[[In], Out], workers: int, depth: int) -> Iterator[Out]:
    """`work` of each item in order, done ahead by threads.

    Args:
        items: taken one by one in the calling thread; work: runs in a thread.
        workers: number of threads; depth: how many items are in work or done at once, at most.
    """
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def grouped(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` items; the last one may be shorter."""
    group: list[In] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
