"""Reading weights from untrusted files, and loading them strictly."""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from ..toolbox.dassl.errors import WrongValue
from ..toolbox.dassl.utils.pickles import check_pickles
from ..toolbox.dassl.utils.schema import Unfit
from .architectures import OPENAI_MARKS
from .names import existing_file
from .torchscript import TREE, CodeNeeded, read_torchscript

SHOWN = 5  # keys listed per kind of mismatch
# What a pickled dict of tensors imports; anything else is a reason to refuse the file.
TENSOR_MAKERS = r"collections\.OrderedDict|torch\.(\w*Storage|Size|device|\w+\d+)|torch\.(storage|_utils|_tensor)\.\w+"
SEARCHED_BYTES = 8 << 20  # bytes of a refused file that are searched for what it would import


class WeightsError(WrongValue):
    """A weights file cannot be used: damaged, no checkpoint, of another architecture, or it would run code."""


def read_state_dict(path: str | Path) -> tuple[dict[str, torch.Tensor], bool]:
    """Read a checkpoint without ever running code from it.

    The content decides, not the suffix: a TorchScript archive (how OpenAI publishes CLIP; `torchscript`),
    a state dict saved by `torch.save` (`weights_only=True`; bare or under `state_dict`, with or without `module.` in
    front of every name, as open_clip saves it), or safetensors.

    Args:
        path: the file.

    Returns:
        The tensors by name, on the CPU in the precision of the file, and whether the file carries the marks of OpenAI's
        archives (then the weights were trained with QuickGELU).

    Raises:
        FileNotFoundError: no such file.
        WeightsError: it is truncated, damaged, not a checkpoint, or cannot be read without running code.
    """
    path = existing_file(path)
    return _plain_names(_read(path), path)


def _read(path: Path) -> object:
    with path.open("rb") as file:
        head = file.read(64)
    # Safetensors first: it begins with a length, whose bytes may look like the mark of any other format.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return _read_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(path)
    if head.startswith(b"\x80"):
        return _unpickle(path, _load_tensors)
    raise WeightsError(
        f"{path} is not a checkpoint: expected a TorchScript archive, a state dict or safetensors, but its "
        f"{path.stat().st_size} bytes begin with {head[:24]!r}. Was the download interrupted, or is it a web page?"
    )


def _read_zip(path: Path) -> object:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, error) from error
    data = [member for member in members if re.fullmatch(r"[^/]+/data(\.pkl|/.*)", member.filename)]
    if not any(TREE.fullmatch(member.filename) for member in data):
        raise WeightsError(f"{path} is a zip file, but no checkpoint: expected data.pkl in it, saved by torch")
    # torch stores numbers as they are; compressed or overlapping members could unpack to any size
    if any(member.compress_type for member in data) or sum(m.file_size for m in data) > path.stat().st_size:
        raise WeightsError(f"{path} is refused: its numbers are compressed or overlap, which torch never writes")
    traced = any(member.filename.endswith("/constants.pkl") for member in members)
    return _unpickle(path, read_torchscript if traced else _load_tensors)


def _load_tensors(path: Path) -> object:
    check_pickles(path)
    with path.open("rb") as file, warnings.catch_warnings():  # a file, not a path: torch looks at suffixes
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)


