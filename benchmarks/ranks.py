"""Work and memory of each process when one run is shared by several: a training step, counted, not timed.

    python -m mocoop.benchmarks.ranks
    python -m mocoop.benchmarks.ranks --method MoCoOp --present 100 --known 100 --experts 20 --batch 12 --ranks 1 2 4

The processes are real ones that exchange what they gather (gloo, on the CPU). Counted are the floating-point operations
of a step and of its text alone, and the memory that a step adds to a process; the largest of all processes is shown.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from tabulate import tabulate

from ..checkout import bind_package
from . import machine
from .cases import Case, add_case_arguments, case_fields
from .step import GB, write_json
from .worker import Measured, WorkerError

ADDRESS = {"LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m mocoop.benchmarks.ranks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_case_arguments(parser)
    add = parser.add_argument
    add("--present", type=int, default=100, help="classes")
    add("--known", type=int, default=100, help="names in all (MoCoOp, LASP)")
    add("--experts", type=int, default=6, help="MoCoOp's")
    add("--batch", type=int, default=12, help="images of all processes together")
    add("--ranks", type=int, nargs="+", default=[1, 2, 3, 4], help="numbers of processes")
    return parser


def one_rank(pipe: Connection, case: Case, rank: int, size: int, store: str) -> None:
    """In a process: be a rank, do a step, and send what it took."""
    from ..trainers import ranks

    os.environ.update(ADDRESS, RANK=str(rank), WORLD_SIZE=str(size), MOCOOP_STORE=store)
    if size > 1:
        ranks.meet()
        ranks.join(gpus=False)
    with contextlib.redirect_stdout(io.StringIO()):
        measured = Measured(case, plain=False)
        if measured.trainer.model.ranks.size != size:
            raise WorkerError("the model does not know of the other processes")
        step = measured.warm_up()
        text = measured.text_flops()["flops"]
    pipe.send({"flops": step["flops"], "text": text, "rows": step["rows"], "memory": step["peak"] - step["before"]})


def measure(case: Case, size: int) -> list[dict]:
    """What a step takes in each of so many processes.

    Raises:
        WorkerError: one of them failed.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as meeting:
        pipes = []
        for rank in range(size):
            pipe, theirs = context.Pipe()
            arguments = (theirs, case, rank, size, str(Path(meeting) / "store"))
            context.Process(target=one_rank, args=arguments, daemon=True).start()
            theirs.close()
            pipes.append(pipe)
        try:
            return [pipe.recv() for pipe in pipes]
        except EOFError:
            raise WorkerError("a process ended before its step was done; its own message is above") from None


def table(points: Sequence[dict], fmt: str = "simple") -> str:
    """Of each number of processes, the most that one of them has to do, and that as a share of one alone."""
    alone = points[0]["most"]
    rows = [
        [
            point["ranks"],
            *(f"{point['most'][key] / unit:.4g}" for key, unit in (("text", 1e9), ("flops", 1e9), ("memory", GB))),
            *(f"{point['most'][key] / alone[key]:.2f}" for key in ("text", "flops", "memory")),
        ]
        for point in points
    ]
    headers = ["processes", "text, GFLOP", "step, GFLOP", "step adds, GB"]
    return tabulate(
        rows, [*headers, "text, share", "step, share", "memory, share"], tablefmt=fmt, disable_numparse=True
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    args = parser.parse_args(argv)
    sizes = {name: getattr(args, name) for name in ("present", "known", "experts", "batch")}
    try:
        fields = case_fields(args, **sizes, ranks=min(args.ranks))
        case = Case(**fields | {"experts": args.experts if args.method == "MoCoOp" else None})
    except ValueError as error:
        parser.error(str(error))
    points = []
    for size in args.ranks:
        print(f"{size} process{'es' * (size > 1)} ...", file=sys.stderr, flush=True)
        found = measure(case, size)
        points.append({"ranks": size, "each": found, "most": {key: max(f[key] for f in found) for key in found[0]}})
    result = {"kind": "ranks", "title": str(case), "case": asdict(case), "points": points}
    print(result["title"], table(points), sep="\n\n")
    if args.json:
        write_json(args.json, result | {"machine": machine.describe(), "versions": machine.versions()})
    return 0


if __name__ == "__main__":
    bind_package()
    sys.exit(main())
