"""CLIP backbones: a name becomes an architecture, weights, preprocessing and tokens. OpenAI's names and shapes.

Importing this package imports no torch; each name below is imported when it is first used.
"""

import importlib

_HOMES = {
    "available_models": "names",
    "check_name": "backbones",
    "is_resnet": "names",
    "load": "backbones",
    "load_backbone": "backbones",
    "preprocess_of": "backbones",
    "Backbone": "backbones",
    "tokenize": "tokenizer",
    "Tokenizer": "tokenizer",
    "TextTooLong": "tokenizer",
    "Preprocess": "preprocess",
    "DEMO_PREPROCESS": "preprocess",
    "build_transform": "preprocess",
    "DownloadError": "download",
    "WeightsError": "weights",
    "TextEncoder": "text",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):  # noqa: ANN202 (whatever the home module defines)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
