"""A trained model from its run folder or checkpoint: no data, no trainer, no config of ours.

from mocoop import load_trained
model = load_trained("output/try")                  # on its own class names
model = load_trained("output/try", names=["cat", "dog"])
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from yacs.config import CfgNode

from .. import methods
from ..clip import Backbone, load_backbone
from ..config import KEYS, ConfigError, extend_cfg, merge, read_yaml
from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.files import BEST, numbered, saved_epochs
from ..toolbox.dassl.utils import load_checkpoint, read_json, write_json
from ..toolbox.dassl.utils.schema import Unfit, check_plain, shown
from ..toolbox.dassl.utils.torchtools import load_state_dict
from .model import FORMAT, PromptModel
from .records import CONFIG, MODEL, SETTINGS


def load_trained(
    run_or_checkpoint: str | Path,
    names: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    epoch: int | None = None,
    backbone: Backbone | str | None = None,
    method: str | None = None,
    **arguments: object,
) -> PromptModel:
    """A working model, in eval mode, from a finished run or a checkpoint.

    Args:
        run_or_checkpoint: a run's folder, or one of its checkpoint files.
        names: class names to score instead of those it was trained on.
        device: where it goes (default: a GPU if there is one; where `backbone` is, if that is loaded already).
        epoch: of a folder, the number of finished epochs (default: the model that the run itself tested: the best on
        val if it saved one, else the last). backbone: instead of the one that it was trained with: loaded already, or
        its name. method, arguments: the method and arguments of its model, of which the stored ones are replaced.
        Checkpoints of CoOp's own code contain none: they need `names`, `backbone`, `method`, and `position` if it is
        not "end".

    Raises:
        FileNotFoundError: there is no such checkpoint; names what is there.
        ValueError: it is damaged, of no method that is known, or lacks what it takes to rebuild it; a name has more
            tokens than fit.
    """
    settings, state, origin = read_trained(Path(run_or_checkpoint), epoch)
    if method is not None and settings.get("method", method) != method:
        raise WrongValue(f"{origin} is of method {settings['method']!r}, not of {method!r}")
    settings = {**settings, "method": method or required(settings, "method", origin)}
    settings["arguments"] = {**settings.get("arguments", {}), **arguments}
    if device is None and isinstance(backbone, Backbone):
        device = backbone.logit_scale.device
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not isinstance(backbone, Backbone):
        backbone = load_backbone(backbone or required(settings, "backbone", origin), device=device)
    trained_names = settings.get("names") or names
    if not trained_names:
        raise WrongValue(f"{origin} does not say its class names: give names=[...]")
    model = rebuild(settings, state, backbone, trained_names, origin).to(device)
    if names is not None:
        model.set_classes(names)
    model.check_names()
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
    kind, arguments = row.load_model(), dict(settings.get("arguments", {}))
    said = arguments_from_tensors(kind, state, origin) if row.trained else {}
    for name, value in said.items():
        if arguments.setdefault(name, value) != value:
            found = f"the tensors are of one with {name} {value!r}"
            raise WrongValue(f"{origin} describes a {row.name} with {name} {arguments[name]!r:.100}, and {found}")
    with torch.random.fork_rng(devices=[]):  # a start that the trained tensors replace
        try:
            model = kind(backbone, names, **arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            raise WrongValue(f"{origin} does not describe a {row.name} that can be made here: {error}") from error
    model.trained_on = str(settings.get("dataset", ""))
    load_state_dict(model, {**state, "_extra_state": dict(settings)}, origin)
    return model


def arguments_from_tensors(kind: type[PromptModel], state: Mapping[str, Tensor], origin: object) -> dict[str, object]:
    """The arguments of a model that its trained tensors show.

    Raises:
        ValueError: the tensors are of something else.
    """
    try:
        return kind.arguments_of(state)
    except (KeyError, IndexError, ValueError) as error:
        found = ", ".join(f"{name[:60]} {list(value.shape)}" for name, value in list(state.items())[:8]) or "nothing"
        raise WrongValue(f"{origin} holds no trained {kind.method}: found {found}") from error


def required(settings: Mapping[str, object], key: str, origin: object) -> str:
    """An entry of the settings.

    Raises:
        ValueError: it is not there.
    """
    if not settings.get(key):
        raise WrongValue(
            f"{origin} does not say its {key}: give {key}=... if another program wrote it; otherwise it is damaged"
        )
    return settings[key]


def read_trained(path: Path, epoch: int | None = None) -> tuple[dict, dict[str, Tensor], Path]:
    """Settings, trained tensors and the file that they are from, of a run's folder or a checkpoint.

    Raises:
        FileNotFoundError, ValueError: as `load_trained`.
    """
    if path.is_dir() and not (path / MODEL).is_dir() and (path / SETTINGS).is_file():
        settings = read_settings_file(path / SETTINGS)
        if methods.named(str(required(settings, "method", path / SETTINGS))).trained:
            why = "it has saved none yet, or it tested the model of another run, whose folder is then the one to give"
            raise FileNotFoundError(f"no checkpoint in the run {path}: {why}")
        return settings, {}, path / SETTINGS
    file = find_checkpoint(path / MODEL, epoch, best=True) if path.is_dir() else path
    settings, state, _ = read_checkpoint(file)
    return settings, state, file


def read_settings_file(path: Path) -> dict:
    """The settings that `write_settings` has left.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        settings = read_json(str(path))
    except ValueError as error:
        raise WrongValue(f"{path} is damaged ({error}); run it again") from error
    return checked_settings(settings, path)


