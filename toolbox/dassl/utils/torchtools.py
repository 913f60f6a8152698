"""Checkpoints (plain data, written atomically, never executed when read) and the state of the random generators."""

import copy
import os
import pickle
import random
import warnings
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import ExpectedError
from ..files import BEST, LAST, numbered
from .legacy import CodeRefused, read_legacy
from .pickles import check_pickles
from .schema import Unfit, check_archive, check_checkpoint, check_state_dict, shown
from .tools import atomic_write


class CheckpointError(ExpectedError, ValueError):
    """A checkpoint that is damaged, wants code to be run, or does not fit the model; the message names it."""


def get_rng_state(cuda: bool = False) -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's global generators as plain data.

    Args:
        cuda: include the generator of every CUDA device.
    """
    _, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Set the global generators to what `get_rng_state` returned (CUDA devices that are not here are skipped)."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(("MT19937", *state["numpy"]))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, cuda_state in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(cuda_state, device)


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str | os.PathLike,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write a checkpoint, then the file `checkpoint` beside it that names it. Both atomically; `state` is not changed.

    Args:
        state: the checkpoint; plain data and tensors only. `epoch` is the number of finished epochs.
        save_dir: the folder.
        is_best: write the same also as `model-best.pth.tar`.
        remove_module_from_keys: strip the "module." of DataParallel from the keys of `state_dict`.
        model_name: file name; default `model.pth.tar-{epoch}`.

    Raises:
        OSError: naming the file, if it cannot be written; whatever was there before is intact.
    """
    if remove_module_from_keys:
        state = {**state, "state_dict": _strip_module(state["state_dict"])}
    model_name = model_name or numbered(state["epoch"])
    fpath = os.path.join(save_dir, model_name)
    _save(state, fpath)
    print(f"Checkpoint saved to {fpath}")
    with atomic_write(os.path.join(save_dir, LAST)) as temporary, open(temporary, "w") as file:
        file.write(f"{model_name}\n")
    if is_best:
        _save(state, os.path.join(save_dir, BEST))


