"""The registry of data sets."""

from typing import Any

from yacs.config import CfgNode

from ...utils.registry import Registry
from ...utils.tools import check_availability

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg: CfgNode) -> Any:
    """Construct the data set that `cfg.DATASET.NAME` names.

    Raises:
        ValueError: if no data set has that name; the message lists the choices and the nearest one.
    """
    check_availability(cfg.DATASET.NAME, DATASET_REGISTRY.registered_names())
    if cfg.VERBOSE:
        print(f"Loading dataset: {cfg.DATASET.NAME}")
    return DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)
