"""`mocoop sweep`: hundreds of runs from one file, here, on a Slurm cluster, or in shards for another scheduler."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .. import train
from ..runs import progress, slurm, sweeps
from ..runs.pool import check_jobs, interrupt_on, run_jobs, unfinished
from ..runs.protocols import Settings
from ..runs.sweeps import Grid, Item
from ..toolbox.dassl.errors import ExpectedError, WrongValue
from .arguments import positive
from .protocol import from_environment, workers_for

EPILOG = """\
GRID is a yaml file, or the name of one of configs/sweeps: %(known)s.
An item is a training run and all tests of its model. Finished runs are never repeated; the same command goes on.
docs/CLUSTER.md says what the file holds and how a cluster is used."""


def shard(text: str) -> tuple[int, int]:
    """The value of --shard."""
    try:
        return sweeps.shard_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected i/n with i from 1 to n, e.g. 3/8, got {text!r}") from None


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    known = ", ".join(sorted(path.stem for path in sweeps.SWEEPS.glob("*.yaml")))
    parser = argparse.ArgumentParser(
        prog="mocoop sweep",
        description="The runs of a grid: protocols x data sets x methods x shots x seeds x variants.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG % {"known": known},
    )
    add = parser.add_argument
    add("grid", metavar="GRID", help="yaml file of the sweep, or its name")
    add("--data", help="folder of the data sets (default: DATA, else data in the checkout)")
    add("--output", help="folder for the runs (default: OUTPUT, else output in the checkout)")
    add("--on", choices=["local", "slurm"], default="local", help="where it runs (default: this machine)")
    add("--jobs", type=positive, help="runs at once on this machine (default: JOBS, else as in `mocoop protocol`)")
    add("--shard", type=shard, metavar="I/N", help="only the I-th of N parts of the items, for another scheduler")
    add("--items", type=positive, nargs="+", metavar="NUMBER", help="only these, by the numbers that --list prints")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print the items, run nothing")
    what.add_argument("--dry-run", action="store_true", help="print what is left and what it costs, run nothing")
    what.add_argument("--status", action="store_true", help="print what is done, running, waiting and failed, and why")
    what.add_argument("--watch", action="store_true", help="--status again and again, until all is done")
    what.add_argument("--script", action="store_true", help="print an sbatch script of the sweep, submit nothing")
    add_slurm(parser)
    return parser


def chosen(items: Sequence[Item], args: argparse.Namespace) -> list[Item]:
    """The items that --shard and --items leave.

    Raises:
        WrongValue: there is no item of such a number.
    """
    if args.items:
        if max(args.items) > len(items):
            raise WrongValue(f"--items {max(args.items)}: there are only {len(items)} (see --list)")
        return [items[number - 1] for number in dict.fromkeys(args.items)]
    return sweeps.part_of(items, args.shard) if args.shard else list(items)


def settings_of(args: argparse.Namespace) -> Settings:
    """Where data and runs are and how many go at once; the rest is the grid's."""
    given = {"DATA": args.data, "OUTPUT": args.output}
    settings = from_environment({name: given.get(name) or os.environ.get(name, "") for name in (*given, "JOBS")})
    return replace(settings, jobs=args.jobs or settings.jobs)


def add_slurm(parser: argparse.ArgumentParser) -> None:
    """What a task asks for; --expect is for tasks themselves."""
    add = parser.add_argument_group("of a task on Slurm (default: the key `slurm` of GRID)").add_argument
    add("--gpus", type=int, metavar="N")
    add("--cpus", type=int, metavar="N")
    add("--memory", metavar="SIZE", help="e.g. 32G")
    add("--time", help="limit, e.g. 4:00:00; a task that reaches it is queued again and goes on")
    add("--partition", metavar="NAME")
    add("--account", metavar="NAME")
    add("--at-once", type=int, metavar="N", help="tasks that run at one time, at most")
    add("--tasks", type=int, metavar="N", help="tasks of the array, at most; with more items, a task does several")
    parser.add_argument("--expect", help=argparse.SUPPRESS)


