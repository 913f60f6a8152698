"""Decoded images kept in memory: few-shot training reads the same few hundred files in every epoch.

What is kept is what every access has in common (training: the decoded RGB image; evaluation: also its resize and
crop), so tensors are the same bit for bit with and without. A split that does not fit into DATALOADER.CACHE_MB (0 =
off) is not kept at all.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as T

BYTES_PER_PIXEL = 4  # Pillow stores RGB in four bytes
SMALLEST = 64 * 64 * BYTES_PER_PIXEL  # below any photograph: settles huge splits without opening a file


def split_fixed(transform: Any) -> tuple[Callable | None, Any]:
    """The leading steps of a pipeline that do the same to an image every time (resize, centre crop), and the rest."""
    steps = list(getattr(transform, "transforms", []))
    count = 0
    while count < len(steps) and isinstance(steps[count], T.Resize | T.CenterCrop):
        count += 1
    if count == 0:
        return None, transform
    return T.Compose(steps[:count]), T.Compose(steps[count:])


def fits(paths: Sequence[str], size: tuple[int, int] | None, budget: int) -> bool:
    """Whether all images fit into `budget` bytes.

    Args:
        paths: the files; only their headers are read.
        size: height and width if all are brought to one size, else None.
        budget: bytes.
    """
    if size is not None:
        return len(paths) * size[0] * size[1] * BYTES_PER_PIXEL <= budget
    if len(paths) * SMALLEST > budget:
        return False
    total = 0
    for path in paths:
        try:
            with Image.open(path) as image:
                total += image.width * image.height * BYTES_PER_PIXEL
        except Exception:  # the reader that comes next names the file
            continue
        if total > budget:
            return False
    return True


def read_all(read: Callable[[int], Any], count: int) -> list[Any]:
    """`[read(0), ..., read(count - 1)]`, by as many threads as there are cores; the first error is raised."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(read, range(count)))


class KeepingLoader(DataLoader):
    """A `DataLoader` that lets its data set keep its images before the first batch; workers then inherit them.

    Nothing is drawn from any random generator for that.
    """

    def __iter__(self) -> Iterator[Any]:
        self.dataset.keep()
        return super().__iter__()
