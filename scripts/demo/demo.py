"""The demo: base-to-new on the ten data sets of the miniature world, then one line per data set and the average.

    bash scripts/demo.sh

Finished runs in the output folder, those of scripts/demo/benchmark.sh among them, are not repeated.
"""

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ in ("__main__", "__mp_main__"):
    runpy.run_path(str(ROOT / "checkout.py"))["bind_package"]()

from benchmark_page import collect, markdown  # noqa: E402 (after the guard)
from benchmark_plan import AVERAGED, HELD_OUT, SETS, jobs_of  # noqa: E402
from mocoop import config, results  # noqa: E402
from mocoop.commands.protocol import from_environment, numbers, run_all  # noqa: E402
from mocoop.results.render import number  # noqa: E402
from mocoop.runs.folder import is_finished  # noqa: E402
from mocoop.runs.protocols import check_files, method_named  # noqa: E402
from mocoop.toolbox.dassl.utils import cores  # noqa: E402


def cells(made: results.Table, rows: Sequence[results.Row], names: Sequence[str], spread: bool) -> list[str]:
    """Base / new / H of each method, from the rows of one data set or of the averages."""
    own = {row.method: row for row in rows}
    return [
        " / ".join(
            number(cell, own[name], not spread or column in made.plain)
            for cell, column in zip(own[name].cells, made.columns, strict=True)
        )
        for name in names
    ]


def table(found: results.Results, names: Sequence[str]) -> str:
    """Data sets x methods: base / new / H of each, means over seeds; then the averages with their spread over seeds."""
    made = results.tables_of(found, "base2new")[0]
    body = []
    for dataset in SETS:
        rows = [row for row in made.rows if row.group[0] == dataset]
        label = f"{dataset} (not averaged)" if dataset in HELD_OUT else dataset
        body.append([label, *cells(made, rows, names, spread=False)])
    averaged = results.Results([run for run in found.runs if run.setting.place.dataset in AVERAGED])
    made = results.tables_of(averaged, "base2new")[0]
    rows = [row for row in made.rows if row.average]
    body.append([f"average of {len(AVERAGED)}", *cells(made, rows, names, spread=True)])
    return markdown(["Data set", *names], body)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and print its table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("methods", help='as scripts call them, e.g. "zsclip coop mocoop"')
    parser.add_argument("seeds", help='e.g. "1 2 3"')
    args = parser.parse_args(argv)
    try:
        settings = from_environment(os.environ)
        names, seeds = [method_named(name) for name in args.methods.split()], numbers("SEEDS", args.seeds)
        if not names or not seeds:
            raise config.ConfigError(["METHODS and SEEDS: expected at least one of each"])
        jobs = jobs_of("base2new", SETS, seeds, settings, names)
        check_files(jobs)
        if code := run_all(jobs, settings.jobs or min(cores(), 4)):
            return code
        if left := [job.folder for job in jobs if not is_finished(job.folder)]:  # another process is at work there
            raise config.ConfigError([f"{len(left)} runs are not finished, e.g. {left[0]}; call this again"])
        shown = table(collect(settings.output, jobs), names)
    except config.ConfigError as error:
        print("Error: " + "\n".join(error.problems), file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    said = f"means over seeds {' '.join(map(str, seeds))}, the averages ± population std over seeds"
    print(f"\nBase-to-new, accuracy in % on base / new classes / H, {said}\n\n{shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
