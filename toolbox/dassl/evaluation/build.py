"""The registry of evaluators."""

from typing import Any

from yacs.config import CfgNode

from ..utils.registry import Registry
from ..utils.tools import check_availability

EVALUATOR_REGISTRY = Registry("EVALUATOR")
EVALUATOR_REGISTRY.register_lazy("Classification", f"{__package__}.evaluator:Classification")


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> Any:
    """Construct the evaluator that `cfg.TEST.EVALUATOR` names, with the keyword arguments it takes (`lab2cname`).

    Raises:
        ValueError: if no evaluator has that name; the message lists the choices and the nearest one.
    """
    check_availability(cfg.TEST.EVALUATOR, EVALUATOR_REGISTRY.registered_names())
    if cfg.VERBOSE:
        print(f"Loading evaluator: {cfg.TEST.EVALUATOR}")
    return EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)(cfg, **kwargs)
