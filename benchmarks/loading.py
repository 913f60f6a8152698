"""Images per second that our loader delivers, beside CoOp's way: first pass and later ones, with and without workers.

    python -m mocoop.benchmarks.loading
    python -m mocoop.benchmarks.loading --folder path/to/images --workers 0 4 --json loading.json
    python -m mocoop.benchmarks.loading --test

Three ways to read the same images with the same transforms:
    plain   CoOp's and Dassl's: every image decoded at every access, workers started anew in every pass
    anew    ours with DATALOADER.CACHE_MB 0: decoded at every access, workers persist
    kept    ours: decoded images are kept in memory, workers persist
They take turns, pass by pass, so that all see the same machine. Passes include starting workers and filling the memory;
only the batches are waited for, nothing is computed on them. Without --folder the images are made up: JPEGs of natural
size and grain. Files are read once before the first pass, so that it is decoding that is measured, not the disk.
"""

import argparse
import io
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..checkout import bind_package
from ..toolbox.dassl.errors import WrongValue
from . import machine
from .cases import spread
from .step import write_json

WAYS = ("plain", "anew", "kept")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m mocoop.benchmarks.loading",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--folder", type=Path, help="read these images (sub-folders too) instead of made-up ones")
    add("--images", type=int, default=320, help="how many images, at most (default 320)")
    add("--size", type=int, nargs=2, default=[500, 375], metavar=("WIDTH", "HEIGHT"), help="of made-up images")
    add("--input", type=int, default=224, help="pixels of the backbone's input (default 224)")
    add("--workers", type=int, nargs="+", default=[0, 2], help="numbers of worker processes to measure (default 0 2)")
    add("--passes", type=int, default=4, help="passes over all images, at least 2 (default 4)")
    add("--batch", type=int, default=32)
    add("--cache-mb", type=int, default=2048, help="DATALOADER.CACHE_MB of the way 'kept' (default 2048)")
    add("--test", action="store_true", help="the transforms of evaluation instead of training")
    add("--json", type=Path, help="write everything measured to this file")
    return parser


# ---- the images


def make_images(folder: Path, count: int, width: int, height: int) -> list[str]:
    """Write JPEGs of quality 90 with structure at all scales, as photographs have; returns their paths."""
    import numpy as np
    from PIL import Image

    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        picture = np.zeros((height, width, 3))
        for cells in (4, 16, 64, 200):  # amplitude falls with the frequency
            coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
            picture += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) / cells
        picture = picture * 255 / picture.max() + rng.normal(0, 16, picture.shape)  # grain: the size of a real file
        paths.append(str(folder / f"{number:05d}.jpg"))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def find_images(folder: Path, count: int) -> list[str]:
    """A draw (always the same) of images in a folder and below.

    Raises:
        FileNotFoundError: no folder, or no image in it.
    """
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise FileNotFoundError(f"--folder {folder}: expected images ({' '.join(SUFFIXES)}), found none")
    return sorted(random.Random(0).sample(found, count)) if len(found) > count else found


# ---- the ways


def settings(args: argparse.Namespace, workers: int, cache: int) -> Any:
    """A Dassl config with what loaders read: CoOp's transforms, a seedless order."""
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = (args.input, args.input), "bicubic"
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.CACHE_MB, cfg.USE_CUDA = workers, cache, False
    return cfg


def loader(way: str, paths: Sequence[str], args: argparse.Namespace, workers: int) -> Any:
    """The loader of one way; all deliver the same batches for the same seed."""
    from dassl.data.data_manager import build_data_loader
    from dassl.data.datasets import Datum
    from dassl.data.transforms import build_transform

    cfg = settings(args, workers, args.cache_mb if way == "kept" else 0)
    with redirect_stdout(io.StringIO()):
        transform = build_transform(cfg, is_train=not args.test)
    items = [Datum(impath=path) for path in paths]
    sampler = "SequentialSampler" if args.test else "RandomSampler"
    if way != "plain":
        return build_data_loader(cfg, sampler, items, args.batch, tfm=transform, is_train=not args.test)
    return build_data_loader(
        *(cfg, sampler, items, args.batch),
        **{"tfm": transform, "is_train": not args.test, "dataset_wrapper": plain_wrapper()},
    )


