"""Errors whose message is for the user: a command prints it and nothing else, any other error keeps its traceback.

What is raised because of what a user gave (a setting, a file, a data set) is an `ExpectedError`, and also the built-in
error that callers would look for. An `OSError` needs no mark: the system's errors are always for the user.
"""

import importlib
from types import ModuleType


class ExpectedError(Exception):
    """The base of all errors whose message is for the user."""


class WrongValue(ExpectedError, ValueError):
    """A setting, a file or data that cannot be used."""


class WrongType(ExpectedError, TypeError):
    """A setting of another type than what reads it needs."""


class UnknownName(ExpectedError, KeyError):
    """A name that nothing is known by; its message is printed without the quotes of a `KeyError`."""

    __str__ = Exception.__str__


class NotFinite(ExpectedError, FloatingPointError):
    """A number that has become infinite or NaN, so that nothing computed from it would mean anything."""


class MissingPackage(ExpectedError, ImportError):
    """An optional package that something asked for needs."""


def optional(module: str, extra: str) -> ModuleType:
    """An optional package, imported.

    Args:
        module: to import; extra: of this distribution, that installs it.

    Raises:
        MissingPackage: it is not installed, or what it needs itself is not; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackage(f"this needs {module} ({error}); install it with pip install 'mocoop[{extra}]'") from error
