"""Optimisers and learning-rate schedules from a config.

Also usable as `mocoop.toolbox.dassl.optim` beside an installed Dassl, whose warm-up schedule cannot be built on
current torch.
"""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__, {"build_optimizer": "optimizer", "build_lr_scheduler": "lr_scheduler", "EpochSchedule": "lr_scheduler"}
)