def plain_wrapper() -> type:
    """A data set as Dassl's: open, convert, transform, at every access."""
    from PIL import Image
    from torch.utils.data import Dataset

    class Plain(Dataset):
        def __init__(self, cfg: Any, data_source: Sequence, transform: Callable, is_train: bool = False):
            self.items, self.transform = data_source, transform

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, index: int) -> dict:
            item = self.items[index]
            image = Image.open(item.impath).convert("RGB")
            batch = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": index}
            return batch | {"img": self.transform(image)}

    return Plain


# ---- measuring


def measure(paths: Sequence[str], args: argparse.Namespace, clock: Callable[[], float] = time.perf_counter) -> list:
    """Rows {way, workers, images per pass, seconds of each pass}, the ways taking turns."""
    for path in paths:
        Path(path).read_bytes()
    rows = []
    for workers in args.workers:
        loaders = {way: loader(way, paths, args, workers) for way in WAYS}
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        images = dict.fromkeys(WAYS, 0)
        for _ in range(args.passes):
            for way in WAYS:
                start, images[way] = clock(), 0
                for batch in loaders[way]:
                    images[way] += len(batch["label"])
                seconds[way].append(clock() - start)
        rows += [{"way": way, "workers": workers, "images": images[way], "seconds": seconds[way]} for way in WAYS]
    return rows


def rates(row: dict) -> dict:
    """Images per second: of the first pass, and of the later ones (median, min, max)."""
    each = [row["images"] / seconds for seconds in row["seconds"]]
    return {"first": each[0], "later": spread(each[1:])}


def break_even(row: dict, plain: dict) -> float | None:
    """After how many passes a way has taken less time than the plain way in all; None if never.

    The first pass may take longer (it fills the memory); each later one gains the same.
    """
    cost = row["seconds"][0] - plain["seconds"][0]
    gain = statistics.median(plain["seconds"][1:]) - statistics.median(row["seconds"][1:])
    if cost <= 0:
        return 1.0 if gain >= 0 else None
    return 1 + cost / gain if gain > 0 else None


def table(rows: Sequence[dict], fmt: str = "simple") -> str:
    """The rows as a table, each beside the plain way with as many workers."""
    plain = {row["workers"]: row for row in rows if row["way"] == "plain"}
    lines = []
    for row in rows:
        own_rates, base = rates(row), rates(plain[row["workers"]])
        even = break_even(row, plain[row["workers"]])
        later = own_rates["later"]
        lines.append(
            [
                *(row["workers"], row["way"], f"{own_rates['first']:.0f}", f"{later['median']:.0f}"),
                *(f"{later['min']:.0f}", f"{later['max']:.0f}", f"{own_rates['first'] / base['first']:.2f}"),
                *(f"{later['median'] / base['later']['median']:.2f}",),
                "" if row["way"] == "plain" else "never" if even is None else f"{even:.1f}",
            ]
        )
    headers = ["workers", "way", "first pass", "later", "min", "max", "first / plain", "later / plain", "even after"]
    return tabulate(lines, headers, tablefmt=fmt, disable_numparse=True)


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for sizes that make no sense."""
    if min(args.images, *args.size, args.input, args.batch) < 1 or min(*args.workers, args.cache_mb) < 0:
        raise WrongValue(
            "--images, --size, --input and --batch must be at least 1, --workers and --cache-mb at least 0"
        )
    if args.passes < 2:
        raise WrongValue(f"--passes: expected at least 2, a first and a later one, found {args.passes}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        check(args)
        where = machine.describe()
        with nullcontext(None) if args.folder else tempfile.TemporaryDirectory() as made:
            paths = find_images(args.folder, args.images) if args.folder else []
            paths = paths or make_images(Path(made), args.images, *args.size)
            kilobytes = sum(Path(path).stat().st_size for path in paths) / len(paths) / 1000
            rows = measure(paths, args)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    source = "a folder of the user's" if args.folder else f"made-up JPEGs of {args.size[0]} x {args.size[1]}"
    what = "Evaluation" if args.test else "Training"
    result = {
        "kind": "loading",
        "title": f"{what}, {len(paths)} images ({source}, {kilobytes:.0f} kB each), "
        f"input {args.input}, batch {args.batch}; images per second",
        "machine": where,
        "versions": machine.versions(),
        "rows": [row | rates(row) for row in rows],
    }
    print(result["title"], table(rows), sep="\n\n")
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    bind_package()
    sys.exit(main())
