"""Predictions of any number of images, row by row: as text, CSV or JSON lines, into a file that is gone on with.

Nothing grows with the number of images but the names in the file that is gone on with. Beside a file FILE stands
FILE.run.json, which says what wrote it: rows of two models are not mixed.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from torch import Tensor

from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import printable, read_json, write_json
from .classifier import Classifier, Predicted
from .images import Skipped
from .labels import Label

Format = Literal["text", "csv", "json"]


@dataclass(frozen=True)
class Row:
    """What is said of one image.

    Attributes:
        image: its name.
        answers: (label, probability) of the most probable classes, best first; none if it cannot be read.
        unsure: whether the best one is below the threshold; None where there is no threshold.
        experts: (template, weight) of the experts that took it, heaviest first; None where they were not asked for.
        error: why it cannot be read, or "".
    """

    image: str
    answers: Sequence[tuple[Label, float]] = ()
    unsure: bool | None = None
    experts: Sequence[tuple[str, float]] | None = None
    error: str = ""


def rows(
    clf: Classifier, images: Iterable[str], topk: int = 3, experts: bool = False, batch_size: int = 64
) -> Iterator[list[Row]]:
    """A row for each image, batch by batch, in order; images that cannot be read have their reason in it.

    Args:
        clf: the classifier; images: paths, taken one by one.
        topk: answers per image; experts: also which experts took it; batch_size: images encoded at once.

    Raises:
        WrongValue: experts of a method that has none.
    """
    if experts and not hasattr(clf.model, "route"):
        raise WrongValue(f"{clf.model.method} has no experts, only mixtures of prompts have: leave --experts out")
    skipped: list[Skipped] = []
    for batch in clf.stream(images, batch_size, "skip", skipped):
        found = dict(zip(batch.indices, rows_of(clf, batch, topk, experts), strict=True))
        found |= {entry.index: Row(entry.name, error=entry.reason) for entry in skipped}
        skipped.clear()
        yield [found[index] for index in sorted(found)]
    if skipped:
        yield [Row(entry.name, error=entry.reason) for entry in skipped]


def rows_of(clf: Classifier, batch: Predicted, topk: int, experts: bool) -> list[Row]:
    """The rows of a batch that was predicted; arguments as in `rows`."""
    labels, threshold = clf.classes_.tolist(), clf.threshold_
    best = batch.probabilities.topk(min(topk, len(labels)), dim=1)
    chosen = chosen_experts(clf, batch.features) if experts else [None] * len(batch.names)
    return [
        Row(
            name,
            [(labels[c], p) for c, p in zip(places, values, strict=True)],
            values[0] < threshold if threshold else None,
            taken,
        )
        for name, places, values, taken in zip(
            batch.names, best.indices.tolist(), best.values.tolist(), chosen, strict=True
        )
    ]


def chosen_experts(clf: Classifier, features: Tensor) -> list[list[tuple[str, float]]]:
    """Template and weight of the experts that each image goes to, heaviest first; features: [B, D]."""
    templates = [group[0] for group in clf.model.groups]
    weights = clf.model.route(features)[1].float().tolist()
    ranked = [sorted(zip(templates, row, strict=True), key=lambda pair: -pair[1]) for row in weights]
    return [[(template, weight) for template, weight in row if weight > 0] for row in ranked]


# ---- a row as a line
# ---------------------------------------------------------------------------------------------------------


def line(row: Row, form: Format, topk: int) -> str:
    """A row as a line with its end.

    Args:
        row: of an image; form: of the line; topk: how many answers a line of CSV has columns for.
    """
    return {"text": text_line, "csv": csv_line, "json": json_line}[form](row, topk)


def text_line(row: Row, topk: int) -> str:
    """`photos/1.jpg: red fox 98.1%, wolf 1.2%` and, if asked for, the experts in brackets; for people, so escaped."""
    if row.error:
        return printable(f"{row.image}: unreadable") + "\n"
    said = ", ".join(f"{label} {100 * p:.1f}%" for label, p in row.answers)
    experts = "; ".join(f"{weight:.2f} {template}" for template, weight in row.experts or ())
    text = f"{row.image}: {'unsure: ' if row.unsure else ''}{said}{f' [{experts}]' if experts else ''}"
    return printable(text) + "\n"


def csv_head(topk: int) -> str:
    """The first line of a CSV file."""
    answers = [f"{what}_{k}" for k in range(1, topk + 1) for what in ("label", "probability")]
    return csv_text(["image", *answers, "unsure", "experts", "error"])


def csv_line(row: Row, topk: int) -> str:
    """A line under `csv_head`; experts as `weight template` with semicolons between."""
    answers = [value for label, p in row.answers for value in (label, f"{p:.6f}")]
    unsure = "" if row.unsure is None else "yes" if row.unsure else "no"
    experts = "; ".join(f"{weight:.4f} {template}" for template, weight in row.experts or ())
    return csv_text([row.image, *answers, *[""] * (2 * topk - len(answers)), unsure, experts, row.error])


def csv_text(values: Sequence[object]) -> str:
    """Values as a line of CSV, ended by a line feed."""
    memory = io.StringIO()
    csv.writer(memory, lineterminator="\r\n").writerow(values)  # only what may end a line is quoted: \r, too
    return memory.getvalue().removesuffix("\r\n") + "\n"


def json_line(row: Row, topk: int) -> str:
    """An object with `image` and either `answers` (and `unsure`, `experts` where there are such) or `error`."""
    found: dict[str, object] = {"image": row.image}
    if row.error:
        return json.dumps(found | {"error": row.error}, ensure_ascii=False) + "\n"
    found["answers"] = [{"label": label, "probability": round(p, 6)} for label, p in row.answers]
    if row.unsure is not None:
        found["unsure"] = row.unsure
    if row.experts is not None:
        found["experts"] = [{"template": template, "weight": round(weight, 4)} for template, weight in row.experts]
    return json.dumps(found, ensure_ascii=False) + "\n"


# ---- a file that is gone on with
# ---------------------------------------------------------------------------------------------


class PredictionFile:
    """A file of predictions; what an earlier, killed command has written stays, but for a last line without its end.

    Args:
        path: of the file; form: "csv" or "json"; clf, topk, experts: what writes it.

    Attributes:
        done: the images that have a row already: name -> why it cannot be read, or "".

    Raises:
        WrongValue: another model, or another kind of rows, is in the file; it is not a file of predictions; or another
            process is writing to it.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, form: Format, clf: Classifier, topk: int, experts: bool):
        self.path, self.form, self.topk = path, form, topk
        self.about = {"model": fingerprint(clf), "format": form, "topk": topk, "experts": experts}
        self.beside = path.with_name(path.name + ".run.json")
        self.check()
        self.file = open(path, "ab+")  # noqa: SIM115 (closed by `__exit__`)
        try:
            self.lock()
            write_json(self.about, self.beside)
            self.done = self.go_on()
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def check(self) -> None:
        """Refuse a file that something else has written, or that lies in no folder."""
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{self.path}: the folder {self.path.parent} does not exist; make it first")
        if not self.path.exists() or (self.path.is_file() and not self.path.stat().st_size):
            return
        if not self.path.is_file() or not self.beside.is_file():
            raise WrongValue(f"{self.path} is there and was not written by mocoop predict: give another name")
        try:
            about = read_json(self.beside)
        except ValueError as error:
            raise WrongValue(f"{self.beside} is damaged ({error}): give {self.path.name} another name") from error
        if about != self.about:
            known = about if isinstance(about, dict) else {}
            differs = next((key for key in self.about if known.get(key) != self.about[key]), "entries")
            what = f"{differs} {known.get(differs)!s:.12}, this command has {self.about.get(differs)!s:.12}"
            raise WrongValue(f"{self.path} holds other predictions ({what}); give another file, or delete both")

    def lock(self) -> None:
        """Keep the file for this process, where the file system can."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WrongValue(f"another process is writing to {self.path}; wait for it, or end it") from None
        except OSError:  # no locks here
            pass

    def go_on(self) -> dict[str, str]:
        """Cut off a last line without its end, and write the head of a new file; the images that are done."""
        self.file.seek(0)
        end, done, headed = 0, {}, self.form == "csv"
        for record, end in whole_records(self.file, quoted=self.form == "csv"):  # noqa: B007 (the last one counts)
            if headed:
                headed = False
            else:
                done.update([self.read_row(record)])
        self.file.truncate(end)
        if self.form == "csv" and not end:
            self.write(csv_head(self.topk))
        return done

    def read_row(self, record: bytes) -> tuple[str, str]:
        """The image of a record, and why it cannot be read or "".

        Raises:
            WrongValue: it has none: the file is damaged.
        """
        text = record.decode("utf-8", "surrogateescape")
        try:
            if self.form == "csv":
                values = next(csv.reader(io.StringIO(text, newline="")))
                return values[0], values[-1]
            found = json.loads(text)
            return found["image"], found.get("error", "")
        except (csv.Error, StopIteration, IndexError, ValueError, KeyError, TypeError) as error:
            raise WrongValue(f"{self.path} is damaged: {text[:80]!r} is no prediction; delete it") from error

    def write(self, text: str) -> None:
        """Add text, so that it is there whatever happens to this process."""
        self.file.write(text.encode("utf-8", "surrogateescape"))
        self.file.flush()


def whole_records(file: BinaryIO, quoted: bool) -> Iterator[tuple[bytes, int]]:
    """The records of a file that have their end, each with the place behind it; quoted: line ends may be in quotes."""
    record = b""
    for part in file:
        record += part
        if part.endswith(b"\n") and not (quoted and record.count(b'"') % 2):
            yield record, file.tell()
            record = b""


def fingerprint(clf: Classifier) -> str:
    """SHA-256 of all that decides what a classifier answers, but for CLIP itself, which is in it by name."""
    described = [clf.model.settings(), clf.classes_.tolist(), clf.temperature_, clf.threshold_]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, p in sorted(clf.model.state_dict().items()):
        if isinstance(p, Tensor):
            digest.update(name.encode() + p.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
