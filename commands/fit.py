"""`mocoop fit FOLDER --out RUN`: a classifier from a folder with one folder of images per class."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import positive, settings_among, settings_of

if TYPE_CHECKING:
    from ..classifier.classifier import Classifier

ARGUMENTS = "fit.json"  # in RUN: what the command was given
FINISHED = "classifier.safetensors"  # in RUN, written last


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="mocoop fit",
        description="Train a classifier on a folder with one folder of images per class (of one with train/ and test/, "
        "train/ is used). A finished RUN is never trained again; one that was ended before is trained from the start "
        "by the same command.",
        epilog="SETTING is KEY=VALUE of the method or its training, e.g. epochs=20 lr=0.002 finetune_norms=False "
        "topk=1; a wrong KEY is answered with those that there are.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="of images")
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="see below")
    parser.add_argument("--out", required=True, metavar="RUN", help="folder for what comes of it")
    parser.add_argument(
        "--method",
        default="MoCoOp",
        help="of `mocoop list methods`, or auto: the best on held-out images (default: MoCoOp)",
    )
    parser.add_argument(
        "--backbone", default="ViT-B/16", help="CLIP, of `mocoop list backbones` (default: %(default)s)"
    )
    parser.add_argument("--shots", type=positive, help="images drawn per class (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw, training and folds (default: %(default)s)")
    parser.add_argument("--epochs", type=positive, help="short for epochs=N")
    parser.add_argument(
        "--folds", type=int, default=3, help="parts held out in turn to measure and calibrate; 0 = none (default: 3)"
    )
    parser.add_argument(
        "--precision", type=float, metavar="P", help="wanted of answers: below a threshold they are unsure"
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="that auto may take (default: %(default)s)")
    parser.add_argument("--candidates", nargs="+", metavar="METHOD", help="that auto compares (default: all)")
    parser.add_argument(
        "--unreadable", choices=["raise", "skip"], default="skip", help="images: end, or leave them out (default: skip)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--workers", type=positive, help="threads that read images (default: one a core, 16 at most)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code."""
    args = build_parser().parse_intermixed_args(argv)
    from ..classifier.classifier import Classifier
    from ..runs.folder import hold
    from ..toolbox.dassl.utils import check_writable

    settings = settings_of(args.settings + settings_among(args.candidates), {"epochs": args.epochs})
    clf = Classifier(
        args.method,
        args.backbone,
        args.shots,
        args.seed,
        folds=args.folds,
        least_precision=args.precision,
        candidates=args.candidates,
        seconds=args.seconds,
        device=args.device,
        workers=args.workers,
        **settings,
    )
    clf.check()
    if not os.path.isdir(args.folder):
        raise FileNotFoundError(f"{args.folder} is no folder; expected one with a folder of images per class")
    run, given = Path(args.out), given_by(clf, args.folder)
    if is_done(run, given):
        return say_done(run, clf.folds)
    check_writable(run)
    with hold(run):
        if is_done(run, given):  # by the process that held it until now
            return say_done(run, clf.folds)
        return train(clf, args, run, given)


def given_by(clf: Classifier, folder: str) -> dict[str, object]:
    """What decides what comes of it, as JSON has it."""
    from ..methods import named

    params = {name: value for name, value in clf.get_params().items() if name not in ("device", "workers")}
    method = clf.method if clf.method == "auto" else named(clf.method).name
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in params.items()}
    return {"folder": os.path.abspath(folder), **listed, "method": method}


def is_done(run: Path, given: Mapping[str, object]) -> bool:
    """Whether this very command has finished in the folder.

    Raises:
        WrongValue: something else is in it.
    """
    from ..toolbox.dassl.errors import WrongValue
    from ..toolbox.dassl.utils import read_json
    from ..trainers.records import LOCK, OWNER

    finished = (run / FINISHED).exists()
    if not (run / ARGUMENTS).is_file():
        if finished or (run.is_dir() and any(path.name not in (LOCK, OWNER) for path in run.iterdir())):
            raise WrongValue(f"{run} is no run of mocoop fit, and not empty; give another --out")
        return False
    if not finished:
        return False
    try:
        before = read_json(run / ARGUMENTS)
    except ValueError as error:
        raise WrongValue(f"{run / ARGUMENTS} is damaged ({error}); give another --out") from error
    known = before if isinstance(before, dict) else {}
    if differ := [key for key in {**given, **known} if known.get(key) != given.get(key)]:
        lines = [f"  {key}: was {known.get(key)!r}, is now {given.get(key)!r}" for key in differ]
        raise WrongValue("\n".join([f"{run} holds a finished run with other settings; give another --out", *lines]))
    return True


def say_done(run: Path, folds: int) -> int:
    """Say that there is nothing to do; returns the exit code. folds: as in `measured`."""
    from ..classifier.file import read_file

    header, _ = read_file(run / FINISHED)
    print(f"{run} is finished: {header.model['method']}, {len(header.labels)} classes")
    print(measured(header.figures.get("held_out"), folds))
    return 0


