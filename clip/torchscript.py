"""The tensors of a TorchScript archive (how OpenAI publishes CLIP), read without running anything that is in it.

The archive is a zip file: `data.pkl` holds the tree of modules, `data/<key>` the numbers of one storage, `code/` the
program. `torch.jit.load` compiles that program and runs its `__setstate__` methods; they may write files or never end.
Here the tree is unpickled with stand-ins for every class, and the numbers are taken from the file as they are.
"""

from __future__ import annotations

import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

from ..toolbox.dassl.utils.legacy import STORAGE_DTYPES
from ..toolbox.dassl.utils.pickles import check_member

TREE = re.compile(r"[^/]+/data\.pkl")  # its name in the zip file
MAX_TREE = 8 << 20  # bytes of data.pkl; that of ViT-L/14 has 0.1 MB
MAX_NAMES = 10_000  # modules and tensors; ViT-L/14 has 1,200
MAX_DEPTH = 50  # modules within modules


class CodeNeeded(pickle.UnpicklingError):
    """An archive cannot be read without running code; the text is the name of that code."""


class Module:
    """Takes the place of every class of an archive: has its attributes and no behaviour."""

    origin: str  # the name of the class
    attributes: dict[str, object] = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise CodeNeeded(f"{self.origin}.__setstate__")
        self.attributes = state


class TreeUnpickler(pickle.Unpickler):
    """Unpickles the tree of modules; knows tensors, plain values and `Module`, and refuses every other name."""

    def __init__(self, archive: zipfile.ZipFile, tree: str):
        super().__init__(archive.open(tree))
        self.archive, self.folder, self.storages = archive, tree.removesuffix(".pkl"), {}

    def find_class(self, module: str, name: str) -> object:
        """What stands for a name in the pickle."""
        if module.partition(".")[0] == "__torch__":
            return type("Module", (Module,), {"origin": f"{module}.{name}"})
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self.tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" or (module, name) == ("torch", "device"):  # lists with a type, and the like
            return self.plain
        raise CodeNeeded(f"{module}.{name}")

    def persistent_load(self, saved: object) -> torch.Tensor:
        """The numbers of a storage, as a vector."""
        kind, dtype, key, _, count = saved
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"it asks for a {kind}")
        if key not in self.storages:
            content = bytearray(self.archive.read(f"{self.folder}/{key}"))
            numbers = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            if len(numbers) != count:
                raise pickle.UnpicklingError(f"storage {key} has {len(numbers)} numbers, not {count}")
            self.storages[key] = numbers
        return self.storages[key]

    def tensor(self, storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> torch.Tensor:
        """A tensor of a part of its storage (torch checks the bounds)."""
        return storage.as_strided(size, stride, offset)

    def plain(self, value: object, *_: object) -> object:
        """The value as it is."""
        return value


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of all modules by their dotted names, on the CPU in the precision of the file.

    Besides parameters and buffers these are tensors that a scripted (not traced) module keeps as plain attributes.

    Raises:
        Exception: of many kinds, if the archive is damaged or contains more than tensors and plain values.
    """
    with zipfile.ZipFile(path) as archive:
        tree = next(name for name in archive.namelist() if TREE.fullmatch(name))
        if archive.getinfo(tree).file_size > MAX_TREE:
            raise pickle.UnpicklingError(f"its tree of modules is larger than {MAX_TREE:,} bytes")
        order = tree.removesuffix("data.pkl") + "byteorder"
        if order in archive.namelist() and archive.read(order) != sys.byteorder.encode():
            raise pickle.UnpicklingError(f"its numbers are not in the byte order of this machine ({sys.byteorder})")
        check_member(archive, tree)
        return _tensors(TreeUnpickler(archive, tree).load())


def _tensors(root: object) -> dict[str, torch.Tensor]:
    """Tensors of a tree by dotted name; the tree may be no tree (a module within itself)."""
    found, seen, waiting = {}, 0, [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        for name, value in getattr(module, "attributes", {}).items():
            if isinstance(value, torch.Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, Module):
                waiting.append((f"{prefix}{name}.", value))
        seen += 1
        if seen + len(waiting) + len(found) > MAX_NAMES or prefix.count(".") > MAX_DEPTH:
            raise pickle.UnpicklingError(f"it has more than {MAX_NAMES:,} names, or they are endless")
    return found
