"""The trainers' registry and base classes; importing the registry does not import torch."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "TRAINER_REGISTRY": "build",
        "build_trainer": "build",
        "TrainerBase": "trainer",
        "SimpleTrainer": "trainer",
        "TrainerX": "trainer",
    },
)
