"""May a folder be used for a run; and a run's start and end in its folder. Nothing here imports torch.

A run folder holds `config.yaml` and `env.json` (written first), `log.txt`, `metrics.jsonl`, `results.json`, the
checkpoints, and `DONE`, written last: a folder without it is an unfinished run. `trainers.records` names these files.
"""

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from yacs.config import CfgNode

from ..config import ConfigError, flatten, read_yaml
from ..toolbox.dassl.files import DONE, LAST, epoch_of
from ..toolbox.dassl.utils import check_writable, read_json, remove_leftovers, write_json, write_text
from ..trainers.records import CONFIG, ENVIRONMENT, FAILURE, LOCK, METRICS, RESULTS, check_metrics, read_results

ROOT = Path(__file__).resolve().parent.parent
# A folder without any of these holds nothing that was computed, e.g. because the data were missing.
COMPUTED = (DONE, RESULTS, METRICS, f"*/{LAST}")
# Keys that do not change what is computed (or only where, and how fast). DATALOADER.NUM_WORKERS is not one of them: as
# in Dassl every worker draws its own crops and flips, so another number gives other training images.
HARMLESS = {
    "DATALOADER.CACHE_MB",
    "DATALOADER.TEST.BATCH_SIZE",
    "DATASET.ROOT",
    "OUTPUT_DIR",
    "RESUME",
    "TEST.COMPUTE_CMAT",
    "TEST.PER_CLASS_RESULT",
    "TRAIN.CHECKPOINT_FREQ",
    "TRAIN.PRINT_FREQ",
    "TRAIN.TEXT_CHUNK",
    "USE_CUDA",
    "VERBOSE",
    "VERSION",
}


def without_tuples(value: object) -> object:
    """A config value as YAML keeps it: tuples are lists."""
    return [without_tuples(item) for item in value] if isinstance(value, list | tuple) else value


def differing(old: dict[str, object], new: dict[str, object], defaults: dict[str, object]) -> list[str]:
    """The keys, other than harmless ones, whose value differs between two flat configs.

    Args:
        old, new: {"A.B": value}; a key that one lacks (another version wrote it) counts as having its default.
        defaults: value of every key of today.
    """
    own_images = new.get("DATASET.NAME") == "ImageFolder"  # there the root is the data set
    keys = (set(new) & set(defaults)) - (HARMLESS - {"DATASET.ROOT"} if own_images else HARMLESS)
    return sorted(key for key in keys if without_tuples(old.get(key, defaults[key])) != without_tuples(new[key]))


def check_same_config(folder: Path, cfg: CfgNode, defaults: CfgNode, what: str) -> None:
    """Refuse a folder whose earlier run had another config: its checkpoint would be continued with other settings.

    Args:
        folder: a run folder; one that is absent, empty, or was never computed in is fine.
        cfg, defaults: the config of this run, and Dassl's and our defaults.
        what: how this run uses the folder, for the message.

    Raises:
        ConfigError: naming each differing key with both values.
    """
    if not (folder / CONFIG).is_file() or not any(any(folder.glob(pattern)) for pattern in COMPUTED):
        return
    old, new, default = read_yaml(folder / CONFIG), flatten(cfg), flatten(defaults)
    keys = differing(old, new, default)
    if keys:
        lines = [
            f"{key}: was {without_tuples(old.get(key, default[key]))!r}, is now {without_tuples(new[key])!r}"
            for key in keys
        ]
        raise ConfigError(
            [f"{what} {folder} holds a run with another config; give another --output-dir, or delete it"] + lines
        )


def check_resume(folder: Path) -> None:
    """Refuse a --resume folder without a checkpoint (Dassl would silently train from scratch).

    Raises:
        ConfigError: the folder holds no `<model>/checkpoint`.
    """
    if not list(folder.glob(f"*/{LAST}")):
        raise ConfigError([f"--resume {folder}: no checkpoint there (expected {folder}/<model>/{LAST})"])


def check_may_run(folder: Path, cfg: CfgNode, defaults: CfgNode) -> None:
    """Refuse a folder, or a --resume folder, that this config may not go on in.

    Raises:
        ConfigError: another config ran there; --resume points to nothing.
    """
    check_same_config(folder, cfg, defaults, "output folder")
    if cfg.RESUME:
        check_resume(Path(cfg.RESUME))
        check_same_config(Path(cfg.RESUME), cfg, defaults, "--resume folder")


@contextmanager
def claim(cfg: CfgNode, defaults: CfgNode, patience: float = 10.0) -> Iterator[Path]:
    """Keep the folder OUTPUT_DIR for a run with this config: check it, create it, hold it.

    It is checked twice: first so that nothing is created or waited for in vain, then again once it is locked, because
    until then another process may have started a run with other options there.

    Args:
        cfg, defaults: the config of this run, and Dassl's and our defaults.
        patience: see `hold`.

    Yields:
        The run folder.

    Raises:
        ConfigError: another config ran there, or another process is at work there; --resume points to nothing.
        OSError: the folder cannot be written to.
    """
    folder = Path(cfg.OUTPUT_DIR)
    check_may_run(folder, cfg, defaults)
    check_writable(folder)
    with hold(folder, patience):
        check_may_run(folder, cfg, defaults)
        yield folder


