"""A trained model from its run folder or checkpoint: no data, no trainer, no config of ours.

from mocoop import load_trained
model = load_trained("output/try")                  # the run's last epoch, on its own class names
model = load_trained("output/try", names=["cat", "dog"])
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from yacs.config import CfgNode

from .. import methods
from ..clip import Backbone, load_backbone
from ..config import KEYS, ConfigError, extend_cfg, merge, read_yaml
from ..toolbox.dassl.utils import load_checkpoint, read_json, write_json
from ..toolbox.dassl.utils.torchtools import load_state_dict
from .model import FORMAT, PromptModel

FOLDER, SETTINGS, CONFIG = "prompt_learner", "model.json", "config.yaml"  # in a run's folder
EPOCH = re.compile(r"model\.pth\.tar-(\d+)")


def load_trained(
    run_or_checkpoint: str | Path,
    names: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    epoch: int | None = None,
    backbone: Backbone | str | None = None,
) -> PromptModel:
    """A working model, in eval mode, from what a run has left.

    Args:
        run_or_checkpoint: a run's folder, or one of its checkpoint files.
        names: class names to score instead of those it was trained on.
        device: where it goes (default: a GPU if there is one).
        epoch: number of finished epochs, in a folder (default: the last that was saved).
        backbone: instead of the one that it was trained with: loaded already, or its name (needed for checkpoints of
            CoOp's own code, which name none).

    Raises:
        FileNotFoundError: there is no such checkpoint; names what is there.
        ValueError: it is damaged, of no method that is known, or lacks what it takes to rebuild it.
    """
    settings, state, origin = read_trained(Path(run_or_checkpoint), epoch)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if backbone is None:
        backbone = required(settings, "backbone", origin)
    if isinstance(backbone, str):
        backbone = load_backbone(backbone, device=device)
    trained_names = settings.get("names") or names
    if not trained_names:
        raise ValueError(f"{origin} does not say its class names: give names=[...]")
    model = rebuild(settings, state, backbone, trained_names, origin).to(device)
    if names is not None:
        model.set_classes(names)
    return model.eval()


def rebuild(
    settings: Mapping[str, object], state: dict[str, Tensor], backbone: Backbone, names: Sequence[str], origin: object
) -> PromptModel:
    """The model that `PromptModel.settings` and trained tensors describe.

    Args:
        settings: see there; state: name -> tensor; backbone: CLIP; names: class names; origin: for messages.

    Raises:
        ValueError: the method is not known, its arguments are not its own, or a tensor is missing or does not fit.
    """
    row = methods.named(str(required(settings, "method", origin)))
    arguments = dict(settings.get("arguments") or {})
    with torch.random.fork_rng(devices=[]):  # a start that the trained tensors replace
        try:
            model = row.load_model()(backbone, names, **arguments)
        except TypeError as error:
            raise ValueError(f"{origin} does not describe a {row.name} ({error}); it is of another version") from error
    model.trained_on = str(settings.get("dataset", ""))
    if state:
        load_state_dict(model, {**state, "_extra_state": dict(settings)}, origin)
    return model


def required(settings: Mapping[str, object], key: str, origin: object) -> object:
    """An entry of the settings.

    Raises:
        ValueError: it is not there.
    """
    if not settings.get(key):
        raise ValueError(f"{origin} does not say its {key}: it was not written by mocoop, or it is damaged")
    return settings[key]


def read_trained(path: Path, epoch: int | None = None) -> tuple[dict, dict[str, Tensor], Path]:
    """Settings, trained tensors and the file that they are from, of a run's folder or a checkpoint.

    Raises:
        FileNotFoundError, ValueError: as `load_trained`.
    """
    if path.is_dir() and not (path / FOLDER).is_dir() and (path / SETTINGS).is_file():
        return read_settings_file(path / SETTINGS), {}, path / SETTINGS  # nothing was trained
    file = find_checkpoint(path / FOLDER, epoch, best=False) if path.is_dir() else path
    settings, state, _ = read_checkpoint(file)
    return settings, state, file


def read_settings_file(path: Path) -> dict:
    """The settings that `write_settings` has left.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        settings = read_json(str(path))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); run the run again") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is damaged: expected settings of a model, found {type(settings).__name__}")
    return settings


def write_settings(folder: Path, model: PromptModel) -> None:
    """Leave in a run's folder what rebuilds its model (for a method without checkpoints, all that it takes)."""
    write_json(model.settings(), folder / SETTINGS)


