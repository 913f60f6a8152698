"""The registry of evaluators and the classification metrics."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "EVALUATOR_REGISTRY": "build",
        "build_evaluator": "build",
        "EvaluatorBase": "evaluator",
        "Classification": "evaluator",
    },
)