@contextmanager
def hold(folder: Path, patience: float = 10.0) -> Iterator[None]:
    """Keep a run folder for this process: two runs at once would mix their logs and checkpoints.

    The lock ends with the process, however that ends; its file, `.lock`, stays and means nothing. Where the file system
    has no locks, or none between machines, the signs of life of `owner.owning` hold.

    Args:
        folder: of the run.
        patience: seconds to wait for another process (the loaders of a killed run need some to notice).

    Raises:
        ConfigError: another process is at work in it.
    """
    from filelock import FileLock, Timeout

    from .owner import owning

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise ConfigError([f"another process is at work in {folder}; wait for it, or end it"]) from None
    except (OSError, NotImplementedError):  # how the library says that the file system has no locks
        pass
    try:
        with owning(folder, lock.is_locked):
            yield
    finally:
        lock.release()


def versions() -> dict[str, str]:
    """Installed versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "open_clip_torch", "numpy", "pillow", "yacs"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str | None:
    """The git commit of this checkout, with "+changes" if tracked files differ; None outside a checkout."""
    if not (ROOT / ".git").exists():
        return None
    try:
        call = ["git", "-C", str(ROOT)]
        name = subprocess.run([*call, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        change = subprocess.run([*call, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return name.stdout.strip() + ("+changes" if change.stdout.strip() else "") if name.returncode == 0 else None


def environment(device: str, **more: object) -> dict[str, object]:
    """What `env.json` says.

    Args:
        device: the name of the device that computes.
        more: further entries, e.g. the folder whose model is tested.
    """
    from .. import __version__

    return {
        "mocoop": __version__,
        "commit": commit(),
        "command": [sys.executable, *sys.argv],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": device,
        "platform": platform.platform(),
        "versions": versions(),
        **more,
    }


def start(folder: Path, cfg: CfgNode, env: dict[str, object]) -> None:
    """Write `config.yaml` and `env.json`, and remove `DONE`: from here on the run is unfinished.

    Args:
        folder: claimed and held, so that half-written files of killed runs can be removed.

    Raises:
        ConfigError: the records of the run that is to go on are damaged.
    """
    remove_leftovers(folder)
    check_records(folder)
    for name in (DONE, FAILURE):
        (folder / name).unlink(missing_ok=True)
    write_text(cfg.dump(), folder / CONFIG)
    write_json(env, folder / ENVIRONMENT)


def check_records(folder: Path) -> None:
    """Refuse a folder whose `metrics.jsonl` or `results.json` is damaged, before hours of training.

    Raises:
        ConfigError: naming the file and what to do.
    """
    wrong = why_damaged(folder / RESULTS, read_results, folder) or why_damaged(folder / METRICS, check_metrics, folder)
    if wrong:
        raise ConfigError([wrong])


def why_damaged(path: Path, read: Callable[[Path], object], folder: Path) -> str | None:
    """What is wrong with a record of a run, None if it can be read."""
    try:
        read(folder)
    except ValueError as error:
        return f"{path} is damaged ({error}); remove it, and the same command goes on from the last checkpoint"
    return None


def add_to_environment(folder: Path, **more: object) -> None:
    """Add entries to `env.json`."""
    path = folder / ENVIRONMENT
    write_json(json.loads(path.read_text(encoding="utf-8")) | more, path)


def how_to_continue(folder: Path) -> str:
    """What the same command does after an interrupt: a sentence about the checkpoint that was saved last.

    Args:
        folder: where the run resumes from.
    """
    saved = sorted(folder.glob(f"*/{LAST}"), key=lambda path: path.stat().st_mtime)
    if not saved:
        return "Nothing was saved yet: the same command again starts anew."
    name = saved[-1].read_text(encoding="utf-8").strip()
    epoch = epoch_of(name)
    place = f"from {name}" if epoch is None else f"after epoch {epoch}"
    return f"The same command again goes on {place}, saved {time.time() - saved[-1].stat().st_mtime:.0f} s ago."


def finish(folder: Path, seconds: float) -> None:
    """Write `DONE`, the last file of a run."""
    text = json.dumps({"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "seconds": round(seconds, 1)})
    write_text(text + "\n", folder / DONE)


def note_failure(folder: Path, code: int, text: str) -> None:
    """Write down how a run failed, until it is started again; on a full disk nothing is written.

    Args:
        folder: of the run, which may not be there yet; code: of its exit, negative = a signal's; text: its last words.
    """
    when = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": platform.node()}
    with suppress(OSError):
        write_json({"code": code, "text": text, **when}, folder / FAILURE)


def read_failure(folder: Path) -> str | None:
    """The last words of a failed run, None if it has not failed."""
    try:
        return str(read_json(folder / FAILURE)["text"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder / FAILURE} is damaged ({error})"


def is_finished(folder: Path) -> bool:
    """Whether the run in this folder is finished."""
    return (folder / DONE).is_file()


def up_to_date(folder: Path, model: Path | None = None) -> bool:
    """Whether a run is finished and, if it tests a model, that model was not trained again since.

    Args:
        folder: of the run; model: folder of the run whose model it tests.
    """
    if not is_finished(folder):
        return False
    if model is None or not is_finished(model):
        return True
    return (model / DONE).stat().st_mtime <= (folder / DONE).stat().st_mtime
