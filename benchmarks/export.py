"""Images per second of an exported ONNX file (onnxruntime) beside torch, on the CPU, with one thread and with all.

    python -m mocoop.benchmarks.export
    python -m mocoop.benchmarks.export --backbone demo --precisions fp32 int8 --json export.json

All take the same prepared images from memory, in the same batches, from image to probabilities, and take turns, so that
they see the same machine. Weights are random (or the demo's): what is answered is beside the point.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tabulate import tabulate

from ..checkout import bind_package
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import cores
from . import machine
from .predict import add_classifier_arguments, build, rates
from .step import write_json

PRECISIONS = ("fp32", "fp16", "int8")


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m mocoop.benchmarks.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_classifier_arguments(parser)
    add = parser.add_argument
    add("--precisions", nargs="+", choices=PRECISIONS, default=["fp32", "int8"])
    add("--images", type=int, default=32, help="per pass (default 32)")
    add("--batch", type=int, default=16)
    add("--threads", type=int, nargs="+", default=sorted({1, cores()}), help="default: 1, and as many as cores")
    return parser


def ways(clf: object, folder: Path, args: argparse.Namespace) -> dict[tuple[str, int], Callable[[], int]]:
    """(what runs, threads) -> one pass over all images, which returns how many it has seen."""
    from ..classifier.export import open_session, write_onnx

    size = clf.model.backbone.preprocess.size
    batches = torch.randn(args.images, 3, size, size, generator=torch.Generator().manual_seed(0)).split(args.batch)

    @torch.no_grad()
    def in_torch(threads: int) -> int:
        torch.set_num_threads(threads)
        return sum(len((clf.model(images).float() / clf.temperature_).softmax(dim=1)) for images in batches)

    def in_onnx(session: object) -> int:
        return sum(len(session.run(["probabilities"], {"image": images.numpy()})[0]) for images in batches)

    found = {("torch", n): lambda n=n: in_torch(n) for n in args.threads}
    for precision in args.precisions:
        path = folder / f"{precision}.onnx"
        write_onnx(clf, path, precision)
        for n in args.threads:
            session = open_session(str(path), n)
            found[f"onnx {precision}", n] = lambda session=session: in_onnx(session)
    return found


def measure(
    passes: dict[tuple[str, int], Callable[[], int]], count: int, clock: Callable[[], float]
) -> list[dict[str, object]]:
    """Rows {way, threads, images, seconds of each of `count` passes}; a first pass of each does not count."""
    rows = [{"way": way, "threads": n, "images": run(), "seconds": []} for (way, n), run in passes.items()]
    for _ in range(count):
        for row in rows:
            start = clock()
            passes[row["way"], row["threads"]]()
            row["seconds"].append(clock() - start)
    return rows


def table(rows: Sequence[dict]) -> str:
    """The rows, each beside torch with as many threads."""
    torch_rate = {row["threads"]: rates(row)["median"] for row in rows if row["way"] == "torch"}
    lines = []
    for row in rows:
        found = rates(row)
        numbers = [f"{found[name]:.1f}" for name in ("median", "min", "max")]
        lines.append([row["way"], row["threads"], *numbers, f"{found['median'] / torch_rate[row['threads']]:.2f}"])
    return tabulate(lines, ["way", "threads", "images/s", "min", "max", "of torch"], disable_numparse=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = build_parser().parse_args(argv)
    if min(args.images, args.batch, args.passes, args.classes, *args.threads) < 1:
        raise WrongValue("--images, --batch, --passes, --classes and --threads must be at least 1")
    args.device, args.workers, before = "cpu", None, torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        try:
            rows = measure(ways(build(args), Path(folder), args), args.passes, time.perf_counter)
        finally:
            torch.set_num_threads(before)
    title = f"{args.method}, {args.backbone}, {args.classes} classes, {args.images} images, batch {args.batch}"
    print(title, table(rows), sep="\n\n")
    if args.json:
        where = {"machine": machine.describe(), "versions": machine.versions()}
        write_json(args.json, {"kind": "export", "title": title, **where, "rows": [r | rates(r) for r in rows]})
    return 0


if __name__ == "__main__":
    bind_package()
    sys.exit(main())
