"""Where runs lie below an output folder: these paths are written and read here, and nowhere else.

A run's folder is `<output>/<protocol>/[<part>/]<data set>/shots_<n>/<method>/<config>[-TAG]/seed<k>`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

BASE, NEW = "train_base", "test_new"
# What the folders between `<output>/<protocol>/` and `shots_<n>/<method>/<config>/seed<k>` are.
LAYOUT = {
    "base2new": ("part", "dataset"),  # part: BASE or NEW
    "fewshot": ("dataset",),
    "source": ("dataset",),  # models that the next two take to other data sets
    "cross_dataset": ("part", "dataset"),  # part: the source, dataset: the target
    "domain_generalization": ("part", "dataset"),
}
PROTOCOLS = ("base2new", "fewshot", "cross_dataset", "domain_generalization")  # those that have a table
TRANSFERS = ("cross_dataset", "domain_generalization")
SHOTS, SEED = "shots_", "seed"
SHOTS_FOLDER, SEED_FOLDER = re.compile(rf"{SHOTS}(-?\d+)"), re.compile(rf"{SEED}(-?\d+)")


@dataclass(frozen=True, order=True)
class Place:
    """Where a method is measured: what the methods in one column of a table share."""

    protocol: str
    part: str
    dataset: str
    shots: int

    def __str__(self) -> str:
        on = f"{self.part} to {self.dataset}" if self.protocol in TRANSFERS else self.dataset
        name = self.part if self.protocol == "base2new" else self.protocol
        return f"{name} on {on}, {self.shots} shot{'s' * (self.shots != 1)}"


@dataclass(frozen=True, order=True)
class Setting:
    """What the seeds of one number of a table share."""

    place: Place
    method: str
    config: str

    def __str__(self) -> str:
        return f"{self.method} ({self.config}), {self.place}"


def dataset_folder(output: Path, protocol: str, part: str, dataset: str) -> Path:
    """The folder of all runs on a data set in a part of a protocol ("" where it has no parts)."""
    parts = {"part": part, "dataset": dataset}
    return output.joinpath(protocol, *(parts[name] for name in LAYOUT[protocol]))


def run_folder(output: Path, setting: Setting, seed: int) -> Path:
    """The folder of a run."""
    place = setting.place
    folder = dataset_folder(output, place.protocol, place.part, place.dataset)
    return folder / f"{SHOTS}{place.shots}" / setting.method / setting.config / f"{SEED}{seed}"


def read_path(path: Path) -> tuple[Setting, int] | None:
    """The setting and the seed of a run, from its folder's path below the output folder.

    Returns:
        None if the path is not one that `run_folder` makes.
    """
    protocol, *names = path.parts
    return read_names(protocol, names)


def read_names(protocol: str, names: Sequence[str]) -> tuple[Setting, int] | None:
    """`read_path` for the names of the folders below a protocol's."""
    *places, shots, method, config, seed = names if len(names) > 4 else ("", "", "", "", "")
    if protocol not in LAYOUT or len(places) != len(LAYOUT[protocol]):
        return None
    found = dict(zip(LAYOUT[protocol], places, strict=True))
    shots, seed = SHOTS_FOLDER.fullmatch(shots), SEED_FOLDER.fullmatch(seed)
    if not shots or not seed or (protocol == "base2new" and found["part"] not in (BASE, NEW)):
        return None
    place = Place(protocol, found.get("part", ""), found["dataset"], int(shots[1]))
    return Setting(place, method, config), int(seed[1])


def folders_below(folder: str, depth: int) -> Iterator[tuple[str, ...]]:
    """The names that lead to each folder so many levels below one; links count as what they lead to."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if depth == 1:
            yield (name,)
        else:
            yield from ((name, *rest) for rest in folders_below(os.path.join(folder, name), depth - 1))


def find_runs(output: Path) -> list[tuple[Setting, int, str]]:
    """All run folders, finished or not, sorted: setting, seed, path. Folders with other names are ignored.

    The path is a text: there may be 100,000, of which making `Path`s takes longer than finding them.
    """
    found, settings = [], {}
    for protocol, parts in LAYOUT.items():
        for names in folders_below(os.path.join(output, protocol), len(parts) + 4):
            known = read_names(protocol, names)
            if known:
                setting = settings.setdefault(known[0], known[0])  # one object each: there may be 100,000 runs
                place = setting.place
                key = (place.protocol, place.part, place.dataset, place.shots, setting.method, setting.config, known[1])
                found.append((key, names, setting))
    found.sort(key=itemgetter(0, 1))
    return [(setting, key[-1], os.path.join(output, key[0], *names)) for key, names, setting in found]


def expected(output: Path, dataset: str | None) -> str:
    """Where runs are looked for, in words for a message; `dataset`: only this one."""
    where = dataset_folder(output, "base2new", BASE, dataset or "<data set>")
    others = ", ".join(str(output / protocol) for protocol in LAYOUT if protocol != "base2new")
    return f"{where}/{SHOTS}<n>/<method>/<config>/{SEED}<k>, or the like below {others}"


def tagged(config: str, tag: str | None) -> str:
    """The name of a config in a run's folder; a TAG keeps runs with other options apart."""
    return f"{config}-{tag}" if tag else config


def main_config(configs: Iterable[str]) -> str | None:
    """The config that a method is known by where it ran with several: the one that the others extend by "-TAG".

    Returns:
        None if there is no such config.
    """
    configs = set(configs)
    mains = [c for c in configs if all(o == c or o.startswith(f"{c}-") for o in configs)]
    return mains[0] if mains else None