def request(grid: Grid, args: argparse.Namespace) -> slurm.Request:
    """What a task asks for: the grid's words, and over them the arguments."""
    names = ("gpus", "cpus", "memory", "time", "partition", "account", "at_once", "tasks")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return slurm.request_of(grid.slurm | given)


def on_a_node(settings: Settings, token: str) -> None:
    """In a task of a cluster: check that the output folder is the shared one, take the cores and signals it has.

    Raises:
        WrongValue: see `slurm.check_shared`.
    """
    slurm.check_shared(settings.output, token)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm's warning; what it then ends, it queues again
    interrupt_on(slurm.STOP)
    if os.environ.get("SLURM_CPUS_PER_TASK"):
        os.environ.setdefault("OMP_NUM_THREADS", os.environ["SLURM_CPUS_PER_TASK"])


def run_here(items: Sequence[Item], grid: Grid, settings: Settings) -> int:
    """Run items on this machine; returns the exit code."""
    jobs = [job for item in items for job in item.jobs]
    todo = unfinished(jobs)
    print(f"{len(jobs) - len(todo)} of {len(jobs)} runs are done already", flush=True)
    workers = workers_for(sweeps.experiments_of(grid, settings), settings)
    return run_jobs(jobs, train.main, train.config_of, workers, sweep=True)


def submit(grid: Grid, path: Path, numbers: Sequence[int], asked: slurm.Request, settings: Settings) -> None:
    """Submit items to Slurm, by their numbers.

    Raises:
        WrongValue: tasks of this sweep are in the queue already.
        ExpectedError, MissingPackage: see `slurm.check_ready` and `slurm.submit`.
    """
    slurm.check_ready()
    folder = slurm.state_folder(settings.output, grid.name)
    waiting = slurm.queue(slurm.submitted(folder))
    if waiting:
        jobs = " ".join(slurm.submitted(folder)[-1:])
        raise WrongValue(
            f"{waiting.total()} tasks of the sweep {grid.name} are in the queue already: wait for them (--status), or "
            f"take them out with scancel {jobs}"
        )
    command = task_command(path, folder, settings)
    parts = slurm.deal(numbers, asked.tasks)
    commands = [[*command, "--items", *map(str, part)] for part in parts]
    job = slurm.submit(grid.name, commands, asked, folder)
    print(f"Submitted {len(numbers)} items as {len(parts)} tasks, Slurm job {job}; logs in {folder / slurm.LOGS}")
    print(f"Each asks for {asked}.")
    print("The same command with --status, or --watch, in place of --on says how far they are.")


def task_command(path: Path, folder: Path, settings: Settings) -> list[str]:
    """What a task calls, with the sweep's file frozen; notes a disk that nodes may not see.

    Raises:
        OSError: the output folder cannot be written to.
    """
    token = slurm.make_token(settings.output)
    disk = slurm.kind_of_disk(settings.output)
    if disk:
        print(
            f"Note: {settings.output} is on a disk of the kind {disk}, which is often one machine's own. A node that "
            "does not see it does nothing and says so.",
            file=sys.stderr,
        )
    return slurm.command_of(slurm.freeze(path, folder), settings.output, settings.data, token)


def show_status(items: Sequence[Item], grid: Grid, settings: Settings) -> bool:
    """Print how far a sweep is; returns whether anything is still to come."""
    states = [progress.state_of(item) for item in items]
    print("\n".join(progress.report(states, settings.output)))
    folder = slurm.state_folder(settings.output, grid.name)
    if slurm.submitted(folder):
        print(f"Slurm: {in_queue(folder)}", flush=True)
    return any(state.name in ("running", "waiting") for state in states)