def _unpickle(path: Path, read: Callable[[Path], object]) -> object:
    try:
        return read(path)
    except CodeNeeded as error:
        raise _needs_code(path, [str(error)]) from error
    except Unfit as error:
        raise WeightsError(f"{path} is refused: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # a malicious file can raise anything
        code = [name for name in _asked_for(path) if not re.fullmatch(TENSOR_MAKERS, name)]
        damaged = read is read_torchscript or not code
        raise (_damaged(path, error) if damaged else _needs_code(path, code)) from error


def _asked_for(path: Path) -> list[str]:
    """Names of all that a pickled file would import, found without unpickling it; as far as the file goes."""
    content = _pickled(path)
    stream, strings, found = io.BytesIO(content), [], []
    try:
        while stream.tell() < len(content):  # torch's old format is a row of pickles
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL":
                    found.append(argument.replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    found.append(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    except ValueError:  # the raw numbers after the pickles, or the end of a truncated file
        pass
    return found


def _pickled(path: Path) -> bytes:
    """The pickle in a file, its beginning if it is long."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return file.read(SEARCHED_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            tree = next(name for name in archive.namelist() if TREE.fullmatch(name))
            with archive.open(tree) as file:
                return file.read(SEARCHED_BYTES)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError):  # the pickle itself is damaged
        return b""


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path), device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WeightsError:
    text = str(error).rpartition("WeightsUnpickler error:")[2]  # torch puts advice to load it unsafely before this
    reason = (text.strip().splitlines() or [type(error).__name__])[0][:200]
    return WeightsError(
        f"{path} ({path.stat().st_size} bytes) is truncated or damaged: {reason}. Nothing was loaded; get it again."
    )


def _needs_code(path: Path, names: list[str]) -> WeightsError:
    return WeightsError(
        f"{path} is refused: reading it would run code that the file names ({_first_few(names)}). Expected are tensors "
        "only; if you trust its origin, load it where it was made and save its state_dict() alone, best as safetensors."
    )


def _plain_names(content: object, path: Path) -> tuple[dict[str, torch.Tensor], bool]:
    """Unwrap `state_dict`, drop `module.` from names, take out OpenAI's marks."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds {type(content).__name__}, expected a non-empty dict of tensors by name")
    state = dict(content)
    from_openai = all(mark in state for mark in OPENAI_MARKS)
    for mark in OPENAI_MARKS:
        state.pop(mark, None)
    not_tensors = [
        str(key) for key, value in state.items() if not (isinstance(key, str) and isinstance(value, torch.Tensor))
    ]
    if not_tensors or not state:
        raise WeightsError(
            f"{path} is not a state dict: expected tensors by name only, but found {_first_few(not_tensors)}"
        )
    if oversized := [key for key, value in state.items() if not _is_plain(value)]:
        raise WeightsError(
            f"{path} is refused: expected plain tensors that have all their numbers in the file, but "
            f"{_first_few(oversized)} are sparse, quantized, or larger than what the file holds of them"
        )
    if all(key.startswith("module.") for key in state):
        state = {key[len("module.") :]: value for key, value in state.items()}
    return state, from_openai


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is dense, real, and no larger than its storage (a stride of 0 repeats numbers without end)."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def load_strictly(model: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy a state dict into a model; every name and every shape must fit. The model keeps its own precision.

    Args, errors: as `matching_state`.
    """
    model.load_state_dict(
        matching_state(model, state, source), strict=False
    )  # all but BatchNorm's unused counters is there


def matching_state(model: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> dict[str, torch.Tensor]:
    """A state dict in a model's layout; every name and every shape must fit. The model's own numbers are not touched.

    Args:
        model: an open_clip model, on any device (`meta` too).
        state: tensors by name. Those of a plain CLIP are accepted by a model that keeps its text tower under `text.`,
            and a logit scale or bias of shape [1] where the model has a scalar (or the reverse).
        source: what to call the weights in an error.

    Raises:
        WeightsError: names are missing or left over, or shapes differ; they are listed.
    """
    own = model.state_dict()
    derived = {name for name, _ in model.named_buffers()} - set(own)  # the causal mask, which traced archives carry
    state = {key: value for key, value in _to_layout(state, own).items() if key not in derived}
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in own]
    shapes = [
        f"{key} {list(state[key].shape)} (expected {list(own[key].shape)})"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if missing or extra or shapes:
        found = (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        lines = [f"  {len(keys)} {kind}: {_first_few(keys)}" for kind, keys in found if keys]
        raise WeightsError(
            f"{source}: the weights do not belong to this architecture; nothing was loaded.\n" + "\n".join(lines)
        )
    return state


def _to_layout(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = dict(state)
    if "text.positional_embedding" in own and "positional_embedding" in state:
        text = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
        state = {f"text.{key}" if key.startswith(text) else key: value for key, value in state.items()}
    for key in ("logit_scale", "logit_bias"):
        if key in state and key in own and state[key].numel() == own[key].numel() == 1:
            state[key] = state[key].reshape(own[key].shape)
    return state


def _first_few(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", …" if len(keys) > SHOWN else "")
