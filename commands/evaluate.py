"""`mocoop evaluate RUN FOLDER`: figures of a trained classifier on labelled images."""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import add_reading, add_run, open_run, positive

if TYPE_CHECKING:
    from ..classifier.calibration import Evaluation
    from ..classifier.classifier import Classifier

EVALUATION = "evaluation.json"
WORST = 10  # classes that are printed


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="mocoop evaluate",
        description="Measure a trained classifier on a folder with one folder of images per class (of one with train/ "
        "and test/, test/ is used). Writes evaluation.json, predictions.csv, per_class.csv, confusion.csv and, with "
        "matplotlib, confusion.png, confusion.pdf and reliability.png.",
    )
    add_run(parser)
    parser.add_argument("folder", metavar="FOLDER", help="of labelled images")
    parser.add_argument(
        "--out", metavar="DIR", help="for what is written (default: RUN; of a file NAME: NAME_evaluation)"
    )
    parser.add_argument(
        "--unreadable", choices=["raise", "skip"], default="skip", help="images: end, or leave them out (default: skip)"
    )
    add_reading(parser)
    parser.add_argument("--workers", type=positive, help="threads that read images (default: one a core, 16 at most)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    args = build_parser().parse_args(argv)
    from ..classifier.labels import labelled_folder
    from ..toolbox.dassl.utils import check_writable
    from .fit import printed_warnings

    if not os.path.isdir(args.folder):
        raise FileNotFoundError(f"{args.folder} is no folder; expected one with a folder of images per class")
    clf = open_run(args)
    clf.workers = args.workers
    out = Path(args.out) if args.out else default_out(Path(args.run))
    folder = os.path.abspath(args.folder)
    with redirect_stdout(io.StringIO()):  # said below
        labelled_folder(Path(folder), "test")  # that there are no images is said first
    check_free(out, folder)
    with printed_warnings():
        found = clf.evaluate(folder, batch_size=args.batch_size, unreadable=args.unreadable)
    check_writable(out)
    write_tables(out, found)
    drawn = draw(out, found)
    write_evaluation(out, clf, found, args.run, folder)
    print("\n".join(["", *said(found, clf.threshold_), "", f"written to {out}: {', '.join([*TABLES, *drawn])}"]))
    return 0


def default_out(run: Path) -> Path:
    """Where an evaluation goes unless one says so."""
    beside = run.parent if run.exists() else Path()  # a classifier on the hub: where you are
    return run if run.is_dir() else beside / f"{run.stem}_evaluation"


def check_free(out: Path, folder: str) -> None:
    """Refuse to replace an evaluation on other images.

    Raises:
        WrongValue: there is one, or a file that is none.
    """
    from ..toolbox.dassl.errors import WrongValue
    from ..toolbox.dassl.utils import read_json

    path = out / EVALUATION
    if not path.exists():
        return
    try:
        before = read_json(path)
    except ValueError as error:
        raise WrongValue(f"{path} is damaged ({error}); delete it, or give another --out") from error
    there = before.get("folder") if isinstance(before, dict) else None
    if there != folder:
        raise WrongValue(f"{path} is of the images in {there}, not of {folder}; give another --out")


# ---- what is written
# --------------------------------------------------------------------------------------------------------

TABLES = (EVALUATION, "predictions.csv", "per_class.csv", "confusion.csv")


def write_evaluation(out: Path, clf: Classifier, found: Evaluation, run: str, folder: str) -> None:
    """Write `evaluation.json`, last of all files: what is in it belongs to what lies beside it.

    One object. Of what was done: `format` 1; `run` as it was given and `folder`, the full path of the images; `model`
    (`classifier.predictions.fingerprint`), `method`, `backbone`, `temperature`, `threshold`. Of what came of it, all of
    `calibration.Evaluation` but `judged`: `images` N, `classes` [C], `accuracy`, `nll`, `brier`, `ece`, `answered`,
    `precision` (null if nothing was answered), `per_class` [C] (null for a class without images), `support` [C],
    `confusion` [C][C] (rows: class, columns: answer), `reliability` [{low, high, share, confidence, accuracy}],
    `skipped` [{image, reason}]. Accuracies are fractions.

    Every image is a line of `predictions.csv` beside it: image (full path), label, answer, probability, unsure
    (yes, no, or empty without a threshold).
    """
    from ..classifier.predictions import fingerprint
    from ..toolbox.dassl.utils import write_json

    about = {
        "format": 1,
        "run": run,
        "folder": folder,
        "model": fingerprint(clf),
        "method": clf.model.method,
        "backbone": clf.model.backbone.name,
        "temperature": clf.temperature_,
        "threshold": clf.threshold_,
    }
    skipped = [{"image": entry.name, "reason": entry.reason} for entry in found.skipped]
    write_json({**about, **found.to_dict(), "skipped": skipped}, out / EVALUATION)
    unsure = [("yes" if row.probability < clf.threshold_ else "no") if clf.threshold_ else "" for row in found.judged]
    rows = [[*row[:3], f"{row.probability:.6f}", mark] for row, mark in zip(found.judged, unsure, strict=True)]
    write_csv(out / "predictions.csv", ["image", "label", "answer", "probability", "unsure"], rows)


def write_tables(out: Path, found: Evaluation) -> None:
    """Write `per_class.csv` and `confusion.csv`."""
    head = ["class", "images", "right", "accuracy", "most_often_taken_for", "times"]
    write_csv(out / "per_class.csv", head, (class_row(found, c) for c in range(len(found.classes))))
    table = ([name, *row] for name, row in zip(found.classes, found.confusion, strict=True))
    write_csv(out / "confusion.csv", ["class \\ answer", *found.classes], table)


def class_row(found: Evaluation, c: int) -> list[object]:
    """A class: name, images, right ones, accuracy, and the class that it was most often taken for, how often."""
    row, share = found.confusion[c], found.per_class[c]
    times, other = max(((n, i) for i, n in enumerate(row) if i != c), key=lambda pair: (pair[0], -pair[1]))
    mistaken = [found.classes[other], times] if times else ["", 0]
    return [found.classes[c], found.support[c], row[c], "" if share is None else f"{share:.6f}", *mistaken]


def write_csv(path: Path, head: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, all or nothing."""
    from ..classifier.predictions import csv_text
    from ..toolbox.dassl.utils import atomic_write

    with (
        atomic_write(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as f,
    ):
        f.writelines(csv_text(row) for row in [head, *rows])


def draw(out: Path, found: Evaluation) -> list[str]:
    """Draw the figures; names of their files, none without matplotlib, which a line says."""
    from ..classifier.figures import draw_confusion, draw_reliability
    from ..toolbox.dassl.errors import MissingPackage

    try:
        draw_confusion(found, [out / "confusion.png", out / "confusion.pdf"])
        draw_reliability(found, out / "reliability.png")
    except MissingPackage:
        print("no figures: they need matplotlib (pip install 'mocoop[figures]')")
        return []
    return ["confusion.png", "confusion.pdf", "reliability.png"]


# ---- what is printed
# --------------------------------------------------------------------------------------------------------


def said(found: Evaluation, threshold: float) -> list[str]:
    """The figures and the worst classes, as lines."""
    lines = [
        f"accuracy: {100 * found.accuracy:.1f}% of {found.images} images, {len(found.classes)} classes",
        f"calibration error (ECE): {100 * found.ece:.1f}%, log-loss: {found.nll:.3f}, Brier score: {found.brier:.3f}",
    ]
    if threshold:
        right = "" if found.precision is None else f", of these {100 * found.precision:.1f}% right"
        lines.append(f"answered (threshold {threshold:.3f}): {100 * found.answered:.1f}%{right}; the others are unsure")
    if found.skipped:
        lines.append(f"left out: {len(found.skipped)} images that cannot be read")
    return lines + worst(found)


def worst(found: Evaluation) -> list[str]:
    """The classes with the lowest accuracy, as a table."""
    from tabulate import tabulate

    from ..toolbox.dassl.utils import printable

    below = [c for c, share in enumerate(found.per_class) if share is not None and share < 1]
    below.sort(key=lambda c: (found.per_class[c], -found.support[c]))
    rows = []
    for c in below[:WORST]:
        name, images, right, _, other, times = class_row(found, c)
        share, mistaken = f"{100 * found.per_class[c]:.1f}%", printable(f"{other} ({times})")
        rows.append([printable(str(name)), share, f"{right} of {images}", mistaken])
    if not rows:
        return ["every image is right"]
    return ["", *tabulate(rows, ["worst classes", "right", "images", "most often taken for"]).splitlines()]
