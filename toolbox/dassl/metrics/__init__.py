"""Metrics on tensors."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, {"compute_accuracy": "accuracy"})
