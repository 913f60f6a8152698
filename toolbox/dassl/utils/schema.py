"""What a checkpoint must be before anything is taken from it: types and finite numbers, checked when it is read.

A checkpoint may be untrusted, or come from a run that went wrong. It is plain data (`torch.load` has built nothing
else), but any field may be missing, of another type, not a number, or nested endlessly.
"""

import math
import os
import random
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# A checkpoint of a prompt learner has some thousands of entries; lists that hold each other can have 2**1000.
MOST_ENTRIES = 300_000
DEEPEST = 30
MOST_EPOCHS = 10**6
DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
MT_WORDS = 624  # of the Mersenne Twister's state


class Unfit(Exception):
    """A checkpoint breaks a rule; the message says where, what was expected and what was found."""


def shown(value: object) -> str:
    """A value in few words, whatever it is."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, dict | list | tuple | set):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str | bytes) and len(value) > 60:
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a whole number of {value.bit_length()} bits"
    return repr(value) if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"


def need(good: bool, where: str, expected: str, found: object) -> None:
    """Raise `Unfit` unless `good`."""
    if not good:
        raise Unfit(f"{where}: expected {expected}, found {shown(found)}")


def is_whole(value: object, low: int = 0, high: int = 2**62) -> bool:
    """Whether a value is an int (no bool) from `low` to `high`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: object) -> bool:
    """Whether a value is a finite int or float."""
    return is_whole(value, -(2**62)) or (isinstance(value, float) and math.isfinite(value))


