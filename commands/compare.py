"""`mocoop compare FOLDER`: several methods on images of one's own, by several seeds, tested on images kept apart."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import positive, settings_among, settings_of

if TYPE_CHECKING:
    from ..classifier.labels import Labelled
    from ..clip import Backbone
    from ..methods import Method

COMPARISON, TABLE = "comparison.json", "comparison.md"
FORMAT = 1
FIGURES = ("images", "accuracy", "nll", "ece")  # of an evaluation, kept for each run


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="mocoop compare",
        description="Train several methods on a folder with one folder of images per class, and test them on images "
        "kept apart: test/ where FOLDER has train/ and test/, else a part of each class, drawn anew for each seed. "
        "Finished trainings are kept; the same command, or one with more methods or seeds, goes on.",
        epilog="SETTING is KEY=VALUE, e.g. epochs=20; it holds for the methods that know KEY.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="of images")
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="see below")
    parser.add_argument("--methods", nargs="+", required=True, metavar="METHOD", help="of `mocoop list methods`")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="SEED", help="(default: 1 2 3)")
    parser.add_argument(
        "--backbone", default="ViT-B/16", help="CLIP, of `mocoop list backbones` (default: %(default)s)"
    )
    parser.add_argument("--shots", type=positive, help="training images drawn per class (default: all)")
    parser.add_argument(
        "--test-share", type=float, default=0.3, metavar="P", help="of each class, without test/ (default: %(default)s)"
    )
    parser.add_argument("--out", metavar="DIR", help="for table and numbers (default: FOLDER's name and _comparison)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--workers", type=positive, help="threads that read images (default: one a core, 16 at most)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; returns the exit code."""
    args = build_parser().parse_intermixed_args(argv)
    from ..methods import named
    from ..runs.folder import hold
    from ..toolbox.dassl.errors import WrongValue
    from ..toolbox.dassl.utils import check_writable

    if not 0 < args.test_share < 1:
        raise WrongValue(f"--test-share: expected a number between 0 and 1, found {args.test_share}")
    words = args.settings + settings_among(args.methods)
    rows = list({named(name).name: named(name) for name in args.methods}.values())
    seeds, settings = list(dict.fromkeys(args.seeds)), settings_of(words)
    check_settings(rows, args.backbone, settings)
    folder = Path(os.path.abspath(args.folder))
    given = {"format": FORMAT, "folder": str(folder), "backbone": args.backbone, "shots": args.shots}
    given |= {"test_share": args.test_share, "settings": settings}
    out = Path(args.out or f"{folder.name}_comparison")
    train, test = parts(folder)
    read_records(out / COMPARISON, given)  # for nothing to be created where something else is
    check_writable(out)
    with hold(out):
        records = read_records(out / COMPARISON, given)
        run_all(rows, seeds, settings, args, (train, test), given, records, out)
    text = table([row.name for row in rows], seeds, records)
    write_table(out, given, text)
    print(f"\n{text}\nwritten to {out}: {COMPARISON}, {TABLE}")
    return 0


def check_settings(rows: Sequence[Method], backbone: str, given: Mapping[str, object]) -> None:
    """Refuse a setting that no method knows, or a value that makes no sense, before anything is trained."""
    from ..classifier import training
    from ..clip import check_name
    from ..toolbox.dassl.errors import WrongValue

    check_name(backbone)
    known = {name for row in rows for name in known_names(row)}
    if unknown := [name for name in given if name not in known]:
        raise WrongValue(f"no method among {', '.join(row.name for row in rows)} has a setting {unknown[0]!r}")
    for row in rows:
        training.settings(row, backbone, own_settings(row, given))


def known_names(row: Method) -> list[str]:
    """The settings of a method and its training."""
    from ..classifier.training import known_settings

    return [name for part in known_settings(row) for name in part]


def own_settings(row: Method, given: Mapping[str, object]) -> dict[str, object]:
    """Those of the given settings that a method knows."""
    known = known_names(row)
    return {name: value for name, value in given.items() if name in known}


# ---- images
# -----------------------------------------------------------------------------------------------------------------


def parts(folder: Path) -> tuple[Labelled, Labelled | None]:
    """Images to train on and to test on; of a folder without parts all images, and None.

    Raises:
        FileNotFoundError, DataError: see `classifier.labels.labelled_folder`.
        WrongValue: test has a class that train lacks.
    """
    from ..classifier.labels import labelled_folder
    from ..datasets.image_folder import part_folders
    from ..toolbox.dassl.errors import WrongValue

    train = labelled_folder(folder, "train")
    if not part_folders(folder):
        return train, None
    test = labelled_folder(folder, "test")
    if more := sorted(set(test.labels) - set(train.labels)):
        raise WrongValue(f"{folder}: {len(more)} classes of test are not in train: {', '.join(map(str, more[:10]))}")
    return train, test


