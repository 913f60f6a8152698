"""What an image must look like for a backbone: size, mean, std, interpolation, and the transform made of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

from ..toolbox.dassl.errors import WrongValue

# Statistics of OpenAI's training images, channels R, G, B of values in [0, 1].
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
INTERPOLATIONS = ("bicubic", "bilinear", "nearest")


@dataclass(frozen=True)
class Preprocess:
    """Image preprocessing that a backbone was trained with.

    Attributes:
        size: side of the square input, in pixels.
        mean, std: three numbers each (R, G, B), for pixel values in [0, 1].
        interpolation: one of `INTERPOLATIONS`; how the shorter side is brought to `size`.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __post_init__(self):
        if self.size < 1 or len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise WrongValue(f"preprocessing needs a size >= 1, three means and three positive stds, got {self}")
        if self.interpolation not in INTERPOLATIONS:
            raise WrongValue(f"interpolation must be one of {INTERPOLATIONS}, got {self.interpolation!r}")


DEMO_PREPROCESS = Preprocess(48, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")


def openai_preprocess(size: int) -> Preprocess:
    """Preprocessing of OpenAI's CLIP models: bicubic, OpenAI's mean and std, at `size` pixels."""
    return Preprocess(size, OPENAI_MEAN, OPENAI_STD, "bicubic")


def build_transform(preprocess: Preprocess) -> Callable:
    """The test-time transform, PIL image -> float32 tensor [3, size, size], in the order of OpenAI's `clip.load`.

    Resize the shorter side to `size`, centre crop, convert to RGB, scale to [0, 1], normalise. The longer side is
    rounded down, as torchvision does it, so that a feature computed here equals one computed with OpenAI's package.
    """
    from torchvision.transforms import Compose, Normalize, ToTensor

    square = build_square(preprocess)
    return Compose([*square.transforms, ToTensor(), Normalize(preprocess.mean, preprocess.std)])


def build_square(preprocess: Preprocess) -> Callable:
    """The part of `build_transform` that works on pixels: PIL image -> RGB image of `size` x `size`."""
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    resize = Resize(preprocess.size, interpolation=InterpolationMode(preprocess.interpolation))
    return Compose([resize, CenterCrop(preprocess.size), _to_rgb])


def normalised(pixels: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """The rest of `build_transform`, for a batch on any device: uint8 [B, H, W, 3] -> float32 [B, 3, H, W]."""
    scaled = pixels.permute(0, 3, 1, 2).contiguous().float().div(255)
    mean, std = (scaled.new_tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    return scaled.sub_(mean).div_(std)


def _to_rgb(image):  # noqa: ANN001 (PIL is imported by torchvision only when a transform is built)
    """A named function, not a lambda, so that data loader workers can receive the transform."""
    return image.convert("RGB")