def check_archive(path: str | os.PathLike) -> None:
    """Refuse a zip archive whose members unpack to more than the file holds; torch packs nothing.

    Raises:
        Unfit: a member is packed, or the members overlap.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeDecodeError) as error:
        raise Unfit(f"it is truncated or damaged ({error})") from error
    total, size = sum(member.file_size for member in members), os.path.getsize(path)
    if total > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise Unfit(f"its {len(members)} parts unpack to {total:,} bytes, the file has {size:,}; torch packs nothing")


def check_tensor(value: torch.Tensor, where: str) -> None:
    """Refuse a tensor that is no plain block of numbers, or holds NaN."""
    plain = value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"
    need(plain and value.dtype in DTYPES, where, "a dense tensor of real numbers", value)
    held = value.untyped_storage().nbytes()
    need(value.numel() * value.element_size() <= held, where, "a tensor that the file holds in full", value)
    if value.is_floating_point() and bool(torch.isnan(value).any()):
        raise Unfit(f"{where} holds NaN: the run that wrote it went wrong (a too high OPTIM.LR?); train it anew")


def check_plain(value: object, where: str, tensors: bool = True) -> None:
    """Refuse anything but None, bool, numbers, text, tensors, and lists, tuples and dicts of these.

    Args:
        value: any part of a checkpoint; where: its name; tensors: whether there may be tensors.
    """
    left = MOST_ENTRIES

    def walk(item: object, name: str, depth: int) -> None:
        nonlocal left
        left -= 1
        need(left > 0 and depth < DEEPEST, where, f"at most {MOST_ENTRIES:,} entries, {DEEPEST} deep", value)
        if isinstance(item, torch.Tensor):
            need(tensors, name, "plain data", item)
            check_tensor(item, name)
        elif isinstance(item, dict):
            for key, entry in item.items():
                need(isinstance(key, str | int), name, "keys that are texts or whole numbers", key)
                walk(entry, f"{name}.{shown(key) if len(str(key)[:61]) > 60 else key}", depth + 1)
        elif isinstance(item, list | tuple):
            for entry in item:
                walk(entry, f"{name}[]", depth + 1)
        elif isinstance(item, float):
            need(not math.isnan(item), name, "a number", item)
        else:
            good = item is None or isinstance(item, bool | str | bytes) or is_whole(item, -(2**64), 2**64)
            need(good, name, "plain data", item)

    walk(value, where, 0)


def check_state_dict(state: object) -> None:
    """Refuse parameters that are no tensors. A module's extra state is plain data, the model's own a dict."""
    need(isinstance(state, dict), "state_dict", "a dict of tensors", state)
    for name, value in state.items():
        need(isinstance(name, str), "state_dict", "names that are texts", name)
        where = f"state_dict.{name[:100]}"
        if name.rpartition(".")[2] == "_extra_state":
            need(isinstance(value, dict) or name != "_extra_state", where, "a dict", value)
            check_plain(value, where)
        else:
            need(isinstance(value, torch.Tensor), where, "a tensor", value)
            check_tensor(value, where)


def check_optimizer(state: object) -> None:
    """Refuse the state of an optimizer that torch would take up and fail with at the next step, or later."""
    parts = isinstance(state, dict) and isinstance(state.get("state"), dict)
    groups = state.get("param_groups") if parts else None
    need(isinstance(groups, list) and len(groups) > 0, "optimizer", "a dict of state and param_groups", state)
    check_plain(state, "optimizer")
    for group in groups:
        need(isinstance(group, dict), "optimizer.param_groups", "dicts", group)
        need(isinstance(group.get("params"), list), "optimizer.param_groups.params", "a list", group.get("params"))
        for key, value in group.items():
            numbers = [value] if isinstance(value, float) else value if isinstance(value, list | tuple) else []
            good = all(is_number(number) for number in numbers)
            need(good, f"optimizer.param_groups.{key}", "finite numbers", value)
        lr = group.get("lr")
        good = is_number(lr) or (isinstance(lr, torch.Tensor) and lr.numel() == 1)
        need(good and lr >= 0, "optimizer.param_groups.lr", "a finite number >= 0", lr)
    for entry in state["state"].values():
        need(isinstance(entry, dict), "optimizer.state", "dicts", entry)


def check_scheduler(state: object) -> None:
    """Refuse the state of a schedule whose counters or rates are no numbers."""
    need(isinstance(state, dict), "scheduler", "a dict", state)
    check_plain(state, "scheduler", tensors=False)
    for key in ("last_epoch", "_step_count"):
        good = key not in state or is_whole(state[key], -1, MOST_EPOCHS)
        need(good, f"scheduler.{key}", "a number of epochs", state.get(key))
    for key in ("base_lrs", "_last_lr"):
        rates = state.get(key, [])
        good = isinstance(rates, list | tuple) and all(is_number(rate) and rate >= 0 for rate in rates)
        need(good, f"scheduler.{key}", "a list of finite numbers >= 0", rates)


def check_scaler(state: object) -> None:
    """Refuse the state of a gradient scaler whose entries are no numbers (that of one which is off is empty)."""
    need(isinstance(state, dict), "scaler", "a dict", state)
    for key, value in state.items():
        need(is_number(value) and value >= 0, f"scaler.{shown(key)}", "a finite number >= 0", value)


def check_rng(state: object) -> None:
    """Refuse states of random generators that these would not take (tried on generators of our own)."""
    need(isinstance(state, dict), "rng", "a dict", state)
    if not state:
        return
    check_plain(state, "rng")
    try:
        version, internal, gauss = state["python"]
        random.Random().setstate((version, tuple(internal), gauss))
        position = state["numpy"][1]
        good = is_whole(position, 0, MT_WORDS)  # numpy would read wherever it says
        need(good, "rng.numpy", f"a position of 0 to {MT_WORDS}", position)
        np.random.RandomState().set_state(("MT19937", *state["numpy"]))
        torch.Generator().set_state(state["torch"])
        good = all(isinstance(s, torch.Tensor) and s.dtype == torch.uint8 and s.dim() == 1 for s in state["cuda"])
        need(good, "rng.cuda", "a list of byte tensors", state["cuda"])
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error!s:.100}"
        raise Unfit(f"rng: expected the states of random generators ({reason})") from error


def check_result(value: object, where: str) -> None:
    """Refuse a result that is no number; no result yet is -inf."""
    need(is_number(value) or value == -math.inf, where, "a number", value)


OPTIONAL: dict[str, Callable[[Any], None]] = {
    "optimizer": check_optimizer,
    "scheduler": check_scheduler,
    "scaler": check_scaler,
    "rng": check_rng,
    "val_result": lambda value: check_result(value, "val_result"),
    "best_result": lambda value: check_result(value, "best_result"),
}


def check_checkpoint(checkpoint: object) -> None:
    """Refuse what is no checkpoint: `state_dict` and `epoch` must be there, the rest may be absent or None.

    Raises:
        Unfit: naming the first entry that breaks a rule.
    """
    need(isinstance(checkpoint, dict), "it", "a dict", checkpoint)
    missing = {"state_dict", "epoch"} - checkpoint.keys()
    if missing:
        found = ", ".join(shown(key) for key in list(checkpoint)[:10]) or "none"
        raise Unfit(f"expected the keys state_dict and epoch, found {found}")
    epoch = checkpoint["epoch"]
    need(is_whole(epoch, 0, MOST_EPOCHS), "epoch", "the number of finished epochs", epoch)
    check_state_dict(checkpoint["state_dict"])
    for name, check in OPTIONAL.items():
        if checkpoint.get(name) is not None:
            check(checkpoint[name])
