"""One training step (or test batch): this project's path and the plain path side by side.

    python -m mocoop.benchmarks.step --method MoCoOp --backbone ViT-B/16 --present 20 --all 40 --batch 4
    python -m mocoop.benchmarks.step --method CoOp --present 50 --eval --json coop-eval.json

Each path runs in a process of its own; after a warm-up they take turns, so that both see the same machine. Weights are
random, images made up, nothing is downloaded. "Plain" is what published code does (see `plain.py`). In evaluation the
time is that of a batch of a whole test split: our text features are computed once and shared out over its batches.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from ..checkout import bind_package
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import write_text
from . import machine
from .cases import KNOWS_OTHERS, Case, Estimate, add_case_arguments, case_fields, estimate, spread
from .worker import Worker, WorkerError

GB = 1e9


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m mocoop.benchmarks.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_case_arguments(parser)
    add = parser.add_argument
    add("--present", type=int, default=20, help="classes present in the data")
    add(
        "--all", dest="known", type=int, help="names known in all, for MoCoOp's and LASP's text loss (default: present)"
    )
    add("--batch", type=int, default=4, help="images")
    add("--experts", type=int, help="MoCoOp's experts (default: EuroSAT's 6 template groups)")
    add("--test-images", type=int, default=1000, help="size of the test split for --eval (default 1000)")
    add("--no-plain", action="store_true", help="time our path only")
    add("--profile", action="store_true", help="also list the operations in which our path spends its time")
    add("--memory-limit", type=float, help="GB that both processes may take together (default: what is available)")
    return parser


def make_case(args: argparse.Namespace) -> Case:
    """The case that the arguments describe.

    Raises:
        ValueError: they contradict each other.
    """
    fields = case_fields(args, batch=args.batch, test_images=args.test_images, experts=args.experts)
    case = Case(**fields | {"known": args.known or args.present})
    if not 1 <= case.present <= case.known:
        raise WrongValue(f"expected 1 <= --present <= --all, found {case.present} and {case.known}")
    if case.method not in KNOWS_OTHERS and (case.frozen or case.known != case.present):
        raise WrongValue(
            f"--frozen and --all mean nothing to {case.method}: its image tower never learns, and it "
            "encodes the classes present only"
        )
    if case.method != "MoCoOp" and case.experts:
        raise WrongValue(f"--experts is MoCoOp's, found --method {case.method}")
    return case


def measure(case: Case, repeats: int, batches: int, plain: bool, profile: bool, free: float) -> dict:
    """Everything about a case, as plain data (see `record`).

    Args:
        repeats: timed repeats; batches: of the test split, in evaluation.
        plain: measure the plain path as well, if it fits; profile: see `--profile`; free: bytes to stay within.
    """
    needs, result = estimate(case, free), {}
    fits = plain and needs.plain <= free
    together = fits and needs.plain + needs.ours <= free
    before = machine.describe()
    with ExitStack() as stack:
        ours = stack.enter_context(Worker(case))
        result["processor"] = ours.ask("processor")
        paths = {"ours": ours}
        if together:
            paths["plain"] = stack.enter_context(Worker(case, plain=True))
        answers = take_turns(paths, repeats)
        result["text"] = measure_text(ours, repeats)
        if profile:
            result["profile"] = ours.ask("profile")["operations"]
        result["peak"] = ours.ask("matrix_peak")
    if fits and not together:
        with Worker(case, plain=True) as alone:
            answers |= take_turns({"plain": alone}, repeats)
    result["answers"] = answers
    result["skipped"] = why_skipped(plain, fits, needs, free)
    return record(case, before, result, together, batches)


def take_turns(paths: dict[str, Worker], repeats: int) -> dict[str, dict]:
    """A warm-up each (ours first: it looks how much memory is free), then repeats in turn, plain first."""
    answers = {name: {"warm_up": worker.ask("warm_up"), "steps": []} for name, worker in paths.items()}
    for _ in range(repeats):
        for name in reversed(paths):
            answers[name]["steps"].append(paths[name].ask("step"))
    return answers


def measure_text(worker: Worker, repeats: int) -> dict:
    """Our text path alone: seconds and floating-point operations of one encoding (with backward, in training)."""
    flops = worker.ask("text_flops")["flops"]
    times = [worker.ask("text")["seconds"] for _ in range(repeats)]
    return {"seconds": spread(times), "times": times, "flops": flops}


def why_skipped(plain: bool, fits: bool, needs: Estimate, free: float) -> dict | None:
    """Why there is no plain path, None if there is one."""
    if not plain:
        return {"reason": "not asked for", "estimate_gb": needs.plain / GB}
    if fits:
        return None
    reason = f"would need about {needs.plain / GB:.0f} GB, {free / GB:.1f} GB are free"
    return {"reason": reason, "estimate_gb": needs.plain / GB}


def record(case: Case, before: dict, found: dict, together: bool, batches: int) -> dict:
    """The measurement as plain data: what `--json` writes.

    Keys: kind, case, machine, versions, peak, alternating, test_batches (evaluation), ours, plain (each: seconds,
    times, flops, flops_per_second, share of the peak, busy, memory; the plain path's may be {"skipped": ...}), text,
    ratio (median, min, max, pairs), memory_ratio, profile.
    """
    peak = found["peak"]["flops"]
    batches = batches if case.evaluate else 1
    result = {
        "kind": "step",
        "case": asdict(case),
        "title": str(case) + (f", {batches} batches" if case.evaluate else ""),
        "machine": before | found["processor"],
        "versions": machine.versions(),
        "peak": found["peak"],
        "alternating": together,
        "test_batches": batches if case.evaluate else None,
        "ours": summary(found["answers"]["ours"], batches, peak),
        "text": with_rate(found["text"], peak),
        "plain": {"skipped": found["skipped"]},
        "profile": found.get("profile"),
    }
    if not found["skipped"]:
        plain, ours = summary(found["answers"]["plain"], batches, peak), result["ours"]
        pairs = [a / b for a, b in zip(plain["times"], ours["times"], strict=True)]
        result |= {"plain": plain, "ratio": spread(pairs) | {"pairs": pairs}}
        result["memory_ratio"] = ours["memory"]["peak"] / plain["memory"]["peak"]
    return result


def summary(answers: dict, batches: int, peak: float) -> dict:
    """One path's figures; in evaluation its first batch's extra work is shared out over the split's batches."""
    warm, steps = answers["warm_up"], answers["steps"]
    share = 1 / batches
    times = [s["seconds"] + share * (s.get("first", s["seconds"]) - s["seconds"]) for s in steps]
    flops = warm["flops"] + share * (warm.get("flops_first", warm["flops"]) - warm["flops"])
    memory = {"before": warm["before"], "peak": max(answer["peak"] for answer in [warm, *steps])}
    result = {
        "seconds": spread(times),
        "times": times,
        "flops": flops,
        "busy": statistics.median(s["busy"] for s in steps),
        "memory": memory | {"step": memory["peak"] - memory["before"]},
        "rows": warm["rows"],
        "slices": warm["slices"],
    }
    if "first" in steps[0]:
        result["first_batch"] = spread([s["first"] for s in steps])
        result["later_batch"] = spread([s["seconds"] for s in steps])
    return with_rate(result, peak)


def with_rate(figures: dict, peak: float) -> dict:
    """Add operations per second and their share of the matrix-product peak."""
    rate = figures["flops"] / figures["seconds"]["median"]
    return figures | {"flops_per_second": rate, "share": rate / peak}


def show(result: dict) -> str:
    """A measurement as text."""
    where, peak = result["machine"], result["peak"]
    rows = [
        figures_row(name, result[key])
        for name, key in (("plain", "plain"), ("ours", "ours"), ("our text path alone", "text"))
        if "seconds" in result[key]
    ]
    headers = ["", "seconds", "min", "max", "GFLOP", "GFLOP/s", "of peak", "memory before, GB", "peak, GB"]
    lines = [
        result["title"],
        f"{where['gpu'] or where['cpu']}, {where['threads']} threads, torch {result['versions']['torch']}, "
        f"load {where['load']}; matrix products reach {peak['flops'] / 1e9:.0f} GFLOP/s ({peak['dtype']})",
        "",
        tabulate(rows, headers, disable_numparse=True, colalign=("left",) + ("right",) * 8),
        "",
    ]
    if result["test_batches"]:
        lines.append(f"Seconds per batch of a test split of {result['test_batches']} batches")
    if "ratio" in result:
        ratio = result["ratio"]
        order = "in turn" if result["alternating"] else "one after the other (together they would not fit into memory)"
        lines.append(
            f"{ratio['median']:.2f} times faster ({ratio['min']:.2f} to {ratio['max']:.2f}), "
            f"{result['memory_ratio']:.2f} of the memory; the paths ran {order}"
        )
    else:
        lines.append(f"plain path skipped: {result['plain']['skipped']['reason']}")
    if result["profile"]:
        rows = [[e["name"], e["calls"], f"{e['seconds']:.4f}", f"{e['share']:.0%}"] for e in result["profile"]]
        lines += ["", tabulate(rows, ["operation (our path)", "calls", "seconds", "share"], disable_numparse=True)]
    return "\n".join(lines)


def figures_row(name: str, figures: dict) -> list[str]:
    """One row of the table."""
    seconds, memory = figures["seconds"], figures.get("memory")
    return [
        name,
        *(f"{seconds[key]:.4g}" for key in ("median", "min", "max")),
        f"{figures['flops'] / 1e9:.4g}",
        f"{figures['flops_per_second'] / 1e9:.0f}",
        f"{figures['share']:.0%}",
        *((f"{memory['before'] / GB:.2f}", f"{memory['peak'] / GB:.2f}") if memory else ("", "")),
    ]


def write_json(path: Path, content: dict) -> None:
    """Write a file in one go."""
    write_text(json.dumps(content, indent=1) + "\n", path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        case = make_case(args)
        free = args.memory_limit * GB if args.memory_limit else machine.free_bytes(case.device)
        batches = -(-args.test_images // case.batch)
        result = measure(case, args.repeats, batches, not args.no_plain, args.profile, free)
    except ValueError as error:
        parser.error(str(error))
    except WorkerError as error:
        parser.exit(1, f"{error}\n")
    print(show(result))
    if args.json:
        write_json(args.json, result)
    return 0


if __name__ == "__main__":
    bind_package()
    sys.exit(main())
