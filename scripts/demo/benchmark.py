"""The benchmark on the miniature world: what is run, and the page docs/demo_benchmark/README.md that is made from it.

    bash scripts/demo/benchmark.sh                   # run what is not finished yet, seed by seed, then the page
    bash scripts/demo/benchmark.sh --seeds "1 2"     # only these seeds; --parts "base2new" only that of each
    bash scripts/demo/benchmark.sh --rates           # the learning rates, on validation images of two sets
    python scripts/demo/benchmark.py --page          # only the page, from the seeds that are complete

The page is made from the seeds that are complete, for each of its parts (base2new, ablations, transfers, fewshot).
Nothing runs before the world is frozen (FROZEN). The page's words are written by hand; its tables (between markers),
figures and the CSV of every seed are generated.
"""

import argparse
import csv
import io
import json
import os
import runpy
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ in ("__main__", "__mp_main__"):
    runpy.run_path(str(ROOT / "checkout.py"))["bind_package"]()

import benchmark_page  # noqa: E402 (after the guard)
from benchmark_plan import CONFIG, HELD_OUT, PARTS, RATE_SEEDS, RATES, SEEDS, TRAINED, plan, rate_job  # noqa: E402
from mocoop import config, methods  # noqa: E402
from mocoop.commands.protocol import from_environment, numbers, run_all  # noqa: E402
from mocoop.runs.folder import is_finished  # noqa: E402
from mocoop.runs.protocols import Settings  # noqa: E402
from mocoop.toolbox.dassl.utils import cores, write_text  # noqa: E402

FROZEN = "8d682b5"  # the commit that froze the world, before any other method than zero-shot CLIP and CoOp ran on it
PAGE = ROOT / "docs/demo_benchmark"


def workers(settings: Settings) -> int:
    """How many runs go at once: JOBS, else one per core, at most 4."""
    return settings.jobs or min(cores(), 4)


def complete_seeds(settings: Settings, part: str) -> list[int]:
    """The seeds of which every run of a part is finished."""
    return [seed for seed in SEEDS if all(is_finished(job.folder) for job in plan(settings, seed, [part]))]


def run_seeds(settings: Settings, seeds: Sequence[int], parts: Sequence[str]) -> int:
    """Run one seed after the other, so that an interrupted call leaves whole ones; returns the exit code."""
    for seed in seeds:
        print(f"Seed {seed} ({seeds.index(seed) + 1} of {len(seeds)})", flush=True)
        if code := run_all(plan(settings, seed, parts), workers(settings)):
            return code
    return 0


# ---- learning rates


def config_rate(method: str) -> float:
    """The learning rate of a method's config."""
    return float(config.read_yaml(methods.named(method).folder / f"{CONFIG}.yaml")["OPTIM.LR"])


def run_rates(settings: Settings, folder: Path) -> int:
    """Measure every learning rate, write rates.csv into the page's folder, say which to take; returns the exit code."""
    cells = list(product(TRAINED, RATES, HELD_OUT, RATE_SEEDS))
    jobs = [rate_job(*cell, settings) for cell in cells]
    if code := run_all(jobs, workers(settings)):
        return code
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(benchmark_page.RATE_FIELDS)
    for cell, job in zip(cells, jobs, strict=True):
        record = json.loads((job.folder / "results.json").read_text(encoding="utf-8"))
        writer.writerow([*cell, record["val"]["accuracy"]])
    write_text(file.getvalue(), folder / "rates.csv")
    means = benchmark_page.mean_rates(folder / "rates.csv")
    for method, rate in benchmark_page.best_rates(means).items():
        has = config_rate(method)
        say = "as its config has it" if has == rate else f"CHANGE it: its config has {has:g}"
        print(f"{method}: OPTIM.LR {rate:g} ({means[method][rate]:.1f}% on validation images), {say}")
    print(f"Written: {folder / 'rates.csv'}")
    return 0


# ---- the command


def check_frozen(commit: str) -> None:
    """Refuse to run methods on a world that may still change.

    Raises:
        ConfigError: no commit is named.
    """
    if not commit:
        raise config.ConfigError(
            ["the world is not frozen yet, so nothing may be compared on it (FROZEN in scripts/demo/benchmark.py)"]
        )


def check_page(settings: Settings) -> dict[str, list[int]]:
    """The complete seeds of each part.

    Raises:
        ConfigError: a part has none; says how far the first is.
    """
    seeds = {part: complete_seeds(settings, part) for part in PARTS}
    for part in [part for part in PARTS if not seeds[part]]:
        jobs = plan(settings, SEEDS[0], [part])
        lacking = [job.folder for job in jobs if not is_finished(job.folder)]
        raise config.ConfigError(
            [
                f"no seed of {part} is complete (of seed {SEEDS[0]}, {len(lacking)} of {len(jobs)} runs are not "
                f"finished, e.g. {lacking[0]}); no page is made.",
                "Run them with: bash scripts/demo/benchmark.sh",
            ]
        )
    return seeds


def make_page(settings: Settings, folder: Path, commit: str) -> None:
    """The page from the seeds that are complete, part by part.

    Raises:
        ConfigError: a part has none.
    """
    seeds = check_page(settings)
    jobs = list(dict.fromkeys(job for part in PARTS for seed in seeds[part] for job in plan(settings, seed, [part])))
    rates = {method: config_rate(method) for method in TRAINED}
    benchmark_page.make_page(settings.output, jobs, seeds, commit, rates, PAGE, folder)
    print(f"Written: {folder}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rates", action="store_true", help="only measure the learning rates")
    what.add_argument("--page", action="store_true", help="only write the page, from finished runs")
    what.add_argument("--seeds", default=" ".join(map(str, SEEDS)), help='which to run, e.g. "1 2" (default: all)')
    parser.add_argument("--parts", default=" ".join(PARTS), help="which parts to run (default: %(default)s)")
    parser.add_argument("--frozen", default=FROZEN, metavar="COMMIT", help="the commit that froze the world")
    parser.add_argument("--folder", type=Path, default=PAGE, help="where the page goes")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and write its page; returns the exit code."""
    args = parse(argv)
    try:
        settings = from_environment(os.environ)
        check_frozen(args.frozen)
        if args.rates:
            return run_rates(settings, args.folder)
        seeds = numbers("--seeds", args.seeds)
        if wrong := set(seeds) - set(SEEDS):
            raise config.ConfigError([f"--seeds {args.seeds}: {min(wrong)} is none of {' '.join(map(str, SEEDS))}"])
        parts = args.parts.split()
        if wrong := set(parts) - set(PARTS):
            raise config.ConfigError([f"--parts {args.parts}: {min(wrong)} is none of {', '.join(PARTS)}"])
        if not parts or not seeds:
            raise config.ConfigError(["--seeds and --parts: expected at least one of each"])
        if not args.page and (code := run_seeds(settings, seeds, parts)):
            return code
        lacking = [part for part in PARTS if part not in parts and not complete_seeds(settings, part)]
        if lacking and not args.page:
            print(f"No page is made: no seed of {', '.join(lacking)} is complete yet.")
            return 0
        make_page(settings, args.folder, args.frozen)
    except config.ConfigError as error:
        print("Error: " + "\n".join(error.problems), file=sys.stderr)
        return 1
    except (ValueError, ImportError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
