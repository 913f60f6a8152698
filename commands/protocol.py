"""`mocoop protocol`: the command behind `scripts/`."""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import methods, train
from ..config import ConfigError
from ..runs.errors import explain
from ..runs.pool import Job, run_jobs
from ..runs.protocols import (
    PROTOCOLS,
    STEPS,
    Experiment,
    Settings,
    check_dataset,
    check_files,
    folder_name,
    method_named,
)
from ..toolbox.dassl.errors import ExpectedError
from ..toolbox.dassl.utils import cores

ROOT = Path(__file__).resolve().parent.parent


def numbers(name: str, text: str) -> tuple[int, ...]:
    """The whole numbers of a setting such as SHOTS="1 2 4".

    Raises:
        ConfigError: something else is there.
    """
    try:
        return tuple(int(word) for word in text.split())
    except ValueError:
        raise ConfigError([f"{name}={text!r}: expected whole numbers with spaces between"]) from None


# What --help says of each; scripts/lib.sh has the same lines.
SETTINGS = """\
DATA     folder of the data sets (default: data in the checkout; without a checkout, where you are)
OUTPUT   folder for the runs (default: output, in the same place)
SHOTS    training images per class (default: 16; few-shot: all of 1 2 4 8 16)
CFG      name of the method's config (default: the method's own for the data set)
TAG      added to the config's name in the run's folder, to keep runs with other options apart
SOURCE   data set that the tested model was trained on (default: the one that has the target, e.g. imagenet)
TARGETS  what cross-dataset or domain generalization tests (default: the source's usual targets)
JOBS     runs at once (default: 1; on the demo world one per core, at most 4)"""


def home() -> Path:
    """Where `data` and `output` lie: the checkout; installed from a wheel (which has no setup.py), where you are."""
    return ROOT if (ROOT / "setup.py").is_file() else Path.cwd()


def folder(name: str, given: Mapping[str, str], default: str) -> Path:
    """The folder that a setting names, which need not be there yet; by default, one in `home`.

    Raises:
        ConfigError: it, or what it lies in, is a file.
    """
    return check_folder(name, Path.cwd() / given.get(name, home() / default))


def check_folder(name: str, path: Path) -> Path:
    """The path if it is a folder or can become one.

    Raises:
        ConfigError: it, or what it lies in, is a file.
    """
    first = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if not first.is_dir():
        raise ConfigError([f"{name}={path}: {first} is {'not a folder' if first.exists() else 'a link to nothing'}"])
    return path


def from_environment(env: Mapping[str, str]) -> Settings:
    """The settings of the scripts (SETTINGS). All are optional; empty is the same as absent.

    Relative folders are relative to where you are.

    Raises:
        ConfigError: SHOTS or JOBS is not a number, TAG no part of a folder's name, DATA or OUTPUT no possible folder.
    """
    given = {name: value for name, value in env.items() if value.strip()}
    jobs = numbers("JOBS", given["JOBS"]) if "JOBS" in given else None
    if jobs is not None and (len(jobs) != 1 or jobs[0] < 1):
        raise ConfigError([f"JOBS={given['JOBS']!r}: expected one whole number, at least 1"])
    if Path(given.get("TAG", "")).name != given.get("TAG", ""):
        raise ConfigError([f"TAG={given['TAG']!r}: expected part of a folder's name, without /"])
    return Settings(
        data=folder("DATA", given, "data"),
        output=folder("OUTPUT", given, "output"),
        shots=numbers("SHOTS", given["SHOTS"]) if "SHOTS" in given else None,
        config=given.get("CFG"),
        tag=given.get("TAG"),
        source=given.get("SOURCE"),
        targets=tuple(given["TARGETS"].split()) if "TARGETS" in given else None,
        jobs=jobs[0] if jobs else None,
    )


def workers_for(experiments: Sequence[Experiment], settings: Settings) -> int:
    """How many runs go at once: JOBS, else one per core, at most 4, for the small demo world, else one."""
    if settings.jobs is not None:
        return settings.jobs
    return min(cores(), 4) if all(experiment.small_world for experiment in experiments) else 1


def run_all(jobs: Sequence[Job], workers: int) -> int:
    """`pool.run_jobs`: every job is a run of train.py."""
    return run_jobs(jobs, train.main, train.config_of, workers)


