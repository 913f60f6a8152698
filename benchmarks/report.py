"""The page docs/PERFORMANCE.md, written from the JSON files of `step` and `scale`; no figure in it is typed.

python -m mocoop.benchmarks.report output/benchmarks/*.json --out docs/PERFORMANCE.md
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from ..checkout import bind_package
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import write_text
from . import scale
from .step import GB


@dataclass(frozen=True)
class Target:
    """Something that was to be reached.

    Attributes:
        text: what; case: fields of the `cases.Case` that it is about.
        value: a measurement's figure, None if it has none; limit: to be reached.
        at_least: the figure must not be below the limit; else not above it.
        unit: printed behind figures.
    """

    text: str
    case: dict
    value: Callable[[dict], float | None]
    limit: float
    at_least: bool = True
    unit: str = ""

    def of(self, results: Sequence[dict]) -> list[dict]:
        """The measurements that it is about."""
        return [r for r in results if all(r["case"][key] == value for key, value in self.case.items())]

    def reached(self, value: float) -> bool:
        """Whether a figure is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit


def speed(result: dict) -> float | None:
    """How many times faster than the plain path."""
    return result["ratio"]["median"] if "ratio" in result else None


def memory_ratio(result: dict) -> float | None:
    """Our peak memory relative to the plain path's."""
    return result.get("memory_ratio")


def peak_memory(result: dict) -> float:
    """Our peak memory in GB, interpreter, libraries and weights included."""
    return result["ours"]["memory"]["peak"] / GB


def text_share(result: dict) -> float:
    """Share of the matrix-product peak that our text path reaches, in percent."""
    return 100 * result["text"]["share"]


def case(method: str, present: int, known: int, **others: object) -> dict:
    """Fields of a case at ViT-B/16, batch 4, fp32."""
    fields = {"method": method, "backbone": "ViT-B/16", "present": present, "known": known, "batch": 4, "prec": "fp32"}
    return fields | {"evaluate": False, "device": "cpu", "experts": None, "frozen": False} | others


TIMES, MEMORY, PEAK_SHARE = " times", "share of the plain path's memory", "text path, share of the matrix-product peak"
TARGETS = [
    Target("MoCoOp training, 20 / 40: faster", case("MoCoOp", 20, 40), speed, 7, unit=TIMES),
    Target(f"MoCoOp training, 20 / 40: {MEMORY}", case("MoCoOp", 20, 40), memory_ratio, 0.25, at_least=False),
    Target("the same, LayerNorms frozen: faster", case("MoCoOp", 20, 40, frozen=True), speed, 10, unit=TIMES),
    Target("MoCoOp training, 5 / 10: faster", case("MoCoOp", 5, 10), speed, 4, unit=TIMES),
    Target(
        "MoCoOp training, 50 / 100: peak memory", case("MoCoOp", 50, 100), peak_memory, 6, at_least=False, unit=" GB"
    ),
    Target("MoCoOp test batch, 20 / 40: faster", case("MoCoOp", 20, 40, evaluate=True), speed, 18, unit=TIMES),
    Target("CoOp training, 50 classes: faster", case("CoOp", 50, 50), speed, 4, unit=TIMES),
    Target("CoOp test batch, 50 classes: faster", case("CoOp", 50, 50, evaluate=True), speed, 3, unit=TIMES),
    Target("CoCoOp training, 10 classes: faster", case("CoCoOp", 10, 10), speed, 4, unit=TIMES),
    Target("CoCoOp test batch, 10 classes: faster", case("CoCoOp", 10, 10, evaluate=True), speed, 3, unit=TIMES),
    Target(f"MoCoOp training, 40 names: {PEAK_SHARE}", case("MoCoOp", 20, 40), text_share, 50, unit="%"),
    Target(f"MoCoOp training, 100 names: {PEAK_SHARE}", case("MoCoOp", 50, 100), text_share, 50, unit="%"),
    Target(
        "MoCoOp training, ImageNet's 1,000 classes x 20 experts, batch 32: peak memory",
        case("MoCoOp", 1000, 1000, experts=20, batch=32),
        peak_memory,
        10,
        at_least=False,
        unit=" GB",
    ),
]