def load_checkpoint(fpath: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code from it, and check all that it holds (`schema`).

    A checkpoint that Dassl wrote with a warm-up schedule holds pickled objects; of such a file only `state_dict` and
    `epoch` are read (`optimizer`, `scheduler` and `val_result` are None), by an unpickler that builds nothing else.

    Raises:
        ValueError: if `fpath` is None.
        FileNotFoundError: if there is no such file.
        CheckpointError: (a ValueError) if the file is truncated, is no checkpoint, needs code to be run, or an entry is
            missing, of another type, or not a number.
    """
    checkpoint = _read(fpath)
    try:
        check_checkpoint(checkpoint)
    except Unfit as error:
        raise CheckpointError(_cannot_load(fpath, str(error))) from error
    return checkpoint


def _read(fpath: str | os.PathLike) -> Any:
    """What a file holds, as plain data that nothing has been checked of; see `load_checkpoint`."""
    if fpath is None:
        raise ValueError("Expected the path of a checkpoint, found None")
    if not os.path.isfile(fpath):
        raise FileNotFoundError(f'No checkpoint at "{fpath}"')
    with open(fpath, "rb") as file:  # the system's own errors: not allowed, gone
        try:
            check_archive(fpath)
            check_pickles(fpath)
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            return _load_legacy(fpath, error)
        except Unfit as error:
            raise CheckpointError(_cannot_load(fpath, str(error))) from error
        except Exception as error:  # a damaged file fails in any way
            reason = f"it is truncated, damaged or no checkpoint ({_first_line(error)})"
            raise CheckpointError(_cannot_load(fpath, reason)) from error


def load_state_dict(model: nn.Module, state_dict: dict[str, torch.Tensor], origin: str | os.PathLike) -> None:
    """Load parameters strictly.

    Raises:
        CheckpointError: naming `origin` and what differs (missing, unexpected or misshaped entries, whole numbers in
            place of others).
    """
    for name, own in model.state_dict().items():
        value = state_dict.get(name)
        if isinstance(own, torch.Tensor) and isinstance(value, torch.Tensor):  # torch would convert without a word
            if own.is_floating_point() != value.is_floating_point():
                expected = f"numbers of {str(own.dtype).removeprefix('torch.')}"
                raise CheckpointError(f'"{origin}": {name}: expected {expected}, found {shown(value)}')
    try:
        model.load_state_dict(state_dict)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f'The checkpoint "{origin}" does not fit the model; was it written by another method, backbone or number '
            f"of classes? {str(error)[:2000]}"
        ) from error


def resume_from_checkpoint(
    fdir: str | os.PathLike,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> int:
    """Load the checkpoint that the file `checkpoint` of a folder names.

    Args:
        fdir: the folder.
        model: loaded strictly.
        optimizer: loaded if the checkpoint has its state, else left as it is, and a note is printed.
        scheduler: likewise; without a saved state (None, or a legacy file) it is stepped to the epoch.

    Returns:
        The number of finished epochs, which is the index of the next one.

    Raises:
        FileNotFoundError: if the folder has no `checkpoint`, or it names a missing file.
        CheckpointError: if the checkpoint cannot be read or does not fit.
    """
    fpath = checkpoint_of(fdir)
    return apply_checkpoint(load_checkpoint(fpath), fpath, model, optimizer, scheduler)


def checkpoint_of(fdir: str | os.PathLike) -> str:
    """Return the path of the checkpoint saved last in a folder, as the folder's file `checkpoint` names it."""
    pointer = os.path.join(fdir, LAST)
    if not os.path.isfile(pointer):
        raise FileNotFoundError(f'No checkpoint in "{fdir}" (expected the file "{pointer}", which names one)')
    with open(pointer, errors="replace") as file:
        name = os.path.basename(file.readline(1000).strip())
    if not name.isprintable() or not name:
        raise CheckpointError(
            f'"{pointer}" is damaged: expected the name of a checkpoint beside it, found {name!r:.100}'
        )
    return os.path.join(fdir, name)


def apply_checkpoint(
    checkpoint: dict[str, Any],
    origin: str | os.PathLike,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> int:
    """Load a checkpoint that was read from `origin`; see `resume_from_checkpoint`."""
    load_state_dict(model, checkpoint["state_dict"], origin)
    print(f"Loaded model weights from {origin}")
    for name, part in (("optimizer", optimizer), ("scheduler", scheduler)):
        if part is None:
            continue
        if checkpoint.get(name) is None:
            print(f"Note: {origin} holds no state of the {name}")
            if part is scheduler:
                _step_to(scheduler, checkpoint["epoch"])
            continue
        try:
            part.load_state_dict(checkpoint[name])
            if isinstance(part, OPTIMIZERS_TO_TRY):
                _try_step(optimizer)
        except Exception as error:  # torch checks little of what it takes up
            raise CheckpointError(f'The {name} in "{origin}" does not fit this run: {_first_line(error)}') from error
        print(f"Loaded {name} from {origin}")
    return checkpoint["epoch"]


def load_pretrained_weights(model: nn.Module, weight_path: str | os.PathLike) -> None:
    """Copy into a model those entries of a checkpoint whose name and shape match; the others are named and skipped.

    Args:
        model: changed in place.
        weight_path: a checkpoint, or a bare state dict.
    """
    checkpoint = _read(weight_path)
    try:
        state_dict = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else checkpoint
        check_state_dict(state_dict)
    except Unfit as error:
        raise CheckpointError(_cannot_load(weight_path, str(error))) from error
    state_dict = {name: value for name, value in _strip_module(state_dict).items() if isinstance(value, torch.Tensor)}
    own = model.state_dict()
    matched = {name: value for name, value in state_dict.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict({**own, **matched})
    if not matched:
        warnings.warn(
            f'No entry of "{weight_path}" matches the model in name and shape; nothing was loaded', stacklevel=2
        )
        return
    print(f'Successfully loaded pretrained weights from "{weight_path}"')
    if len(matched) < len(state_dict):
        print(f"Layers discarded due to unmatched keys or size: {[name for name in state_dict if name not in matched]}")


def count_num_param(model: nn.Module | None = None, params: Iterable[torch.Tensor] | None = None) -> int:
    """Return the number of elements in a model's parameters, or in the given tensors (or optimiser groups)."""
    if model is not None:
        return sum(parameter.numel() for parameter in model.parameters())
    if params is None:
        raise ValueError("count_num_param needs a model or parameters")
    groups = [item["params"] if isinstance(item, dict) else [item] for item in params]
    return sum(parameter.numel() for group in groups for parameter in group)


def _save(state: dict[str, Any], fpath: str | os.PathLike) -> None:
    with atomic_write(fpath) as temporary:
        try:
            with open(temporary, "wb") as file:  # a file, not its name: torch would store the temporary name inside
                torch.save(state, file)
        except (RuntimeError, OSError) as error:  # torch hides a full disk behind a RuntimeError
            raise OSError(f'Cannot write the checkpoint "{fpath}": {_first_line(error)}') from error


def _load_legacy(fpath: str | os.PathLike, refused: Exception) -> dict[str, Any]:
    try:
        found = read_legacy(fpath)
    except CodeRefused as error:
        raise CheckpointError(_cannot_load(fpath, f"refused, because reading it would run code ({error})")) from refused
    except Exception as error:  # as above; also pickles older than torch 1.6 that hold more than plain data
        reason = "it is truncated, damaged, no checkpoint, or would run code when read, which is refused"
        raise CheckpointError(_cannot_load(fpath, reason)) from error
    print(f"Note: {fpath} holds pickled objects; only its parameters and epoch were read")
    return {**found, "optimizer": None, "scheduler": None, "val_result": None}


# What `build_optimizer` makes; a host's own optimizer may need more than a gradient to step.
OPTIMIZERS_TO_TRY = (torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam, torch.optim.AdamW, torch.optim.RAdam)


def _try_step(optimizer: torch.optim.Optimizer) -> None:
    """Let a copy of an optimizer step without gradient, so that a state that it cannot use is found at once."""
    trial = copy.deepcopy(optimizer)
    for group in trial.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step()
    for group in trial.param_groups:
        if not all(bool(torch.isfinite(parameter).all()) for parameter in group["params"]):
            raise ValueError("a step with its state makes parameters infinite or NaN")


def _step_to(scheduler: torch.optim.lr_scheduler.LRScheduler, epoch: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch expects an optimiser's step before the scheduler's
        for _ in range(epoch):
            scheduler.step()


def _strip_module(state_dict: dict[str, torch.Tensor]) -> OrderedDict:
    return OrderedDict((name.removeprefix("module."), value) for name, value in state_dict.items())


def _cannot_load(fpath: str | os.PathLike, reason: str) -> str:
    return f'Unable to load checkpoint from "{fpath}": {reason}'


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
