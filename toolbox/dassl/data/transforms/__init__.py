"""The image pipelines of training and test."""

from ..._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "INTERPOLATION_MODES": "transforms",
        "build_transform": "transforms",
        "Cutout": "transforms",
        "GaussianNoise": "transforms",
        "InstanceNormalization": "transforms",
        "Random2DTranslation": "transforms",
    },
)