def judge(results: Sequence[dict]) -> tuple[list[list[str]], list[dict]]:
    """The rows of the targets' table, and the measurements that missed one."""
    rows, missed = [], []
    for target in TARGETS:
        aim = f"at {'least' if target.at_least else 'most'} {target.limit:g}{target.unit}"
        found = [(r, target.value(r)) for r in target.of(results)]
        found = [(r, value) for r, value in found if value is not None]
        if not found:
            rows.append([target.text, aim, "not measured", ""])
        for result, value in found:
            good = target.reached(value)
            rows.append([target.text, aim, f"{value:.3g}{target.unit}", "reached" if good else "**not reached**"])
            if not good and result not in missed:
                missed.append(result)
    return rows, missed


def page(results: Sequence[dict], figure: str | None, notes: str) -> str:
    """The page.

    Args:
        results: contents of the JSON files; figure: path of the growth's figure, relative to the page.
        notes: text for the end.
    """
    steps = [r for r in results if r["kind"] == "step"]
    parts = [INTRODUCTION, environment(results)]
    if steps:
        rows, missed = judge(steps)
        parts += ["## Targets", markdown(rows, ["", "target", "measured", ""])]
        parts += ["## Side by side", SIDE_BY_SIDE, side_by_side(steps), "## The text path alone", text_table(steps)]
        if missed:
            parts += ["## Where the time goes where a target was missed", *(bounds(result) for result in missed)]
    for grown in (r for r in results if r["kind"] == "scale"):
        parts += [f"## Growth: {grown['title']}", scale.table(grown["points"], "github")]
        parts += ["\n".join(f"- {line}" for line in scale.growth(grown["points"]))]
    if figure:
        parts.append(f"![Time and memory of a step over classes, experts and batch]({figure})")
    if notes:
        parts += ["## Notes", notes.strip()]
    return "\n\n".join(part for part in parts if part) + "\n"


INTRODUCTION = """# Performance

Written by `python -m mocoop.benchmarks.report` from measurements; `bash scripts/benchmarks.sh` makes them and this page
again. Backbones have random weights and images are made up: time and memory do not depend on either.

*Ours* is the trainers of this project as they run in `train.py`. *Plain* is the same mathematics the way the published
code computes it (`benchmarks/plain.py`, tested to give the same loss and gradient): prompts padded to 77 positions,
everything encoded twice a training step where the method has a text loss, and again for every test batch. The two run
in processes of their own and take turns, so a ratio compares like with like; it is the median over pairs of turns. Peak
memory is all that a process holds, PyTorch itself (about 0.8 GB) and the weights included. GFLOP are counted as
executed (matrix products, convolutions, attention), and their rate is compared with the best rate that square matrix
products reach on the same machine with the same threads."""

SIDE_BY_SIDE = """Median seconds of a training step, or of a batch of a whole test split; smallest and largest in
brackets. In a test split our text features are computed once, which its batches share; "plain" computes them for every
batch."""


def environment(results: Sequence[dict]) -> str:
    """Machines and versions, each said once."""
    lines, peaks = [], {}
    for result in results:
        where, what = result["machine"], result["versions"]
        gpu = f", {where['gpu']}" if where.get("gpu") else ""
        peak = result.get("peak")
        text = f"- {where['cpu']}, {where['cores']} cores, {where['memory_gb']} GB{gpu}, {where['system']}; "
        text += f"{where['threads']} threads; Python {what['python']}, torch {what['torch']}, "
        text += f"open_clip {what['open_clip']}; mocoop {what['mocoop']}, commit {what['commit']}"
        if text not in lines:
            lines.append(text)
        if peak:
            peaks.setdefault(peak["dtype"], []).append(peak["flops"] / 1e9)
    for dtype, rates in peaks.items():
        lines.append(f"- Matrix products, {dtype}: {min(rates):.0f} to {max(rates):.0f} GFLOP/s")
    loads = [result["machine"]["load"] for result in results]
    lines.append(f"- Load average when a measurement began: {min(loads):g} to {max(loads):g}")
    return "## Machine\n\n" + "\n".join(lines)


