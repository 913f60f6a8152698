"""Data sets, transforms, samplers and loaders."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {"DataManager": "data_manager", "DatasetWrapper": "data_manager"})
