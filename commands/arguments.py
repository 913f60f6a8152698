"""Arguments that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..classifier.classifier import Classifier

RUN = "folder of `mocoop fit`, of train.py or of a protocol's run; a saved .safetensors file; or a checkpoint"


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def add_run(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """The trained model: RUN, with which CLIP it computes and, if `device`, where."""
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--backbone", help="CLIP, where the name or file that RUN was trained with is not at hand")
    if not device:
        parser.set_defaults(device="cpu")
        return
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How images are read."""
    parser.add_argument("--batch-size", type=positive, default=64, help="images encoded at once (default: %(default)s)")


def open_run(args: argparse.Namespace) -> Classifier:
    """The classifier that `add_run`'s arguments name.

    Raises:
        ExpectedError, OSError: see `classifier.load`.
    """
    from ..classifier.classifier import load

    return load(args.run, device=args.device, backbone=args.backbone)


def settings_among(names: list[str] | None) -> list[str]:
    """Take the KEY=VALUE words out of a list of names, which argparse has put there: `--methods coop epochs=5`."""
    found = [word for word in names or () if "=" in word]
    if names:
        names[:] = [word for word in names if word not in found]
    return found


def settings_of(words: Sequence[str], named: Mapping[str, object] = MappingProxyType({})) -> dict[str, object]:
    """The settings of a method or its training that a command was given.

    Args:
        words: KEY=VALUE each; values are Python literals where they are such, else texts.
        named: settings that have an argument of their own; None = not given.

    Raises:
        WrongValue: a word is no KEY=VALUE, a key stands twice or has an argument of its own.
    """
    from ..classifier.classifier import Classifier
    from ..config.merge import read_value
    from ..toolbox.dassl.errors import WrongValue

    found = {name: value for name, value in named.items() if value is not None}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise WrongValue(f"expected a setting as KEY=VALUE, e.g. epochs=20, found {word!r}")
        if key in Classifier.own:
            raise WrongValue(f"{key} has an argument of its own, see --help; found {word!r}")
        if key in found:
            raise WrongValue(f"{key} is given twice")
        found[key] = read_value(value, None)
    return found
