"""`mocoop predict RUN IMAGES...`: what is on images, streamed, into the terminal or a file that is gone on with."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_reading, add_run, open_run, positive

if TYPE_CHECKING:
    from ..classifier.classifier import Classifier
    from ..classifier.predictions import Format, PredictionFile, Row

NAMED = 20  # unreadable images that are named at the end; a file names all


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="mocoop predict",
        description="Say what is on images. Results go to the terminal, or with --csv or --json to a file, which the "
        "same command goes on with after it was ended in whatever way. Images that cannot be read are named at the end "
        "(exit code 0, unless none can be read).",
    )
    add_run(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image, or a folder for all in it and below")
    parser.add_argument("--topk", type=positive, default=3, help="answers per image (default: %(default)s)")
    parser.add_argument("--experts", action="store_true", help="also the experts that took the image (MoCoOp)")
    parser.add_argument(
        "--unsure", type=float, metavar="P", help="mark answers below this probability (default: the run's threshold)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--csv", metavar="FILE", help="write CSV; - is the terminal")
    where.add_argument("--json", metavar="FILE", help="write a JSON object a line; - is the terminal")
    add_reading(parser)
    parser.add_argument("--workers", type=positive, help="threads that read images (default: one a core, 16 at most)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Predict; returns the exit code."""
    args = build_parser().parse_args(argv)
    from ..toolbox.dassl.errors import WrongValue

    if args.unsure is not None and not 0 <= args.unsure <= 1:
        raise WrongValue(f"--unsure: expected a probability from 0 to 1, found {args.unsure}")
    images = listing(args.images)
    clf = open_run(args)
    clf.workers = args.workers
    clf.threshold_ = clf.threshold_ if args.unsure is None else args.unsure
    topk = min(args.topk, len(clf.classes_))
    form = "csv" if args.csv else "json" if args.json else "text"
    target = args.csv or args.json or "-"
    if target == "-":
        return to_terminal(clf, images, args, topk, form)
    return to_file(Path(target), clf, images, args, topk, form)


def listing(given: Sequence[str]) -> list[str]:
    """Paths of all images meant; a folder stands for all in it and below, and what is passed over there is said."""
    from ..classifier.images import folder_images

    found: list[str] = []
    with redirect_stdout(sys.stderr):  # the terminal's own output is for results
        for path in given:
            found += folder_images(Path(path)) if os.path.isdir(path) else [path]
    return found


def to_terminal(clf: Classifier, images: list[str], args: argparse.Namespace, topk: int, form: Format) -> int:
    """Print results; see `main`."""
    from ..classifier.predictions import csv_head

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files need not be text
    if form == "csv":
        print(csv_head(topk), end="")
    with progress(len(images), 0) as bar:
        failed = run(clf, images, args, topk, form, sys.stdout, bar)
    return report(failed, len(images))


def to_file(path: Path, clf: Classifier, images: list[str], args: argparse.Namespace, topk: int, form: Format) -> int:
    """Write results to a file, going on with one that is there; see `main`."""
    from ..classifier.predictions import PredictionFile, Row
    from ..toolbox.dassl.utils import printable

    with PredictionFile(path, form, clf, topk, args.experts) as file:
        todo = [image for image in images if image not in file.done]
        failed = [Row(image, error=file.done[image]) for image in images if file.done.get(image)]
        others = len(file.done.keys() - set(images))
        if len(todo) < len(images):
            print(f"{path} has {len(images) - len(todo)} of {len(images)} images already", file=sys.stderr)
        try:
            with progress(len(images), len(images) - len(todo)) as bar:
                failed += run(clf, todo, args, topk, form, file, bar)
        except KeyboardInterrupt:
            print(f"\nWhat was predicted is in {path}; the same command again goes on.", file=sys.stderr)
            raise
    code = report(failed, len(images))
    more = f"; {others} images that are not among these are in the file already" if others else ""
    print(printable(f"{path}: {len(images) + others} images{more}"), file=sys.stderr)
    return code


def run(
    clf: Classifier,
    images: Iterable[str],
    args: argparse.Namespace,
    topk: int,
    form: Format,
    out: PredictionFile | object,
    bar: object,
) -> list[Row]:
    """Predict and write batch by batch; returns the rows of images that cannot be read."""
    from tqdm import tqdm

    from ..classifier.predictions import line, rows

    failed: list[Row] = []
    for batch in rows(clf, images, topk, args.experts, args.batch_size):
        with tqdm.external_write_mode():
            out.write("".join(line(row, form, topk) for row in batch))
            if out is sys.stdout:
                out.flush()
        failed += [row for row in batch if row.error]
        bar.update(len(batch))
    return failed


@contextmanager
def progress(total: int, done: int) -> Iterator[object]:
    """A bar with the time left, on a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, initial=done, unit="image", disable=None, leave=False) as bar:
        yield bar


def report(failed: Sequence[Row], count: int) -> int:
    """Name the images that cannot be read; returns the exit code: 1 if that is all of them."""
    if not failed:
        return 0
    from ..toolbox.dassl.utils import printable

    lines = [f"  {printable(row.error)}" for row in failed[:NAMED]]
    more = [f"  and {len(failed) - NAMED} more"] if len(failed) > NAMED else []
    print("\n".join([f"{len(failed)} of {count} images cannot be read:", *lines, *more]), file=sys.stderr)
    return 1 if len(failed) == count else 0