def train(clf: Classifier, args: argparse.Namespace, run: Path, given: Mapping[str, object]) -> int:
    """Fit, save, and say what came of it; returns the exit code."""
    from ..runs.folder import environment
    from ..toolbox.dassl.files import LOG
    from ..toolbox.dassl.utils import Logger, remove_leftovers, write_json
    from ..trainers.records import ENVIRONMENT, METRICS

    remove_leftovers(run)
    (run / METRICS).unlink(missing_ok=True)
    write_json(given, run / ARGUMENTS)
    start = time.monotonic()
    with Logger(run / LOG) as log, redirect_stdout(log), printed_warnings():
        try:
            with Progress(run, clf) as progress:
                clf.fit(args.folder, unreadable=args.unreadable, watch=progress)
        except KeyboardInterrupt:
            print("\nNothing was saved; the same command trains from the start.", file=sys.stderr)
            raise
        write_json(environment(str(clf.model.device)), run / ENVIRONMENT)
        clf.save(run / FINISHED)
        print(said(clf, run, args.folder, time.monotonic() - start))
    return 0


@contextmanager
def printed_warnings() -> Iterator[None]:
    """Warnings as lines of the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *rest: print(f"Warning: {message}")
        yield


class Progress:
    """A bar over all epochs of all trainings, with the time left and the loss; keeps `metrics.jsonl` of the last one.

    Args:
        run: the run's folder; clf: what is trained. With method auto the bar grows with each training.
    """

    def __init__(self, run: Path, clf: Classifier):
        self.run, self.bar = run, None  # the bar comes with the first epoch: until then lines are printed
        self.trainings = clf.folds + 1 if clf.method != "auto" else 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, what: str, epoch: int, epochs: int, record: Mapping[str, float]) -> None:
        """Show an epoch; see `classifier.training.Watch`."""
        from tqdm import tqdm

        from ..toolbox.dassl.utils.logger import print_above_bars
        from ..trainers.records import add_epoch

        if self.bar is None:
            self.bar = tqdm(total=epochs * max(1, self.trainings), unit="epoch", disable=None, leave=False)
        elif epoch == 1 and not self.trainings:
            self.bar.total += epochs
        self.bar.set_description(what, refresh=False)
        self.bar.set_postfix(loss=f"{record['loss']:.3f}", refresh=False)
        self.bar.update()
        if what.endswith("all images"):
            add_epoch(self.run, {"epoch": epoch, **record})
        if epoch == epochs:
            print_above_bars(f"{what}: {epochs} epochs, loss {record['loss']:.4f}")


def measured(figures: Mapping[str, float] | None, folds: int) -> str:
    """Held-out figures as lines, or why there are none with so many folds."""
    if not figures:
        why = "each class has only 1 image, so that none can be held out" if folds else "folds=0 holds nothing out"
        return f"accuracy: not measured ({why}; probabilities are not calibrated)"
    return "\n".join(
        [
            f"accuracy on held-out images: {100 * figures['accuracy']:.1f}% (of {figures['images']}, each answered by "
            "a training that had not seen it)",
            f"calibration error (ECE): {100 * figures['ece']:.1f}%, log-loss: {figures['nll']:.3f}",
        ]
    )


def said(clf: Classifier, run: Path, folder: str, seconds: float) -> str:
    """What was learned, where it is, and what may come next."""
    from ..classifier import auto

    lines = [auto.table(clf.tried_), ""] if clf.tried_ else []
    count, classes = clf.fit_["images"], len(clf.classes_)
    name = getattr(clf.backbone, "name", clf.backbone)
    lines += [f"{clf.model.method} on {name}: {count} images of {classes} classes, {seconds:.0f} s"]
    lines += [measured(clf.figures_.get("held_out"), clf.folds)]
    if clf.least_precision is not None and clf.figures_:
        lines += [threshold(clf)]
    size = (run / FINISHED).stat().st_size / 1024
    lines += [f"saved: {run / FINISHED} ({size:,.0f} kB)", "", "next:"]
    lines += [f"  mocoop predict {run} IMAGES", f"  mocoop evaluate {run} {folder}  # with labelled images kept apart"]
    return "\n".join(lines)


def threshold(clf: Classifier) -> str:
    """What the wanted precision asks for."""
    wanted = f"for a precision of {100 * clf.least_precision:.0f}%"
    if clf.threshold_ > 1:
        return f"threshold: no part of the held-out images is good enough {wanted}: every answer is unsure"
    if clf.threshold_ == 0:
        return f"threshold {wanted}: none is needed, no answer is unsure"
    answered = clf.figures_["held_out"]["answered"]
    return f"threshold {wanted}: {clf.threshold_:.3f}; {100 * answered:.1f}% of the held-out images are above it"
