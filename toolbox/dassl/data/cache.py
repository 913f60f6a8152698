"""A cache of decoded images, and workers that live as long as the run.

Few-shot training reads the same few hundred files in every epoch. What is kept is what every access has in common
(training: the decoded RGB image; evaluation: also its resize and crop), so tensors are the same bit for bit with and
without. DATALOADER.CACHE_MB (0 = off) bounds what a run keeps of all its splits together; a split that does not fit is
kept as far as it does. Worker processes share that memory, they hold no copies.
"""

import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, get_worker_info
from torchvision import transforms as T

from ..utils import cores, readable_formats

BYTES_PER_PIXEL = 4  # Pillow stores RGB in four bytes


class CacheBudget:
    """How much a run may still cache: one budget for all its loaders.

    Args:
        megabytes: bound of all of them together.
    """

    def __init__(self, megabytes: int) -> None:
        self.left = megabytes * 2**20


def split_fixed(transform: Any) -> tuple[Callable | None, Any]:
    """The leading steps of a pipeline that do the same to an image every time (resize, centre crop), and the rest."""
    steps = list(getattr(transform, "transforms", []))
    count = 0
    while count < len(steps) and isinstance(steps[count], T.Resize | T.CenterCrop):
        count += 1
    if count == 0:
        return None, transform
    return T.Compose(steps[:count]), T.Compose(steps[count:])


def how_many_fit(paths: Sequence[str], size: tuple[int, int] | None, budget: int) -> tuple[int, int]:
    """How many images, from the first on, fit into `budget` bytes, and how many bytes these take.

    Args:
        paths: the files; only the headers of those that fit (and one more) are read.
        size: height and width if all are brought to one size (nothing is read then), else None.
        budget: bytes.
    """
    taken = 0
    for count, path in enumerate(paths):
        needed = taken + (_bytes(path) if size is None else size[0] * size[1] * BYTES_PER_PIXEL)
        if needed > budget:
            return count, taken
        taken = needed
    return len(paths), taken


def _bytes(path: str) -> int:
    try:
        with Image.open(path, formats=readable_formats()) as image:
            return image.width * image.height * BYTES_PER_PIXEL
    except Exception:  # the reader that comes next names the file
        return 0


def read_all(read: Callable[[int], Any], count: int) -> list[Any]:
    """`[read(0), ..., read(count - 1)]`, by as many threads as there are cores; the first error is raised."""
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(read, range(count)))


class EpochSeed:
    """Seeds workers that outlive an epoch as new ones would be: results do not depend on whether workers persist.

    torch seeds workers when they start, by a number drawn from its global generator, and never again. This number is in
    shared memory: the main process renews it, the workers read it.
    """

    def __init__(self) -> None:
        self.value = torch.zeros((), dtype=torch.int64).share_memory_()
        self.seen = 0  # the workers that start with it have been seeded by torch

    def renew(self) -> None:
        """Draw the number that new workers would have been given."""
        self.value.random_()

    def apply(self) -> None:
        """In a worker: seed its generators if there is a number it has not seen."""
        base, worker = int(self.value), get_worker_info()
        if worker is None or base == self.seen:
            return
        from torch.utils.data._utils.worker import _generate_state  # how torch seeds numpy

        self.seen = base
        random.seed(base + worker.id)
        torch.manual_seed(base + worker.id)
        np.random.seed(_generate_state(base, worker.id))


def start_method() -> str:
    """How workers start: as the program has chosen, else on Linux by fork, so that they share memory.

    (Python 3.14 starts them otherwise even there.)
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    return chosen or ("fork" if sys.platform == "linux" else multiprocessing.get_start_method())


class CachingLoader(DataLoader):
    """A `DataLoader` that lets its data set cache its images before the first batch; workers inherit them and persist.

    Nothing is drawn from any random generator for the keeping, and persistent workers draw what new ones would. Where
    workers do not start by fork (macOS, Windows) they could not share the images, so with workers none are kept.

    Args:
        dataset: a `DatasetWrapper`.
        persistent_workers: False to start the workers anew in every epoch, as Dassl does.
        others: of `DataLoader`.
    """

    def __init__(self, dataset: Any, num_workers: int = 0, persistent_workers: bool = True, **others: Any) -> None:
        if num_workers > 0:
            others = {"persistent_workers": persistent_workers, "multiprocessing_context": start_method(), **others}
        super().__init__(dataset, num_workers=num_workers, **others)
        self._whole = True  # whether the last pass came to its end

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers == 0 or start_method() == "fork":
            self.dataset.fill_cache()
        if not self.persistent_workers:
            return super().__iter__()
        if not self._whole:  # these workers are still busy with the last pass, and have drawn random numbers for it
            self._iterator = None
        if self._iterator is None:
            self._seed = self.dataset.epoch_seed = EpochSeed()  # the workers that start now inherit it
        else:
            self._seed.renew()
        self._whole = False
        return self._pass(super().__iter__())

    def _pass(self, batches: Iterator[Any]) -> Iterator[Any]:
        yield from batches
        self._whole = True
