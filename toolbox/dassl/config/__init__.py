"""The default config and Dassl's `clean_cfg`."""

from yacs.config import CfgNode


def get_cfg_default() -> CfgNode:
    """Return a fresh copy of the default config, unfrozen, for the caller to merge into."""
    from .defaults import _C

    return _C.clone()


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Drop every child of `cfg.TRAINER` but `NAME` and the node of one trainer, in place.

    Args:
        cfg: an unfrozen config.
        trainer: the trainer's registry name. Unlike Dassl, a node named exactly so (`MoCoOp`) is kept as well as the
            upper-cased one (`MOCOOP`).
    """
    for key in set(cfg.TRAINER) - {"NAME", trainer, trainer.upper()}:
        cfg.TRAINER.pop(key)
