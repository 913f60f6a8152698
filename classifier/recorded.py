"""What files say of a training and of measurements, checked by type before anything reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from .calibration import FIGURES

MOST = 10_000  # of anything that the arguments of a model count, and characters of a text in them
MOST_IMAGES = 10**9
MOST_SEED = 2**64
ROUNDED = 1e-6  # what a mean of float32 probabilities may exceed 1 by
NAME = 1000  # characters of a label or name: far more than CLIP reads


def number(value: object) -> bool:
    """Whether a value is a number that is finite as a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def whole(value: object, most: int = MOST_IMAGES) -> bool:
    """Whether a value is a whole number, 0 to `most`."""
    return type(value) is int and 0 <= value <= most


def fraction(value: object, beyond: float = 0.0) -> bool:
    """Whether a value is a share: of 0 to 1, or so little `beyond` as rounding makes it."""
    return number(value) and -beyond <= value <= 1 + beyond


def text(value: object, most: int = MOST) -> bool:
    """Whether a value is a text that can be written as UTF-8, without NUL (which numpy drops), of `most` characters."""
    if not isinstance(value, str) or len(value) > most or "\0" in value:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def small(value: object, most: float = MOST, depth: int = 0) -> bool:
    """Whether a value is plain data whose numbers cannot ask for much memory."""
    if isinstance(value, Mapping):
        return depth < 8 and all(text(k) and small(v, most, depth + 1) for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return depth < 8 and all(small(v, most, depth + 1) for v in value)
    return value is None or isinstance(value, bool) or text(value) or (number(value) and abs(value) <= most)


def list_of(good: Callable[[object], bool], value: object, length: int | None = None) -> bool:
    """Whether a value is a list (of that length) whose entries are all good."""
    return isinstance(value, list) and length in (None, len(value)) and all(map(good, value))


def fault_of_figures(figures: Mapping[str, object], classes: int) -> str:
    """What was expected and is not there in the figures of a classifier; "" if all is right.

    Args:
        figures: see `Classifier.figures_`, and `tried`; classes: C.
    """
    held_out, confusion = figures.get("held_out"), figures.get("confusion")
    bins = ("low", "high", "share", "confidence", "accuracy")
    if held_out not in (None, {}) and not good_figures(held_out):
        return f"an object of finite numbers in figures.held_out: {', '.join(FIGURES)}"
    if confusion not in (None, []) and not list_of(lambda row: list_of(whole, row, classes), confusion, classes):
        return f"{classes} x {classes} whole numbers in figures.confusion"
    if confusion and held_out and sum(map(sum, confusion)) != held_out["images"]:
        return "as many images in figures.confusion as in figures.held_out.images"
    for name, good, length in (
        ("per_class", lambda share: share is None or fraction(share), classes),
        ("reliability", lambda row: isinstance(row, dict) and all(fraction(row.get(k), ROUNDED) for k in bins), None),
        ("tried", good_trial, None),
    ):
        if figures.get(name) not in (None, []) and not list_of(good, figures[name], length):
            return f"a list as mocoop writes it in figures.{name}"
    return ""


def good_figures(held_out: object) -> bool:
    """Whether a value is what `Evaluation.figures` gives, of at least one image."""
    if not (isinstance(held_out, dict) and held_out.keys() >= set(FIGURES) and held_out["images"]):
        return False
    shares = [held_out[name] for name in ("accuracy", "answered")]
    shares += [] if held_out["precision"] is None else [held_out["precision"]]
    return (
        whole(held_out["images"])
        and all(map(fraction, shares))
        and all(number(held_out[name]) for name in ("nll", "brier", "ece"))
        and all(text(name, NAME) and (value is None or number(value)) for name, value in held_out.items())
    )


def good_trial(row: object) -> bool:
    """Whether a value is what `auto.Tried.row` gives."""
    if not (isinstance(row, dict) and row.keys() >= {"method", "accuracy", "nll", "seconds", "note"}):
        return False
    return (
        (row["accuracy"] is None or fraction(row["accuracy"]))
        and text(row["method"], NAME)
        and text(row["note"], 2**20)
        and (row["nll"] is None or number(row["nll"]))
        and number(row["seconds"])
    )


def fault_of_fit(fit: Mapping[str, object]) -> str:
    """What was expected and is not there in the record of a training (`Classifier.fit_`); "" if all is right."""
    for name in ("images", "shots", "seed"):
        if not (fit.get(name) is None or type(fit[name]) is int):
            return f"a whole number in fit.{name}"
    for name in ("method", "dataset"):
        if not (fit.get(name) is None or text(fit[name], NAME)):
            return f"a text in fit.{name}"
    if not isinstance(fit.get("recipe"), dict | None):
        return "an object in fit.recipe"
    return "" if small(fit, MOST_SEED) else "plain data in fit"
