"""Lazy package exports (PEP 562), so that checking a name or a config never pays for importing torch."""

from collections.abc import Callable
from importlib import import_module


def attach(package: str, exports: dict[str, str]) -> tuple[Callable, Callable, list[str]]:
    """Build `__getattr__`, `__dir__` and `__all__` of a package whose names live in submodules imported on first use.

    Args:
        package: the package's `__name__`.
        exports: public name -> submodule (relative, without the leading dot) that defines it.

    Returns:
        The three objects, to be assigned in the package's `__init__`.
    """

    def __getattr__(name: str) -> object:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{exports[name]}"), name)

    def __dir__() -> list[str]:
        return sorted(exports)

    return __getattr__, __dir__, list(exports)