def find_checkpoint(folder: Path, epoch: int | None, best: bool) -> Path:
    """The checkpoint file of a run: of `epoch`, or the best on val, or the last.

    Raises:
        FileNotFoundError: naming what was sought and what is there.
    """
    if epoch is not None:
        path = folder / f"model.pth.tar-{epoch}"
    elif best and (folder / "model-best.pth.tar").exists():
        path = folder / "model-best.pth.tar"
    else:
        numbers = [int(found[1]) for p in folder.glob("model.pth.tar-*") if (found := EPOCH.fullmatch(p.name))]
        path = folder / (f"model.pth.tar-{max(numbers)}" if numbers else "model.pth.tar-<epoch>")
    if not path.is_file():
        there = sorted(p.name for p in folder.glob("model*")) if folder.is_dir() else []
        raise FileNotFoundError(f"no checkpoint {path}; found {', '.join(there) or 'none'} in {folder}")
    return path


def read_checkpoint(path: Path) -> tuple[dict, dict[str, Tensor], int]:
    """Settings, trained tensors and the number of epochs of a checkpoint of ours or of CoOp's released code.

    Raises:
        ValueError: it is damaged or of a later version.
    """
    checkpoint = load_checkpoint(str(path))
    stored = checkpoint.get("state_dict")
    if not isinstance(stored, Mapping):
        raise ValueError(f"checkpoint {path} holds no trained tensors (expected an entry state_dict)")
    state = {name: v for name, v in stored.items() if "token_prefix" not in name and "token_suffix" not in name}
    settings = state.pop("_extra_state", {})
    if not isinstance(settings, dict):
        raise ValueError(f"checkpoint {path}: expected settings in _extra_state, found {type(settings).__name__}")
    if not isinstance(settings.get("format", 1), int) or settings.get("format", 1) > FORMAT:
        raise ValueError(f"checkpoint {path} was written by a later version of mocoop: install that")
    if settings.get("format") == FORMAT:
        check_settings(settings, path)
    else:
        settings = settings_of_the_first_version(settings, state, path)
    return settings, state, checkpoint.get("epoch", 0)


def check_settings(settings: dict, origin: object) -> None:
    """Check the types of what `PromptModel.settings` says; what the arguments mean is the model's to check.

    Raises:
        ValueError: naming the entry.
    """
    wanted = {"method": str, "backbone": str, "names": list, "dataset": str, "arguments": dict}
    for name, kind in wanted.items():
        if not isinstance(settings.get(name), kind):
            raise ValueError(f"{origin}: expected {name} as {kind.__name__}, found {settings.get(name)!r:.60}")
    if not all(isinstance(name, str) for name in settings["names"]):
        raise ValueError(f"{origin}: a class name is a text, found another kind")


def settings_of_the_first_version(about: dict, state: dict[str, Tensor], path: Path) -> dict:
    """Settings from a checkpoint of version 0.1.0, which said less, and the config beside it; of CoOp's code: {}.

    What neither says is taken from the method's defaults, with a warning.

    Args:
        about: its `_extra_state`; state: its tensors; path: of the checkpoint.
    """
    if "method" not in about:
        return {}
    row = methods.named(str(about["method"]))
    file = path.parent.parent / CONFIG
    arguments = row.load_trainer().arguments(config_beside(file, about, row.name))
    arguments |= row.load_model().arguments_of(state)
    if "groups" in about:
        arguments["groups"] = about["groups"]
    if not file.is_file():
        warnings.warn(
            f"no {file}: what checkpoint {path} does not say is taken from {row.name}'s defaults", stacklevel=4
        )
    return {
        "format": FORMAT,
        "method": row.name,
        "backbone": about.get("backbone"),
        "names": about.get("classnames"),
        "dataset": about.get("dataset", ""),
        "arguments": arguments,
    }


def config_beside(file: Path, about: dict, method: str) -> CfgNode:
    """The config of the run, from its file if that is there, over today's defaults.

    Raises:
        ValueError: the file cannot be used.
    """
    from ..toolbox.dassl.config import get_cfg_default

    cfg = get_cfg_default()
    extend_cfg(cfg, KEYS | methods.keys())
    cfg.TRAINER.NAME, cfg.DATASET.NAME = method, str(about.get("dataset", ""))
    if file.is_file():
        try:
            merge(cfg, [(str(file), read_yaml(file))])
        except ConfigError as error:
            raise ValueError(f"the config beside the checkpoint cannot be used: {error}") from error
    return cfg