def side_by_side(steps: Sequence[dict]) -> str:
    """All cases, both paths."""
    rows = []
    for result in steps:
        ours, plain = result["ours"], result["plain"]
        if "skipped" in plain:
            plain_cells = [plain["skipped"]["reason"], "", ""]
        else:
            plain_cells = [seconds(plain), f"{plain['memory']['peak'] / GB:.1f}", f"{plain['flops'] / 1e9:,.0f}"]
        our_cells = [
            seconds(ours),
            f"{ours['memory']['peak'] / GB:.1f}",
            f"{ours['flops'] / 1e9:,.0f}",
            f"{ours['share']:.0%}",
        ]
        ratio = f"{result['ratio']['median']:.1f}" if "ratio" in result else ""
        rows.append([result["title"], *plain_cells, *our_cells, ratio])
    headers = ["", "plain, s", "GB", "GFLOP", "ours, s", "GB", "GFLOP", "of peak", "times faster"]
    return markdown(rows, headers)


def text_table(steps: Sequence[dict]) -> str:
    """Our text path: what it computes and how near the matrix-product peak it does so."""
    rows = []
    for result in steps:
        text, ours = result["text"], result["ours"]
        rows.append(
            [
                result["title"],
                ours["rows"],
                ours["slices"],
                seconds(text),
                f"{text['flops'] / 1e9:,.0f}",
                f"{text['flops_per_second'] / 1e9:.0f}",
                f"{text['share']:.0%}",
            ]
        )
    return markdown(rows, ["", "rows", "slices", "s", "GFLOP", "GFLOP/s", "of peak"])


def bounds(result: dict) -> str:
    """What bounds a case: the text path's part of the time, and the operations that take it, if profiled."""
    ours, text = result["ours"], result["text"]
    part = text["seconds"]["median"] / (ours.get("first_batch") or ours["seconds"])["median"]
    whose = "first test batch" if "first_batch" in ours else "step"
    lines = [
        f"{result['title']}: the text path takes {part:.0%} of our {whose} and reaches {text['share']:.0%} of the "
        f"matrix-product peak; the whole reaches {ours['share']:.0%}."
    ]
    if result.get("profile"):
        rows = [[e["name"], e["calls"], f"{e['seconds']:.3f}", f"{e['share']:.0%}"] for e in result["profile"]]
        lines.append(markdown(rows, ["operation", "calls", "s", "share"]))
    return "\n\n".join(lines)


def seconds(figures: dict) -> str:
    """Median (smallest-largest)."""
    found = figures["seconds"]
    return f"{found['median']:.3g} ({found['min']:.3g}-{found['max']:.3g})"


def markdown(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """A table."""
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def read(paths: Sequence[Path]) -> list[dict]:
    """The measurements.

    Raises:
        ValueError: a file is not one.
    """
    results = []
    for path in paths:
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise WrongValue(f"{path} cannot be read as JSON: {error}") from error
        if not isinstance(content, dict) or content.get("kind") not in ("step", "scale"):
            raise WrongValue(f"{path} is not a measurement of mocoop.benchmarks.step or .scale (no kind step or scale)")
        results.append(content)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m mocoop.benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="JSON")
    parser.add_argument("--out", type=Path, required=True, help="the page, e.g. docs/PERFORMANCE.md")
    parser.add_argument("--figure", type=Path, help="figure of `scale` to link to")
    parser.add_argument("--notes", type=Path, help="Markdown for the end of the page")
    args = parser.parse_args(argv)
    try:
        results = read(args.files)
    except ValueError as error:
        parser.error(str(error))
    figure = os.path.relpath(args.figure, args.out.parent) if args.figure else None
    text = page(results, figure, args.notes.read_text() if args.notes else "")
    write_text(text, args.out)
    return 0


if __name__ == "__main__":
    bind_package()
    sys.exit(main())
