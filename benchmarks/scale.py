"""How time and memory of our step grow: with the classes, with the experts, with the batch.

    python -m mocoop.benchmarks.scale
    python -m mocoop.benchmarks.scale --classes 10 100 --experts --batches --repeats 1 --figure scale.svg

One axis grows while the other two stay at --base (classes, experts, batch). Every point is measured in a process of its
own; all names are present, so they take part in the class logits and in the text loss. A list may be empty.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tabulate import tabulate

from ..checkout import bind_package
from ..toolbox.dassl.utils import atomic_write
from . import machine
from .cases import Case, add_case_arguments, case_fields, spread
from .step import GB, write_json
from .worker import Worker, WorkerError

AXES = ("classes", "experts", "batch")


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m mocoop.benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_case_arguments(parser)
    add = parser.add_argument
    add("--classes", type=int, nargs="*", default=[10, 20, 50, 100, 200, 500, 1000])
    add("--experts", type=int, nargs="*", default=[1, 2, 5, 10, 20], help="MoCoOp's; ignored for other methods")
    add("--batches", type=int, nargs="*", default=[1, 4, 16, 32])
    add("--base", type=int, nargs=3, default=[50, 6, 4], metavar=("CLASSES", "EXPERTS", "BATCH"))
    add("--figure", type=Path, help="write a figure (.svg or .png; needs matplotlib: pip install mocoop[figures])")
    return parser


def sweep(args: argparse.Namespace) -> list[tuple[str, int, Case]]:
    """(axis, value, case) of every point.

    Raises:
        ValueError: a size below one.
    """
    classes, experts, batch = args.base
    sizes = {"classes": args.classes, "experts": args.experts, "batches": args.batches, "base": args.base}
    shared = case_fields(args, **{name: min(values) for name, values in sizes.items() if values})
    shared["experts"] = experts if args.method == "MoCoOp" else None
    base = Case(**shared | {"present": classes, "known": classes, "batch": batch})
    points = [("classes", n, replace(base, present=n, known=n)) for n in args.classes]
    if args.method == "MoCoOp":
        points += [("experts", n, replace(base, experts=n)) for n in args.experts]
    points += [("batch", n, replace(base, batch=n)) for n in args.batches]
    return points


def measure_point(case: Case, repeats: int) -> dict:
    """Seconds, memory and layout of our step; {"failed": why} if it does not run."""
    try:
        with Worker(case) as worker:
            processor = worker.ask("processor")
            warm = worker.ask("warm_up")
            steps = [worker.ask("step") for _ in range(repeats)]
    except WorkerError as error:
        return {"case": asdict(case), "failed": str(error).strip().splitlines()[-1]}
    times = [step.get("first", step["seconds"]) for step in steps]  # evaluation: with the text it needs
    peak = max(answer["peak"] for answer in [warm, *steps])
    memory = {"before": warm["before"], "peak": peak, "step": peak - warm["before"]}
    layout = {"rows": warm["rows"], "slices": warm["slices"]}
    flops = warm.get("flops_first", warm["flops"])
    return {"case": asdict(case), "seconds": spread(times), "times": times, "flops": flops, "memory": memory} | (
        layout | {"threads": processor["threads"], "gpu": processor["gpu"]}
    )


def table(points: Sequence[dict], fmt: str = "simple") -> str:
    """The points as a table."""
    rows = []
    for point in points:
        head = [point["axis"], point["value"]]
        if "failed" in point:
            rows.append([*head, point["failed"], *[""] * 6])
            continue
        seconds, memory = point["seconds"], point["memory"]
        rows.append(
            [
                *head,
                f"{seconds['median']:.3g}",
                f"{seconds['min']:.3g}",
                f"{seconds['max']:.3g}",
                f"{point['flops'] / seconds['median'] / 1e9:.0f}",
                point["rows"],
                point["slices"],
                f"{memory['step'] / GB:.2f}",
                f"{memory['peak'] / GB:.2f}",
            ]
        )
    headers = [
        "axis",
        "value",
        "seconds",
        "min",
        "max",
        "GFLOP/s",
        "rows of text",
        "slices",
        "step adds, GB",
        "peak, GB",
    ]
    return tabulate(rows, headers, tablefmt=fmt, disable_numparse=True)


def growth(points: Sequence[dict]) -> list[str]:
    """For each axis, the exponent of its growth from the first to the last point: 1 is in proportion."""
    lines = []
    for axis in AXES:
        on_axis = [p for p in points if p["axis"] == axis and "failed" not in p]
        if len(on_axis) < 2 or on_axis[0]["value"] == on_axis[-1]["value"]:
            continue
        first, last = on_axis[0], on_axis[-1]
        times = last["value"] / first["value"]
        time = last["seconds"]["median"] / first["seconds"]["median"]
        memory = max(last["memory"]["step"], 1) / max(first["memory"]["step"], 1)
        lines.append(
            f"{axis} {first['value']} -> {last['value']}: time x {time:.2f} (exponent {math.log(time, times):.2f}), "
            f"memory that a step adds x {memory:.2f}"
        )
    return lines


def draw(points: Sequence[dict], path: Path, title: str) -> None:
    """Time and memory over each axis, both logarithmic, as an image file.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a figure needs matplotlib: pip install matplotlib (or mocoop[figures])") from error
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "mocoop"  # the same file from the same numbers
    from matplotlib import pyplot
    from matplotlib.ticker import ScalarFormatter

    drawn = [p for p in points if "failed" not in p]
    axes = [axis for axis in AXES if any(p["axis"] == axis for p in drawn)]
    figure, panels = pyplot.subplots(2, max(len(axes), 1), figsize=(3.4 * max(len(axes), 1), 5), squeeze=False)
    for column, axis in enumerate(axes):
        on_axis = sorted((p for p in drawn if p["axis"] == axis), key=lambda p: p["value"])
        values = [p["value"] for p in on_axis]
        series = [
            ("seconds per step", [p["seconds"]["median"] for p in on_axis]),
            ("GB that a step adds", [max(p["memory"]["step"], 1e6) / GB for p in on_axis]),
        ]
        for panel, (label, heights) in zip(panels[:, column], series, strict=True):
            panel.loglog(values, heights, marker="o", color="#1f5fa8")
            panel.set_xticks(values, [str(v) for v in values])
            panel.minorticks_off()
            panel.yaxis.set_major_formatter(ScalarFormatter())
            panel.grid(True, alpha=0.3)
            panel.set_xlabel(axis)
            if column == 0:
                panel.set_ylabel(label)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    with atomic_write(path) as temporary:
        kind = path.suffix.lstrip(".") or "svg"
        figure.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        plan = sweep(args)
    except ValueError as error:
        parser.error(str(error))
    where = machine.describe()
    measured: dict[Case, dict] = {}
    for axis, value, case in plan:
        if case not in measured:
            print(f"{axis} {value} ...", file=sys.stderr, flush=True)
            measured[case] = measure_point(case, args.repeats)
    points = [{"axis": axis, "value": value} | measured[case] for axis, value, case in plan]
    classes, experts, batch = args.base
    result = {
        "kind": "scale",
        "title": f"{args.method}, {'test batch' if args.evaluate else 'training step'}, {args.backbone}, {args.prec}; "
        f"otherwise {classes} classes, {f'{experts} experts, ' if args.method == 'MoCoOp' else ''}batch {batch}",
        "machine": where | {key: points[0].get(key) for key in ("threads", "gpu") if points},
        "versions": machine.versions(),
        "points": points,
    }
    print(result["title"], table(points), "\n".join(growth(points)), sep="\n\n")
    if args.json:
        write_json(args.json, result)
    if args.figure:
        try:
            draw(points, args.figure, result["title"])
        except ModuleNotFoundError as error:
            parser.exit(1, f"{error}\n")
    return int(any("failed" in point for point in points))


if __name__ == "__main__":
    bind_package()
    sys.exit(main())
