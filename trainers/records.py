"""The files in a run's folder besides its log: their names, and how the records are written and read.

`config.yaml` and `env.json` are written first, `DONE` last (`runs.folder`), `metrics.jsonl`, `results.json` and the
checkpoints by trainers. Imports no torch.
"""

import json
from pathlib import Path

from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils import read_json, write_json, write_text

CONFIG, ENVIRONMENT, METRICS, RESULTS, LOCK = "config.yaml", "env.json", "metrics.jsonl", "results.json", ".lock"
OWNER, FAILURE = ".owner", "failure.json"  # which process is at work (see `runs.owner`); how the last one failed
SETTINGS = "model.json"  # what rebuilds the model
MODEL = "prompt_learner"  # folder of the checkpoints: the name under which Dassl keeps what is trained, CoOp's


# ---- metrics.jsonl: a line for each epoch


def add_epoch(folder: Path, record: dict[str, object]) -> None:
    """Add an epoch's line."""
    with open(folder / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def drop_epochs_after(folder: Path, last: int) -> None:
    """Remove the lines of epochs that are about to be trained again, and what a killed run has half-written.

    Args:
        folder: of the run; last: the epoch that it goes on after.
    """
    path = folder / METRICS
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["epoch"] <= last]
        write_text("".join(line + "\n" for line in kept), path)


def check_metrics(folder: Path) -> None:
    """Read `metrics.jsonl`; an incomplete last line was left by a killed run and does not count.

    Raises:
        ValueError: it is no regular file, or a line is no record of an epoch.
    """
    path = folder / METRICS
    if not path.exists():
        return
    if not path.is_file():
        raise WrongValue("it is not a regular file")
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.rstrip("\n").endswith("}"):
                check_epoch(line, number)


def read_epochs(folder: Path) -> list[dict[str, object]]:
    """The records of `metrics.jsonl` in order, [] if there is none; a killed run's half line does not count.

    Raises:
        ValueError: see `check_metrics`.
    """
    try:
        check_metrics(folder)
    except ValueError as error:
        raise WrongValue(f"{folder / METRICS} is damaged: {error}") from error
    if not (folder / METRICS).exists():
        return []
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def check_epoch(line: str, number: int) -> None:
    """Refuse a line of `metrics.jsonl` that is no record of an epoch.

    Raises:
        ValueError: naming the line's number.
    """
    try:
        epoch = json.loads(line)["epoch"]
        good = isinstance(epoch, int) and epoch >= 1
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise WrongValue(f"line {number} is no record of an epoch")


# ---- results.json: a record for each split


def write_result(folder: Path, split: str, record: dict[str, object]) -> None:
    """Put a split's record into `results.json`, keeping the others."""
    write_text(json.dumps(read_results(folder) | {split: record}, indent=2) + "\n", folder / RESULTS)


def read_results(folder: Path) -> dict[str, dict]:
    """Split -> its record, from `results.json`; empty if there is none (a host's own trainers write none).

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    path = folder / RESULTS
    if not path.exists():
        return {}
    results = read_json(path)
    if not isinstance(results, dict) or not all(isinstance(record, dict) for record in results.values()):
        raise WrongValue("expected a record for each split")
    return results


def drop_epoch_results(folder: Path, split: str) -> None:
    """Remove the entries that `keep_epoch_result` wrote in an earlier test from `results.json`."""
    results = read_results(folder)
    kept = {name: record for name, record in results.items() if not name.startswith(f"{split}_epoch")}
    if kept != results:
        write_json(kept, folder / RESULTS)


def keep_epoch_result(folder: Path, split: str, epoch: int) -> None:
    """Copy a split's entry of `results.json` to one of its own, "test_epoch5", before another epoch is tested."""
    results = read_results(folder)
    if split in results:
        write_json(results | {f"{split}_epoch{epoch}": results[split]}, folder / RESULTS)


def read_accuracies(folder: Path) -> dict[str, float]:
    """Split -> accuracy in percent, as the run's results.json has it; empty if there is none that can be read."""
    try:
        return {split: float(record["accuracy"]) for split, record in read_results(folder).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
