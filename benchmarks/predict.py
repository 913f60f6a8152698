"""Images per second of a classifier over a folder, beside what its image tower alone does with images in memory.

    python -m mocoop.benchmarks.predict
    python -m mocoop.benchmarks.predict --backbone demo --folder path/to/images --json predict.json

The tower's pass takes the same prepared images from memory, in the same batches. The folder's pass reads, decodes and
prepares the files, encodes, routes and scores them. The two take turns, so that both see the same machine; class
features are made once, before the first pass. Without --folder the images are made up (see `loading`).
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from tabulate import tabulate

from ..checkout import bind_package
from ..toolbox.dassl.errors import WrongValue
from . import machine
from .cases import class_names, spread
from .loading import find_images, make_images
from .step import write_json

WAYS = ("tower", "folder")


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m mocoop.benchmarks.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_classifier_arguments(parser)
    add = parser.add_argument
    add("--folder", type=Path, help="read these images (sub-folders too) instead of made-up ones")
    add("--images", type=int, default=256, help="how many images, at most (default 256)")
    add("--size", type=int, nargs=2, default=[500, 375], metavar=("WIDTH", "HEIGHT"), help="of made-up images")
    add("--batch", type=int, default=64)
    add("--workers", type=int, help="threads that read (default: one a core)")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    return parser


def add_classifier_arguments(parser: argparse.ArgumentParser) -> None:
    """The classifier that `build` makes, and how often it is timed."""
    add = parser.add_argument
    add("--backbone", default="ViT-B/16", help="architecture (random weights), or demo")
    add("--method", default="MoCoOp")
    add("--classes", type=int, default=100)
    add("--passes", type=int, default=3, help="passes of each kind (default 3)")
    add("--json", type=Path, help="write everything measured to this file")


def build(args: argparse.Namespace):  # noqa: ANN201 (classifier.Classifier, imported with torchvision on first use)
    """A classifier with random or the demo's weights, untrained: its answers do not matter here."""
    from ..classifier.classifier import Classifier
    from ..classifier.training import Plan, settings
    from ..methods import named
    from .build import random_backbone

    backbone, row, names = random_backbone(args.backbone, args.device), named(args.method), class_names(args.classes)
    made = Classifier(args.method, backbone, workers=args.workers)
    made.accept(Plan(row, backbone, names, *settings(row, args.backbone, {})).model(seed=1), names)
    made.model.kept_class_features()
    return made


def passes(clf: object, paths: Sequence[str], args: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """The two kinds of pass; each returns how many images it has seen."""
    from ..classifier.images import Reader

    model, preprocess = clf.model, clf.model.backbone.preprocess
    ready = [batch.images.to(model.device) for batch in Reader(paths, preprocess, args.batch, args.workers)]

    @torch.no_grad()
    def tower() -> int:
        return sum(len(model.encode_image(images).cpu()) for images in ready)

    def folder() -> int:
        return sum(len(batch.names) for batch in clf.stream(paths, args.batch))

    return {"tower": tower, "folder": folder}


def measure(clf: object, paths: Sequence[str], args: argparse.Namespace, clock: Callable[[], float]) -> list[dict]:
    """Rows {way, images, seconds of each pass}, the ways taking turns, after a pass of each that does not count."""
    ways = passes(clf, paths, args)
    rows = [{"way": way, "images": ways[way](), "seconds": []} for way in WAYS]
    for _ in range(args.passes):
        for row in rows:
            start = clock()
            ways[row["way"]]()
            row["seconds"].append(clock() - start)
    return rows


def rates(row: dict) -> dict[str, float]:
    """Images per second: median, min, max over passes."""
    return spread([row["images"] / seconds for seconds in row["seconds"]])


def table(rows: Sequence[dict]) -> str:
    """The rows, each beside the tower."""
    tower = rates(rows[0])["median"]
    lines = []
    for row in rows:
        found = rates(row)
        numbers = [f"{found[name]:.1f}" for name in ("median", "min", "max")]
        lines.append([row["way"], *numbers, f"{found['median'] / tower:.2f}"])
    return tabulate(lines, ["way", "images/s", "min", "max", "of the tower"], disable_numparse=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        if min(args.images, *args.size, args.batch, args.passes, args.classes) < 1:
            raise WrongValue("--images, --size, --batch, --passes and --classes must be at least 1")
        with nullcontext(None) if args.folder else tempfile.TemporaryDirectory() as made:
            paths = find_images(args.folder, args.images) if args.folder else []
            paths = paths or make_images(Path(made), args.images, *args.size)
            rows = measure(build(args), paths, args, time.perf_counter)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    source = "a folder of the user's" if args.folder else f"made-up JPEGs of {args.size[0]} x {args.size[1]}"
    title = (
        f"{args.method}, {args.backbone}, {args.classes} classes, {len(paths)} images ({source}), batch {args.batch}"
    )
    print(title, table(rows), sep="\n\n")
    if args.json:
        where = {"machine": machine.describe(), "versions": machine.versions()}
        write_json(args.json, {"kind": "predict", "title": title, **where, "rows": [r | rates(r) for r in rows]})
    return 0


if __name__ == "__main__":
    bind_package()
    sys.exit(main())
