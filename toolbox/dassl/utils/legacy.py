"""Read the parameters out of a checkpoint that Dassl wrote with a warm-up schedule, without running code from it.

Such a file holds the wrapped scheduler as an object, which drags a pickled optimiser along; torch's `weights_only`
loader refuses it. Here the few types that parameters need are rebuilt, objects of `torch.optim` become empty dummies,
and anything else is refused.
"""

import os
import pickle
import zipfile
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import torch

from .pickles import check_member
from .schema import shown

# How a pickle names the types of storages.
STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class CodeRefused(pickle.UnpicklingError):
    """The file asks for something other than parameters and plain data."""


class _Inert:
    """Takes the place of a pickled optimiser or scheduler: accepts its state and keeps none of it."""

    def __new__(cls, *args: object, **kwargs: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _tensor(
    storage: torch.Tensor, offset: int, size: tuple, stride: tuple, requires_grad: bool, hooks: object, *rest: object
) -> torch.Tensor:
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)  # checks that it stays within the storage


def _parameter(data: torch.Tensor, requires_grad: bool, hooks: object) -> torch.Tensor:
    return data


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("collections", "Counter"): Counter,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
for _module in ("builtins", "__builtin__"):
    _ALLOWED |= {(_module, "dict"): dict, (_module, "set"): set}
_ALLOWED |= {("torch", name): dtype for name, dtype in STORAGE_DTYPES.items()}


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(archive.open(f"{folder}/data.pkl"), encoding="latin1")
        self.archive, self.folder = archive, folder
        self.storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module == "torch.optim" or module.startswith("torch.optim."):
            return _Inert
        raise CodeRefused(f"it asks for {module}.{name}")

    def persistent_load(self, pid: tuple) -> torch.Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise CodeRefused(f"it asks for {shown(kind)}")
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.folder}/data/{key}"))
            self.storages[key] = (
                torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]


def read_legacy(fpath: str | os.PathLike) -> dict[str, Any]:
    """Read `state_dict` and `epoch` of a zip checkpoint (torch 1.6 or later) by a restricted unpickler.

    Returns:
        {"state_dict": OrderedDict of CPU tensors, "epoch": int}.

    Raises:
        CodeRefused: if the file asks for anything but parameters, plain data and objects of `torch.optim`.
        Exception: of any type, if it is damaged or has another shape.
    """
    with zipfile.ZipFile(fpath) as archive:
        folder = next(name for name in archive.namelist() if name.endswith("/data.pkl")).rsplit("/", 1)[0]
        if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
            raise ValueError("written on a big-endian machine")
        check_member(archive, f"{folder}/data.pkl")
        content = _Unpickler(archive, folder).load()
    state_dict = OrderedDict(content["state_dict"])
    if not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ValueError("state_dict holds something other than tensors")
    return {"state_dict": state_dict, "epoch": int(content["epoch"])}
