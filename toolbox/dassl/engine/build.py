"""The registry of trainers."""

from typing import Any

from yacs.config import CfgNode

from ..utils.registry import Registry
from ..utils.tools import check_availability

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode) -> Any:
    """Construct the trainer that `cfg.TRAINER.NAME` names.

    Raises:
        ValueError: if no trainer has that name; the message lists the choices and the nearest one.
    """
    check_availability(cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names())
    if cfg.VERBOSE:
        print(f"Loading trainer: {cfg.TRAINER.NAME}")
    return TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)
