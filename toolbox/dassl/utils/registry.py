"""A table from names to classes, as Dassl's, with entries that are imported only when asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ..errors import UnknownName


@dataclass(frozen=True)
class _Lazy:
    """A class that has not been imported yet: module path and attribute."""

    module: str
    attribute: str


class Registry:
    """Names of trainers, data sets or evaluators and the classes behind them.

    Unlike Dassl's, it also knows lazy entries: a name and the place of its class. They cost no import until `get`, and
    whatever a host or plugin really registers under the same name wins over them silently.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._entries: dict[str, Any] = {}

    def register(self, obj: Any = None, force: bool = False) -> Callable | None:
        """Register a class or function under its `__name__`, as `@R.register()` or as `R.register(obj)`.

        Args:
            obj: what to register; None gives a decorator that returns its argument.
            force: replace a name that is already registered.

        Raises:
            KeyError: if the name is registered (not merely lazily) and `force` is False.
        """
        if obj is None:

            def decorate(target: Any) -> Any:
                self._add(target, force)
                return target

            return decorate
        self._add(obj, force)
        return None

    def register_lazy(self, name: str, target: str) -> None:
        """Announce a name whose class is imported on the first `get`; a name already present stays as it is.

        Args:
            name: the registry name.
            target: "package.module:attribute".

        Raises:
            ValueError: if the target has another form.
        """
        module, colon, attribute = target.partition(":")
        if not (module and colon and attribute):
            raise ValueError(
                f'{self._name}: expected a target "package.module:attribute" for {name!r}, found {target!r}'
            )
        self._entries.setdefault(name, _Lazy(module, attribute))

    def get(self, name: str) -> Any:
        """Return the class registered under a name (imported now if it was lazy).

        Raises:
            KeyError: if the name is unknown.
        """
        if name not in self._entries:
            raise UnknownName(
                f'"{name}" is not registered in {self._name}; known: {", ".join(self._entries) or "nothing"}'
            )
        entry = self._entries[name]
        return getattr(import_module(entry.module), entry.attribute) if isinstance(entry, _Lazy) else entry

    def registered_names(self) -> list[str]:
        """Return all names, lazy ones included, in the order of registration."""
        return list(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def _add(self, obj: Any, force: bool) -> None:
        name = obj.__name__
        present = self._entries.get(name)
        if present is not None and not force and not isinstance(present, _Lazy):
            raise KeyError(
                f'"{name}" is already registered in {self._name} ({present!r}); pass force=True to replace it'
            )
        self._entries[name] = obj