def in_queue(folder: Path) -> str:
    """What Slurm says of a sweep's tasks, and what it means if it says nothing."""
    jobs = slurm.submitted(folder)
    try:
        counts = slurm.queue(jobs)
    except ExpectedError as error:
        return str(error)
    if counts:
        text = ", ".join(f"{number} tasks {state.lower()}" for state, number in sorted(counts.items()))
        return text + (f" (scontrol release {jobs[-1]} lets them go on)" if counts[slurm.HELD] else "")
    if slurm.traces(folder):
        return f"no task in the queue any more; logs are in {folder / slurm.LOGS}"
    return (
        f"no task in the queue, and no log in {folder / slurm.LOGS}: if tasks have ended, their nodes do not see this "
        "folder, which must lie on a file system that all of them share (--output)"
    )


def watch(items: Sequence[Item], grid: Grid, settings: Settings, seconds: float = 10) -> None:
    """Print the status again and again, until nothing is running or waiting."""
    while True:
        if sys.stdout.isatty():
            print("\033[2J\033[H", end="")
        print(time.strftime("%H:%M:%S"))
        if not show_status(items, grid, settings):
            return
        time.sleep(seconds)


def warn_of_other_settings(items: Sequence[Item]) -> None:
    """Say so if what counts as done was done with other settings, so that the sweep would not start."""
    if problems := sweeps.of_other_settings(items, train.config_of):
        print("\nWarning: what is done here was done with other settings; the sweep will not start:")
        print("\n".join(f"  - {problem}" for problem in problems))


def tables(items: Sequence[Item], grid: Grid, settings: Settings) -> int:
    """Print the tables of the sweep's protocols once all of it is done; returns the exit code."""
    if any(unfinished(item.jobs) for item in items):
        return 0
    from .. import results

    codes = []
    for protocol in grid.protocols:
        print()
        codes.append(results.main([str(settings.output), "--protocol", protocol]))
    return max(codes)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say; returns the exit code."""
    args = build_parser().parse_args(argv)
    path = sweeps.find(args.grid)
    grid, settings = sweeps.read_grid(path), settings_of(args)
    asked = request(grid, args)
    every = sweeps.items_of(grid, settings)
    items = chosen(every, args)
    if args.script and len(items) < len(every):
        raise WrongValue("--script makes a script of all items; give it no --items and no --shard")
    numbers = {item: number for number, item in enumerate(every, 1)}
    if args.list:
        print("\n".join(f"{numbers[item]:5}  {item.name}" for item in items))
    elif args.dry_run:
        sweeps.check_options(items, train.config_of)
        print("\n".join(progress.estimate(items, settings.output)))
        warn_of_other_settings(items)
    elif args.status:
        show_status(items, grid, settings)
        warn_of_other_settings(items)
    elif args.watch:
        watch(items, grid, settings)
    else:
        return start(items, [numbers[item] for item in items], grid, path, args, asked, settings)
    return 0


def start(
    items: Sequence[Item],
    numbers: Sequence[int],
    grid: Grid,
    path: Path,
    args: argparse.Namespace,
    asked: slurm.Request,
    settings: Settings,
) -> int:
    """Run, submit, or print the script; returns the exit code.

    Args:
        items, numbers: what is to be done, and as what --list shows it.
        grid, path: what is in the sweep's file, and the file.
        asked: what a task asks for.
        settings: where data and runs are.
    """
    if args.expect:
        on_a_node(settings, args.expect)
    else:
        interrupt_on(signal.SIGTERM)
        sweeps.check_options(items, train.config_of)
    folder = slurm.state_folder(settings.output, grid.name)
    if args.script:
        command = task_command(path, folder, settings)
        print(slurm.script(grid.name, command, len(items), asked, folder), end="")
        return 0
    if args.on == "slurm":
        jobs = [job for item in items for job in item.jobs]
        check_jobs(jobs, unfinished(jobs), train.config_of)
        left = [number for item, number in zip(items, numbers, strict=True) if unfinished(item.jobs)]
        if left:
            submit(grid, path, left, asked, settings)
            return 0
        print("all items are done already")
        return tables(items, grid, settings)
    code = run_here(items, grid, settings)
    return code if code or args.expect or args.shard or args.items else tables(items, grid, settings)
