"""A sweep: protocols x data sets x methods x shots x seeds x variants from one file, as items. No torch is imported.

An item is what one process of a cluster does: a training run and all tests of its model, or all tests of a method that
is not trained. Its runs are those of `protocols`, in their folders; what two protocols share (the source's model of
cross-dataset and domain generalization) is there once.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from .. import methods
from ..config import CONFIGS, ConfigError, flat, read_mapping
from ..toolbox.dassl.utils import did_you_mean
from .folder import is_finished
from .layout import read_path
from .pool import ConfigOf, Job, check_done
from .protocols import PROTOCOLS, Experiment, Settings, check_dataset, check_files, method_named

SWEEPS = CONFIGS / "sweeps"
LISTS = ("protocols", "datasets", "methods", "shots", "seeds", "targets")  # of names or whole numbers
KEYS = (*LISTS, "config", "options", "variants", "slurm")
SHARD = re.compile(r"([0-9]+)/([0-9]+)")


@dataclass(frozen=True)
class Grid:
    """What a sweep's file says.

    Attributes:
        name: of the file, without its suffix.
        protocols, datasets, methods, seeds: what is run, each with each; of a transfer protocol, the data set is the
            source.
        shots: training images per class; empty = the protocol's own (16; few-shot 1 2 4 8 16).
        targets: of the transfer protocols; empty = the source's usual ones.
        config: the name of the methods' config; None = each method's own for the data set.
        options: KEY VALUE words of all runs.
        variants: name -> further KEY VALUE words; the name is added to the config's in folders, as TAG is.
        slurm: see `slurm.Request`; not read here.
    """

    name: str
    protocols: tuple[str, ...]
    datasets: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    shots: tuple[int, ...] = ()
    targets: tuple[str, ...] = ()
    config: str | None = None
    options: tuple[str, ...] = ()
    variants: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"": ()})
    slurm: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """Runs that belong together: a training run, then the tests of its model; or an untrained method's tests."""

    jobs: tuple[Job, ...]

    @property
    def folder(self) -> Path:
        """The folder of the first run, which no other item has."""
        return self.jobs[0].folder

    @property
    def name(self) -> str:
        """What it is, for people."""
        tests = len(self.jobs) - 1
        return self.jobs[0].name + (f"  (+ {tests} test{'s' * (tests > 1)})" if tests else "")

    def method(self, output: Path) -> str:
        """The method's name; `output`: the folder of all runs."""
        return read_path(self.folder.relative_to(output))[0].method


def find(name: str) -> Path:
    """A sweep's file from its path, or from the name of one of `configs/sweeps`."""
    own = SWEEPS / f"{name}.yaml"
    return own if not Path(name).exists() and own.is_file() else Path(name)


def read_grid(path: Path) -> Grid:
    """The grid of a sweep's file.

    Raises:
        ConfigError: listing all that is wrong with it.
    """
    values = read_mapping(path)
    if not path.stem.isprintable():
        raise ConfigError([f"the name of a sweep's file becomes part of scripts; found {path.name!r}: rename the file"])
    problems = [f"unknown key {key!r}{did_you_mean(str(key), KEYS)}" for key in values if key not in KEYS]
    lists = {name: listed(name, values[name], problems) for name in LISTS if values.get(name) is not None}
    lists.setdefault("methods", tuple(row.script for row in methods.table().values() if row.compared))
    problems += [f"{name}: expected at least one" for name in ("protocols", "datasets") if name not in lists]
    problems += unknown(lists)
    grid = {name: value for name, value in lists.items() if value}
    for name, read in (
        ("config", part_of_folder),
        ("options", words_of),
        ("variants", variants_of),
        ("slurm", mapping_of),
    ):
        if values.get(name) is not None:
            grid[name] = read(name, values[name], problems)
    if problems:
        raise ConfigError([f"sweep {path}:", *problems])
    return Grid(path.stem, **grid)


def listed(name: str, value: object, problems: list[str]) -> tuple[object, ...]:
    """The values of one axis, each once; a single one may stand without brackets. What is wrong goes to `problems`."""
    kind, words = (int, "whole numbers") if name in ("shots", "seeds") else (str, "names")
    found = value if isinstance(value, list) else [value]
    wrong = [one for one in found if not isinstance(one, kind) or isinstance(one, bool)]
    if wrong:
        problems.append(f"{name}: expected {words}, found {wrong[0]!r}")
    elif not found:
        problems.append(f"{name}: expected at least one")
    elif name == "shots" and min(found) < 1:
        problems.append(f"shots: expected at least 1, found {min(found)}")
    return () if wrong else tuple(dict.fromkeys(found))


def unknown(lists: dict[str, tuple]) -> list[str]:
    """Problems with the names of protocols, methods and data sets."""
    problems = [
        f"protocols: {name!r} is not known{did_you_mean(name, PROTOCOLS)} (one of: {', '.join(PROTOCOLS)})"
        for name in lists.get("protocols", ())
        if name not in PROTOCOLS
    ]
    checks = [(method_named, name) for name in lists["methods"]]
    checks += [(check_dataset, name) for name in (*lists.get("datasets", ()), *lists.get("targets", ()))]
    for check, name in checks:
        try:
            check(name)
        except ConfigError as error:
            problems += error.problems
    return problems