def run_step(name: str, args: Sequence[str], settings: Settings) -> int:
    """One script of a method: METHOD DATASET SEED [KEY VALUE ...]; returns the exit code.

    Raises:
        ConfigError: arguments are missing or not known.
    """
    if len(args) < 3 or not re.fullmatch(r"-?[0-9]+", args[2]):
        usage = f"scripts/<method>/{name}.sh DATASET SEED [KEY VALUE ...], e.g. demo_icons 1 OPTIM.MAX_EPOCH 5"
        raise ConfigError([f"usage: bash {usage}"])
    check_dataset(args[1])
    experiment = Experiment(method_named(args[0]), args[1], int(args[2]), settings, tuple(args[3:]))
    jobs = STEPS[name](experiment)
    check_files(jobs)
    return run_all(jobs, settings.jobs or 1)


def run_protocol(args: Sequence[str], settings: Settings) -> int:
    """A whole protocol: PROTOCOL DATASET [METHODS [SEEDS [KEY VALUE ...]]], then its table; returns the exit code.

    Raises:
        ConfigError: arguments are missing or not known.
    """
    options = tuple(args[4:])
    unquoted = len(options) % 2 or any(re.fullmatch(r"-?[0-9]+", key) for key in options[::2])
    if len(args) < 2 or unquoted or args[0] not in PROTOCOLS:
        usage = f"run_protocol.sh {'|'.join(PROTOCOLS)} DATASET ['zsclip coop mocoop' ['1 2 3' [KEY VALUE ...]]]"
        raise ConfigError([f"usage: bash scripts/{usage}"])
    protocol, dataset = args[:2]
    check_dataset(dataset)
    names = args[2].split() if len(args) > 2 else compared()
    seeds = numbers("seeds", args[3] if len(args) > 3 else "1 2 3")
    experiments = [Experiment(method_named(m), dataset, seed, settings, options) for m in names for seed in seeds]
    jobs = [job for experiment in experiments for job in PROTOCOLS[protocol](experiment)]
    check_files(jobs)
    code = run_all(jobs, workers_for(experiments, settings))
    if code == 0:
        from .. import results

        print()
        code = results.main(
            [str(settings.output), "--protocol", protocol, "--dataset", folder_name(dataset, settings.data)]
        )
    return code


def compared() -> list[str]:
    """The methods of a protocol unless some are named, as scripts call them."""
    return [row.script for row in methods.table().values() if row.compared]


def build_parser() -> argparse.ArgumentParser:
    """The command line; its help lists steps, protocols and settings."""
    known = ", ".join(row.script for row in methods.table().values())
    parser = argparse.ArgumentParser(
        prog="mocoop protocol",
        description="The runs behind scripts/. Finished ones are skipped, unfinished ones go on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="""%(prog)s STEP METHOD DATASET SEED [KEY VALUE ...]
       %(prog)s run PROTOCOL DATASET ['METHOD ...' ['SEED ...' [KEY VALUE ...]]]""",
        epilog="\n".join(
            [
                f"STEP      {', '.join(STEPS)}",
                f"PROTOCOL  {', '.join(PROTOCOLS)}",
                f"METHOD    {known} (of a protocol without METHODs: {', '.join(compared())})",
                "DATASET   a name that `mocoop list datasets` prints, or the path of a yaml file of your own",
                "SEED      a whole number (of a protocol without SEEDs: 1 2 3)",
                "\nsettings, all optional, from the environment (relative folders: from where you are):",
                *SETTINGS.splitlines(),
            ]
        ),
    )
    parser.add_argument("what", choices=[*STEPS, "run"], help=argparse.SUPPRESS)
    parser.add_argument("args", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a step of a method or a whole protocol; returns the exit code."""
    try:
        parser = build_parser()
        given = parser.parse_args(argv)
        if {"-h", "--help"} & set(given.args):
            parser.print_help()
            return 0
        settings = from_environment(os.environ)
        if given.what == "run":
            return run_protocol(given.args, settings)
        return run_step(given.what, given.args, settings)
    except ConfigError as error:
        print("Error: " + "\n".join(error.problems), file=sys.stderr)
        return 1
    except (ExpectedError, OSError) as error:  # a package's method that cannot be imported, a full disk
        print(f"Error: {explain(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted. The same command again goes on.", file=sys.stderr)
        return 130
