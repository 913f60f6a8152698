"""Image pipelines from a config: the set of steps is chosen there, their order is fixed here."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torchvision import transforms as T
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode
from yacs.config import CfgNode

from ...errors import UnknownName, WrongValue
from ...names import TRANSFORMS, UNSUPPORTED_TRANSFORMS
from ...utils.tools import check_availability

INTERPOLATION_MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}


class Random2DTranslation:
    """Resize to a size; with probability `p` instead to 1.125 of it, followed by a random crop. Draws from `random`.

    Args:
        height, width: of the result, in pixels.
        p: probability of the shift.
        interpolation: of the resize. `build_transform` leaves it bilinear whatever the config says, as Dassl does.
    """

    def __init__(
        self,
        height: int,
        width: int,
        p: float = 0.5,
        interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    ) -> None:
        self.height, self.width, self.p, self.interpolation = height, width, p, interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        if random.uniform(0, 1) > self.p:
            return F.resize(image, [self.height, self.width], self.interpolation)
        height, width = round(self.height * 1.125), round(self.width * 1.125)
        image = F.resize(image, [height, width], self.interpolation)
        left = round(random.uniform(0, width - self.width))
        top = round(random.uniform(0, height - self.height))
        return F.crop(image, top, left, self.height, self.width)


class Cutout:
    """Set square holes of an image tensor [3, H, W] to 0. Centres are drawn by numpy, holes are clipped at the borders.

    Args:
        n_holes: number of holes.
        length: their side, in pixels.
    """

    def __init__(self, n_holes: int = 1, length: int = 16) -> None:
        self.n_holes, self.length = n_holes, length

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[1:]
        image = image.clone()
        for _ in range(self.n_holes):
            y, x = np.random.randint(height), np.random.randint(width)
            top, left = y - self.length // 2, x - self.length // 2
            image[:, max(top, 0) : max(top + self.length, 0), max(left, 0) : max(left + self.length, 0)] = 0
        return image


class GaussianNoise:
    """With probability `p` (drawn from `random`), add noise of torch's generator to an image tensor [3, H, W].

    Args:
        mean, std: of the noise, in the units of the normalised image.
        p: probability.
    """

    def __init__(self, mean: float = 0.0, std: float = 0.15, p: float = 0.5) -> None:
        self.mean, self.std, self.p = mean, std, p

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if random.uniform(0, 1) > self.p:
            return image
        return image + torch.randn(image.shape) * self.std + self.mean


class InstanceNormalization:
    """Bring every channel of an image tensor [3, H, W] to mean 0 and (unbiased) standard deviation 1.

    Args:
        eps: added to the standard deviation.
    """

    def __init__(self, eps: float = 1e-8) -> None:
        self.eps = eps

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        flat = image.flatten(1)
        mean, std = flat.mean(dim=1), flat.std(dim=1)
        return (image - mean[:, None, None]) / (std[:, None, None] + self.eps)


def build_transform(cfg: CfgNode, is_train: bool = True, choices: Sequence[str] | None = None) -> Callable | None:
    """Build the pipeline from a PIL image to a float tensor [3, H, W]; each step prints one `+ ...` line.

    Training, each step only if chosen: resize to exactly INPUT.SIZE (unless a random crop is chosen), random
    translation, random crop, random resized crop, flip, policies, RandAugment, colour jitter, greyscale, blur, (always)
    ToTensor, cutout, normalise, noise, instance normalisation. Test: shorter edge to max(SIZE), centre crop of SIZE,
    ToTensor, then normalise and instance normalisation if chosen; all else is ignored.

    Policies and RandAugment are torchvision's: the same operations and magnitude scale (0 to 30) as Dassl's, which fail
    on current numpy, but other draws.

    Args:
        cfg: the whole config; the node INPUT is read.
        is_train: which of the two.
        choices: instead of INPUT.TRANSFORMS; their order is irrelevant.

    Returns:
        A torchvision `Compose`, or None with INPUT.NO_TRANSFORM.

    Raises:
        ValueError: for an unknown step, or one that is not supported here (Dassl: AssertionError without a message).
        KeyError: for an unknown interpolation.
    """
    if cfg.INPUT.NO_TRANSFORM:
        print("Note: no transform is applied!")
        return None
    choices = cfg.INPUT.TRANSFORMS if choices is None else choices
    for choice in choices:
        if choice in UNSUPPORTED_TRANSFORMS:
            raise WrongValue(f'The transform "{choice}" is not supported here; supported are {", ".join(TRANSFORMS)}')
        check_availability(choice, TRANSFORMS)
    if cfg.INPUT.INTERPOLATION not in INTERPOLATION_MODES:
        found = cfg.INPUT.INTERPOLATION
        raise UnknownName(f"INPUT.INTERPOLATION: expected one of {list(INTERPOLATION_MODES)}, found {found!r}")
    print(f"Building transform_{'train' if is_train else 'test'}")
    steps = _train_steps(cfg, choices) if is_train else _test_steps(cfg, choices)
    for line, _ in steps:
        print(f"+ {line}")
    return T.Compose([step for _, step in steps])


def _train_steps(cfg: CfgNode, choices: Sequence[str]) -> list[tuple[str, Callable]]:
    image = cfg.INPUT
    size = tuple(image.SIZE)
    after = [
        ("cutout", f"cutout (n={image.CUTOUT_N}, length={image.CUTOUT_LEN})", Cutout(image.CUTOUT_N, image.CUTOUT_LEN)),
        ("normalize", *_normalize(cfg)),
        ("gaussian_noise", f"gaussian noise (mean={image.GN_MEAN}, std={image.GN_STD})", _noise(cfg)),
        ("instance_norm", "instance normalization", InstanceNormalization()),
    ]
    chosen = [(line, step) for name, line, step in _geometry(cfg, size) + _colours(cfg) if name in choices]
    if not {"random_crop", "random_resized_crop"} & set(choices):
        resize = T.Resize(size, interpolation=INTERPOLATION_MODES[image.INTERPOLATION])
        chosen.insert(0, (f"resize to {size[0]}x{size[1]}", resize))
    chosen.append(("to torch tensor of range [0, 1]", T.ToTensor()))
    return chosen + [(line, step) for name, line, step in after if name in choices]


def _geometry(cfg: CfgNode, size: tuple[int, int]) -> list[tuple[str, str, Callable]]:
    image = cfg.INPUT
    interpolation = INTERPOLATION_MODES[image.INTERPOLATION]
    rrcrop = T.RandomResizedCrop(size, scale=tuple(image.RRCROP_SCALE), interpolation=interpolation)
    return [
        ("random_translation", "random translation", Random2DTranslation(*size)),
        ("random_crop", f"random crop (padding={image.CROP_PADDING})", T.RandomCrop(size, padding=image.CROP_PADDING)),
        ("random_resized_crop", f"random resized crop (size={size}, scale={tuple(image.RRCROP_SCALE)})", rrcrop),
        ("random_flip", "random flip", T.RandomHorizontalFlip()),
    ]


def _colours(cfg: CfgNode) -> list[tuple[str, str, Callable]]:
    image = cfg.INPUT
    jitter = (image.COLORJITTER_B, image.COLORJITTER_C, image.COLORJITTER_S, image.COLORJITTER_H)
    blur = T.RandomApply([T.GaussianBlur(image.GB_K)], p=image.GB_P)
    n, m = image.RANDAUGMENT_N, image.RANDAUGMENT_M
    return [
        ("imagenet_policy", "imagenet policy", T.AutoAugment(T.AutoAugmentPolicy.IMAGENET)),
        ("cifar10_policy", "cifar10 policy", T.AutoAugment(T.AutoAugmentPolicy.CIFAR10)),
        ("svhn_policy", "svhn policy", T.AutoAugment(T.AutoAugmentPolicy.SVHN)),
        ("randaugment", f"randaugment (n={n}, m={m})", T.RandAugment(num_ops=n, magnitude=m)),
        ("colorjitter", f"color jitter (brightness, contrast, saturation, hue = {jitter})", T.ColorJitter(*jitter)),
        ("randomgrayscale", f"random gray scale (p={image.RGS_P})", T.RandomGrayscale(p=image.RGS_P)),
        ("gaussian_blur", f"gaussian blur (kernel={image.GB_K}, p={image.GB_P})", blur),
    ]


def _test_steps(cfg: CfgNode, choices: Sequence[str]) -> list[tuple[str, Callable]]:
    size = tuple(cfg.INPUT.SIZE)
    # An int, so that the shorter edge becomes max(SIZE) and the aspect ratio is kept, unlike in training.
    resize = T.Resize(max(size), interpolation=INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION])
    steps = [
        (f"resize the smaller edge to {max(size)}", resize),
        (f"{size[0]}x{size[1]} center crop", T.CenterCrop(size)),
        ("to torch tensor of range [0, 1]", T.ToTensor()),
    ]
    if "normalize" in choices:
        steps.append(_normalize(cfg))
    if "instance_norm" in choices:
        steps.append(("instance normalization", InstanceNormalization()))
    return steps


def _normalize(cfg: CfgNode) -> tuple[str, Callable]:
    mean, std = list(cfg.INPUT.PIXEL_MEAN), list(cfg.INPUT.PIXEL_STD)
    return f"normalization (mean={mean}, std={std})", T.Normalize(mean=mean, std=std)


def _noise(cfg: CfgNode) -> GaussianNoise:
    return GaussianNoise(cfg.INPUT.GN_MEAN, cfg.INPUT.GN_STD)
