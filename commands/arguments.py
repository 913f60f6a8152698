"""Arguments that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..classifier import Classifier

RUN = "folder of `mocoop fit`, of train.py or of a protocol's run; a saved .safetensors file; or a checkpoint"


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def add_run(parser: argparse.ArgumentParser) -> None:
    """The trained model: RUN, and where and with which CLIP it computes."""
    parser.add_argument("run", metavar="RUN", help=RUN)
    parser.add_argument("--backbone", help="CLIP, where the name or file that RUN was trained with is not at hand")
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