KINDS = {"method": str, "backbone": str, "names": list, "dataset": str, "arguments": dict}


def checked_settings(settings: object, origin: object) -> dict:
    """Check untrusted settings: a known version, and every entry of the right type.

    Raises:
        ValueError: naming what is not.
    """
    if not isinstance(settings, dict):
        raise WrongValue(f"{origin} is damaged: expected the settings of a model, found {shown(settings)}")
    version = settings.get("format", 1)
    if not isinstance(version, int) or version > FORMAT:
        raise WrongValue(f"{origin} was written by a later version of mocoop (format {version!r:.20}): install that")
    for key, kind in KINDS.items():
        value = settings.get(key, kind())
        if not isinstance(value, kind) or not all(isinstance(item, str) for item in value):  # of a dict: its keys
            raise WrongValue(f"{origin} is damaged: as {key} of the model it has {shown(value)}")
    try:
        check_plain(settings, "settings", tensors=False)
    except Unfit as error:
        raise WrongValue(f"{origin} is damaged: {error}") from error
    return settings


def write_settings(folder: Path, model: PromptModel) -> None:
    """Leave in a run's folder what rebuilds its model (for a method without checkpoints, all that it takes)."""
    write_json(model.settings(), folder / SETTINGS)


def find_checkpoint(folder: Path, epoch: int | None, best: bool) -> Path:
    """The checkpoint file of a run: of `epoch`, or the best on val, or the last.

    Raises:
        FileNotFoundError: naming what was looked for and what is there.
    """
    if epoch is not None:
        path = folder / numbered(epoch)
    elif best and (folder / BEST).exists():
        path = folder / BEST
    else:
        path = folder / numbered(max(saved_epochs(folder), default="<epoch>"))
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in folder.glob("model*"))) if folder.is_dir() else ""
        hint = "" if there else f"; is {folder.parent} the folder of a run?"
        raise FileNotFoundError(f"no checkpoint {path}: found {there or 'none'}{hint}")
    return path


def read_checkpoint(path: Path) -> tuple[dict, dict[str, Tensor], int]:
    """Settings, trained tensors and the number of epochs of a checkpoint of ours or of CoOp's released code.

    Raises:
        ValueError: it is damaged or of a later version.
    """
    checkpoint = load_checkpoint(str(path))
    stored = checkpoint.get("state_dict")
    if not isinstance(stored, Mapping):
        raise WrongValue(f"checkpoint {path} holds no trained tensors (expected an entry state_dict)")
    state = {name: v for name, v in stored.items() if "token_prefix" not in name and "token_suffix" not in name}
    settings = checked_settings(state.pop("_extra_state", {}), path)
    if settings.get("format") != FORMAT:
        settings = settings_of_version_1(settings, state, path)
    return settings, state, checkpoint.get("epoch", 0)


def settings_of_version_1(stored: dict, state: dict[str, Tensor], path: Path) -> dict:
    """Settings from a checkpoint of version 0.1.0, which said less, and the config beside it; of CoOp's code: {}.

    What neither says is taken from the method's defaults, with a warning.

    Args:
        about: its `_extra_state`; state: its tensors; path: of the checkpoint.
    """
    if "method" not in stored:
        return {}
    row = methods.named(str(stored["method"]))
    file = (path.parent.parent if path.parent.name == MODEL else path.parent) / CONFIG
    arguments = row.load_trainer().arguments(config_beside(file, stored, row.name))
    arguments |= arguments_from_tensors(row.load_model(), state, path)
    if "groups" in stored:
        arguments["groups"] = stored["groups"]
    if not file.is_file():
        warnings.warn(
            f"no {file}: what checkpoint {path} does not say is taken from {row.name}'s defaults", stacklevel=5
        )
    settings = {"format": FORMAT, "method": row.name, "names": stored.get("classnames", []), "arguments": arguments}
    return checked_settings({**stored, **settings}, path)


def config_beside(file: Path, stored: dict, method: str) -> CfgNode:
    """The config of the run, from its file if that is there, over today's defaults.

    Raises:
        ValueError: the file cannot be used.
    """
    from ..toolbox.dassl.config import get_cfg_default

    cfg = get_cfg_default()
    extend_cfg(cfg, KEYS | methods.keys())
    cfg.TRAINER.NAME, cfg.DATASET.NAME = method, str(stored.get("dataset", ""))
    if file.is_file():
        try:
            merge(cfg, [(str(file), read_yaml(file))])
        except ConfigError as error:
            raise WrongValue(f"the config beside the checkpoint cannot be used: {error}") from error
    return cfg