def split(images: Labelled, share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Images to train on and to test on, a share of each class, at least one; drawn by the seed.

    Raises:
        WrongValue: a class has one image only.
    """
    import random

    from ..toolbox.dassl.errors import WrongValue

    draw, kept, held = random.Random(seed), [], []
    for label in images.classes():
        places = [i for i, own in enumerate(images.labels) if own == label]
        if len(places) < 2:
            raise WrongValue(f"class {label!r} has one image only: none can be kept apart for the test; add images")
        draw.shuffle(places)
        count = min(max(1, round(share * len(places))), len(places) - 1)
        held += places[:count]
        kept += places[count:]
    return images.only(sorted(kept)), images.only(sorted(held))


# ---- runs
# -----------------------------------------------------------------------------------------------------------------


def run_all(
    rows: Sequence[Method],
    seeds: Sequence[int],
    settings: Mapping[str, object],
    args: argparse.Namespace,
    images: tuple[Labelled, Labelled | None],
    given: Mapping[str, object],
    records: list[dict],
    out: Path,
) -> None:
    """Train and test what `records` lacks, adding to it; it is written after each.

    Args:
        rows: methods; seeds: of the draws and trainings; settings: see `own_settings`; args: of the command.
        images: to train on and to test on (None: a split by seed); given: what decides the numbers.
        records: of what was run before; out: the folder.
    """
    from tqdm import tqdm

    from ..clip import load_backbone
    from ..toolbox.dassl.utils import write_json

    done = {(record["method"], record["seed"]) for record in records}
    todo = [(row, seed) for seed in seeds for row in rows if (row.name, seed) not in done]
    if not todo:
        return
    import torch

    backbone = load_backbone(args.backbone, args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for row, seed in tqdm(todo, "trainings", disable=None, leave=False):
        train, test = (images[0], images[1]) if images[1] else split(images[0], args.test_share, seed)
        records.append(run(row, seed, backbone, own_settings(row, settings), args, train, test))
        write_json({**given, "runs": records}, out / COMPARISON)
        with tqdm.external_write_mode():
            print(f"{row.name}, seed {seed}: {100 * records[-1]['accuracy']:.1f}% of {records[-1]['images']} images")


def run(
    row: Method,
    seed: int,
    backbone: Backbone,
    settings: Mapping[str, object],
    args: argparse.Namespace,
    train: Labelled,
    test: Labelled,
) -> dict[str, object]:
    """One training and its test, as a record: method, seed, seconds (of both), and `FIGURES`."""
    from ..classifier.classifier import Classifier
    from .fit import printed_warnings

    start = time.monotonic()
    clf = Classifier(row.name, backbone, args.shots, seed, folds=0, workers=args.workers, **settings)
    with redirect_stdout(sys.stderr), printed_warnings():
        clf.fit(train.images, train.labels, train.names, unreadable="skip")
        found = clf.evaluate(test.images, test.labels, unreadable="skip")
    figures = {name: asdict(found)[name] for name in FIGURES}
    return {"method": row.name, "seed": seed, "seconds": round(time.monotonic() - start, 2), **figures}


def read_records(path: Path, given: Mapping[str, object]) -> list[dict]:
    """The records of an earlier command.

    Raises:
        WrongValue: the file is damaged, or its numbers are of other images or settings.
    """
    from ..toolbox.dassl.errors import WrongValue
    from ..toolbox.dassl.utils import read_json

    if not path.exists():
        return []
    try:
        before = read_json(path)
        records = before.pop("runs")
        good = all({"method", "seed", "seconds", *FIGURES} <= record.keys() for record in records)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WrongValue(f"{path} is damaged ({error!s:.100}); delete it, or give another --out") from error
    if not good:
        raise WrongValue(f"{path} is damaged (a run without its figures); delete it, or give another --out")
    now = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    if differ := [key for key in {**now, **before} if before.get(key) != now.get(key)]:
        lines = [f"  {key}: was {before.get(key)!r}, is now {now.get(key)!r}" for key in differ]
        raise WrongValue("\n".join([f"{path} is of other images or settings; give another --out", *lines]))
    return records


# ---- the table
# ------------------------------------------------------------------------------------------------------------


def table(methods: Sequence[str], seeds: Sequence[int], records: Sequence[Mapping]) -> str:
    """One line a method, as Markdown: accuracy, log-loss and calibration error, and the difference to the first one.

    Args:
        methods: names, in the order of lines; seeds: that count; records: see `run`.
    """
    from tabulate import tabulate

    from ..results.statistics import mean_std, paired_difference

    found = {name: {r["seed"]: r for r in records if r["method"] == name and r["seed"] in seeds} for name in methods}
    lines = []
    for name in methods:
        runs = [found[name][seed] for seed in seeds]
        percent = {seed: 100 * found[name][seed]["accuracy"] for seed in seeds}
        first = {seed: 100 * found[methods[0]][seed]["accuracy"] for seed in seeds}
        spread = [
            mean_std([scale * r[key] for r in runs]) for key, scale in (("accuracy", 100), ("nll", 1), ("ece", 100))
        ]
        cells = [f"{m:.{d}f} ± {s:.{d}f}" for (m, s), d in zip(spread, (1, 3, 1), strict=True)]
        seconds = sum(r["seconds"] for r in runs) / len(runs)
        beyond = "" if name == methods[0] else shown(paired_difference(percent, first))
        lines.append([name, *cells, f"{seconds:.1f}", beyond])
    head = ["method", "accuracy %", "log-loss", "ECE %", "seconds", f"accuracy beyond {methods[0]}"]
    return (
        tabulate(lines, head, tablefmt="github", disable_numparse=True)
        + f"\n\nMean ± std over {len(seeds)} seeds; differences are paired by seed, with 95% "
        "intervals (Student's t; * without 0).\n"
    )


def shown(difference: object) -> str:
    """A paired difference with its interval, marked where that leaves out 0."""
    if difference.half_width is None:
        return f"{difference.mean:+.1f}"
    return f"{difference.mean:+.1f} ± {difference.half_width:.1f}{' *' if difference.clear else ''}"


def write_table(out: Path, given: Mapping[str, object], text: str) -> None:
    """Write the table with what it is of."""
    from ..toolbox.dassl.utils import write_text

    shots = "all images" if given["shots"] is None else f"{given['shots']} images per class"
    head = f"{given['folder']}, {given['backbone']}, trained on {shots}; settings: {given['settings'] or 'published'}"
    write_text(f"{head}\n\n{text}", out / TABLE)