def text_of(name: str, value: object, problems: list[str]) -> str:
    """A text; anything else is a problem."""
    if not isinstance(value, str):
        problems.append(f"{name}: expected a name, found {value!r}")
    return str(value)


def part_of_folder(name: str, value: object, problems: list[str]) -> str:
    """A text that can be part of a folder's name; anything else is a problem."""
    text = text_of(name, value, problems)
    if Path(text).name != text or not text.isprintable():
        problems.append(f"{name}: {text!r} cannot be part of a folder's name")
    return text


def mapping_of(name: str, value: object, problems: list[str]) -> dict[str, object]:
    """A mapping; anything else is a problem."""
    if isinstance(value, dict):
        return value
    problems.append(f"{name}: expected KEY: VALUE lines, found {value!r}")
    return {}


def words_of(name: str, value: object, problems: list[str]) -> tuple[str, ...]:
    """Config keys and their values, nested or with dots, as the words of a command line."""
    try:
        pairs = flat(mapping_of(name, value, problems), name)
    except ConfigError as error:
        problems += error.problems
        return ()
    return tuple(str(word) for pair in pairs.items() for word in pair)


def variants_of(name: str, value: object, problems: list[str]) -> dict[str, tuple[str, ...]]:
    """Name -> its words. The name becomes part of a folder's."""
    found = {
        str(tag) and part_of_folder(name, str(tag), problems): words_of(f"{name}: {tag}", more or {}, problems)
        for tag, more in mapping_of(name, value, problems).items()
    }
    if not found:
        problems.append(f"{name}: expected at least one")
    return found


def experiments_of(grid: Grid, settings: Settings) -> list[Experiment]:
    """One experiment for each data set, method, variant and seed.

    Args:
        settings: where data and runs are; the rest of them is the grid's.
    """
    own = replace(settings, config=grid.config, targets=grid.targets or None, shots=grid.shots or None)
    return [
        Experiment(method_named(method), dataset, seed, replace(own, tag=tag or None), grid.options + more)
        for dataset, method, (tag, more), seed in product(
            grid.datasets, grid.methods, grid.variants.items(), grid.seeds
        )
    ]


def jobs_of(protocol: str, experiment: Experiment) -> list[Job]:
    """The runs of a protocol; one that takes a single number of shots is run with each of them."""
    shots = experiment.settings.shots
    if protocol == "fewshot" or not shots:
        return PROTOCOLS[protocol](experiment)
    each = (replace(experiment, settings=replace(experiment.settings, shots=(number,))) for number in shots)
    return [job for one in each for job in PROTOCOLS[protocol](one)]


def items_of(grid: Grid, settings: Settings) -> list[Item]:
    """All items of a sweep, in the order of its file; a run that is there twice counts once.

    Raises:
        ConfigError: a protocol has no targets, a method no config, two different runs have one folder.
    """
    made = [
        (job, job.model or (job.folder if experiment.trained else experiment))
        for protocol in grid.protocols
        for experiment in experiments_of(grid, settings)
        for job in jobs_of(protocol, experiment)
    ]
    check_files([job for job, _ in made])
    groups, folders = {}, {}
    for job, model in made:
        if folders.setdefault(job.folder, job) != job:
            raise ConfigError([f"two different runs would have the folder {job.folder}; give a variant another name"])
        groups.setdefault(model, {})[job] = None
    return [Item(tuple(group)) for group in groups.values()]


def kinds_of(jobs: Iterable[Job]) -> list[Job]:
    """One job of each kind: those that differ in seed and folders only are of one kind."""
    kinds = {}
    for job in jobs:
        place = job.arguments.index("--output-dir")
        seed = job.arguments.index("--seed")
        after = tuple(word for word in job.arguments[place + 2 :] if word != str(job.model))
        kinds.setdefault((job.arguments[:seed], job.arguments[seed + 2 : place], after), job)
    return list(kinds.values())


def check_options(items: Sequence[Item], config_of: ConfigOf) -> None:
    """Refuse options that some run cannot have, before anything starts: one seed of each kind of run is tried.

    Raises:
        ConfigError: see `train.config_of`.
    """
    for job in kinds_of(job for item in items for job in item.jobs):
        config_of(job.arguments)


def of_other_settings(items: Sequence[Item], config_of: ConfigOf) -> list[str]:
    """What is wrong if finished runs are of other settings than the sweep's; one of each kind is looked at."""
    finished = (job for item in items for job in item.jobs if is_finished(job.folder))
    for job in kinds_of(finished):
        try:
            check_done(job, config_of)
        except ConfigError as error:
            return error.problems
    return []


def shard_of(text: str) -> tuple[int, int]:
    """`3/8` as (3, 8), for argparse.

    Raises:
        ValueError: it is not i/n with i from 1 to n.
    """
    found = SHARD.fullmatch(text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(text)
    return int(found[1]), int(found[2])


def part_of(items: Sequence[Item], shard: tuple[int, int]) -> list[Item]:
    """The items of one of n processes: fixed by the grid, whatever is finished already.

    Args:
        shard: (i, n), i from 1 on.
    """
    return list(items[shard[0] - 1 :: shard[1]])
