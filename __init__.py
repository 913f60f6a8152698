"""mocoop: the mixture of prompts (MoCoOp) for CLIP, with its baselines, as a plugin of the Dassl/CoOp toolbox.

Importing this package makes `dassl` importable and registers what the host lacks; see `mocoop.plugin`. The names of the
Python API below are imported when they are first used.
"""

import importlib

from . import methods
from .plugin import extend_cfg, provide_dassl, register

__version__ = "0.1.0"
_HOMES = {
    "Classifier": "classifier.classifier",
    "load": "classifier.classifier",
    "load_trained": "trainers.trained",
    "load_backbone": "clip",
    "PromptModel": "trainers.model",
}
_HOMES |= dict(row.model.removeprefix("mocoop.").split(":")[::-1] for row in methods.OURS)
__all__ = ["extend_cfg", "register", "__version__", *_HOMES]


def __getattr__(name: str):  # noqa: ANN202 (whatever the home module defines)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


provide_dassl()
register()
