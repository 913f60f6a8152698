"""Few shots, and base and new classes, drawn from a split as CoOp draws them, seed for seed; and the cache of draws.

Differences from CoOp: draws come from a generator of our own, not from Python's global `random`; the cache is JSON with
relative paths instead of a pickle.
"""

import hashlib
import json
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import write_json
from .errors import DataError
from .splits import Item, Split, group_by_label, read_json, to_items, try_to

VAL_SHOTS = 4


def few_shot(items: Iterable[Item], shots: int, rng: random.Random) -> list[Item]:
    """Draw `shots` items of each class (Dassl's `generate_fewshot_dataset`, draw for draw).

    Args:
        items: anything with a `label`; classes are visited in order of first appearance.
        shots: images a class; below 1 everything is returned and nothing is drawn.
        rng: generator to draw from. A class with fewer than `shots` items is taken whole, without a draw.
    """
    if shots < 1:
        return list(items)
    drawn = []
    for group in group_by_label(items).values():
        drawn += rng.sample(group, shots) if len(group) >= shots else group
    return drawn


def subsample(classes: str, *lists: Sequence[Item]) -> list[list[Item]]:
    """Keep the base or the new half of the classes and renumber them from 0 (CoOp's `subsample_classes`).

    Of the n labels of the first list, sorted, the first ceil(n/2) are base and the others new.

    Args:
        classes: "all" (nothing changes), "base" or "new".
        lists: lists of items; the first one decides which labels there are.

    Returns:
        One list of items for each list given; order kept.

    Raises:
        ValueError: `classes` is not one of the three, or no class is left.
    """
    if classes not in ("all", "base", "new"):
        raise WrongValue(f'DATASET.SUBSAMPLE_CLASSES: expected "all", "base" or "new", found {classes!r}.')
    if classes == "all":
        return [list(items) for items in lists]
    labels = sorted({item.label for item in lists[0]})
    cut = math.ceil(len(labels) / 2)
    selected = labels[:cut] if classes == "base" else labels[cut:]
    if not selected:
        raise DataError(f"With {len(labels)} class there are no {classes} classes.")
    relabel = {label: number for number, label in enumerate(selected)}
    return [[i._replace(label=relabel[i.label]) for i in items if i.label in relabel] for items in lists]


def draw(split: Split, shots: int, seed: int, name: str, cache_dir: str | Path) -> tuple[list[Item], list[Item]]:
    """Few-shot training and validation items, from the cache if it holds this very draw.

    Train is drawn first, then val with min(shots, 4), from one generator: the images that CoOp draws with that seed.

    Args:
        split: the full split.
        shots: images a class; below 1 nothing is drawn.
        seed: seed of the draw; negative means a new draw every time, never cached.
        name: registry name of the data set.
        cache_dir: folder of the JSON files; CoOp's pickles in it are left alone and never loaded.
    """
    if shots < 1:
        return split.train, split.val
    print(f"Creating a {shots}-shot dataset")
    report_small_classes(split.train, shots)
    if seed < 0:
        return _draw(split, shots, random.Random())
    path = Path(cache_dir) / f"shot_{shots}-seed_{seed}.json"
    key = {"dataset": name, "split_sha256": split_hash(split), "shots": shots, "seed": seed}
    if path.is_file():
        cached, why = _read_draw(path, key, split)
        if cached is not None:
            return cached
        print(f"{path}: {why}; drawing again")
    train, val = _draw(split, shots, random.Random(seed))
    try_to(lambda: write_json({**key, "train": train, "val": val}, path), f"the few-shot draw {path}")
    return train, val


def report_small_classes(train: Sequence[Item], shots: int) -> None:
    """Print which classes have fewer than `shots` training images, all of which are then used (ten are named)."""
    small = [f"{group[0].classname} ({len(group)})" for group in group_by_label(train).values() if len(group) < shots]
    if small:
        more = f" and {len(small) - 10} more" if len(small) > 10 else ""
        print(f"Note: fewer than {shots} training images, all of them used: {', '.join(small[:10])}{more}")


def report_single_class(train: Sequence[Item], classes: str) -> None:
    """Say so if a single class is left to choose from: every answer is right then."""
    names = {item.label: item.classname for item in train}
    if len(names) == 1:
        which = "" if classes == "all" else f" {classes}"
        print(f"Note: {names.popitem()[1]!r} is the only{which} class, so every accuracy is 100% and means nothing")


def _draw(split: Split, shots: int, rng: random.Random) -> tuple[list[Item], list[Item]]:
    train = few_shot(split.train, shots, rng)
    return train, few_shot(split.val, min(shots, VAL_SHOTS), rng)


def _read_draw(path: Path, key: dict, split: Split) -> tuple[tuple[list[Item], list[Item]] | None, str]:
    """Read a cached draw. Returns (draw, "") or (None, why the file cannot be used)."""
    try:
        raw = read_json(path)
        if not isinstance(raw, dict) or {field: raw.get(field) for field in key} != key:
            return None, "made for another split, data set or draw"
        train, val = to_items(raw.get("train"), "train"), to_items(raw.get("val"), "val")
    except (DataError, OSError):
        return None, "not a whole few-shot file"
    if not (set(train) <= set(split.train) and set(val) <= set(split.val) and train):
        return None, "names images that are not in the split"
    return (train, val), ""


def split_hash(split: Split) -> str:
    """SHA-256 of the lists that a draw depends on (train and val, in order)."""
    digest = hashlib.sha256()
    for items in (split.train, split.val):
        digest.update(json.dumps(items, separators=(",", ":")).encode())
    return digest.hexdigest()
