"""Every run's numbers as CSV, written and read."""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from ..runs.layout import LAYOUT, Place, Setting
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import unreadable
from .records import Results, Run, select_dataset

FIELDS = ("protocol", "part", "dataset", "shots", "method", "config", "seed", "split", "metric", "value")
ROUTING_FIELDS = (*FIELDS[:8], "expert", "template", "share")


def setting_fields(run: Run) -> tuple:
    """The columns that say which run it is, up to the seed."""
    place = run.setting.place
    names = (place.protocol, place.part, place.dataset, place.shots)
    return (*names, run.setting.method, run.setting.config, run.seed)


def csv_text(results: Results, protocols: Iterable[str] = tuple(LAYOUT)) -> str:
    """Every metric of every finished run at full precision, one line each."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(FIELDS)
    for run in results.runs:
        if run.setting.place.protocol in protocols:
            for split, metrics in run.metrics.items():
                writer.writerows((*setting_fields(run), split, key, value) for key, value in metrics.items())
    return file.getvalue()


def routing_text(results: Results) -> str:
    """Mean routing weight of each expert in every run that has experts, as CSV; empty if none has."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for run in results.runs:
        for split, routing in run.load_routing().items():
            rows = zip(range(len(routing["share"])), routing["experts"], routing["share"], strict=True)
            writer.writerows((*setting_fields(run), split, *row) for row in rows)
    rows = file.getvalue()
    return f"{','.join(ROUTING_FIELDS)}\n{rows}" if rows else ""


def read_csv(path: Path, dataset: str | None = None, split: str = "test") -> Results:
    """The results that `csv_text` wrote, without routing.

    Args:
        path: of the file.
        dataset, split: see `reading.collect`.

    Raises:
        ValueError: it is not such a file, or holds no run (of the data set, with the split).
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            found = read_lines(path, csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise WrongValue(f"{path} is not a CSV of results: {error}") from None
    return results_of(path, found, dataset, split)


def read_lines(path: Path, reader: csv.DictReader) -> dict[tuple[Setting, int], dict]:
    """(Setting, seed) -> split -> metric -> number, from the lines of a CSV file."""
    if tuple(reader.fieldnames or ()) != FIELDS:
        raise WrongValue(f"{path} is not a CSV of results: expected the columns {','.join(FIELDS)}")
    found: dict[tuple[Setting, int], dict] = {}
    for line in reader:
        try:
            place = Place(line["protocol"], line["part"], line["dataset"], int(line["shots"]))
            key = Setting(place, line["method"], line["config"]), int(line["seed"])
            value = float(line["value"])
            if any(isinstance(text, str) and unreadable(text) for text in line.values()):
                raise ValueError("expected names without control characters")
            if None in line or not math.isfinite(value) or place.protocol not in LAYOUT:
                raise ValueError("expected a protocol's name, as many fields as columns, and a finite value")
        except (TypeError, ValueError) as error:
            raise WrongValue(f"{path}, line {reader.line_num}: {error}") from None
        metrics = found.setdefault(key, {}).setdefault(line["split"], {})
        if line["metric"] in metrics:
            raise WrongValue(f"{path}, line {reader.line_num}: {key[0]}, seed {key[1]} is there twice")
        metrics[line["metric"]] = int(value) if line["value"].isdigit() else value
    return found


def results_of(path: Path, found: dict[tuple[Setting, int], dict], dataset: str | None, split: str) -> Results:
    """The runs of a CSV file that are on a data set and have a split."""
    kept = [
        Run(setting, seed, None, found[setting, seed])
        for setting, seed, _ in select_dataset([(*key, path) for key in sorted(found)], dataset)
        if "accuracy" in found[setting, seed].get(split, {})
    ]
    if not kept:
        raise WrongValue(f"no runs found in {path} (data set {dataset or 'any'}, split {split!r})")
    return Results(kept, split)
