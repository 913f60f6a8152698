"""The frozen towers in training: precision, image features, and the LayerNorms that some methods let learn."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip import Backbone
from ..clip.image import encode_image
from ..clip.text import TextEncoder
from ..config import ConfigError


def autocast_dtype(prec: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of a precision name on a device; None = plain float32."""
    if prec == "fp32" or (prec == "fp16" and device.type == "cpu"):
        return None
    if prec == "bf16":
        return torch.bfloat16
    if device.type == "cpu":
        return torch.bfloat16 if has_bf16_units() else None
    return torch.float16


@lru_cache(maxsize=1)
def has_bf16_units() -> bool:
    """Whether this CPU has matrix units for bfloat16 (AMX), with which it gains (measured: docs/PERFORMANCE.md).

    What the processor says, not a stopwatch: runs side by side, or one that is resumed, must not decide differently.
    """
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


def check_precision(prec: str, device: torch.device) -> None:
    """Refuse a precision that the device computes in emulation only, or not at all.

    Raises:
        ConfigError: bf16 on a GPU without it (before NVIDIA's Ampere).
    """
    if prec == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            [f"PREC bf16: {torch.cuda.get_device_name(device)} has no bfloat16; use amp (float16 there) or fp32"]
        )


def image_features(backbone: Backbone, image: Tensor, learn: bool) -> Tensor:
    """Normalised image features [B, D] in float32; without a gradient graph unless the tower learns.

    Args:
        backbone: whose image tower encodes.
        image: [B, 3, H, W], or features [B, D] from a cache (see `views.py`), which are returned.
        learn: the tower has trained parameters.
    """
    if image.dim() == 2:
        return image
    with torch.set_grad_enabled(learn and torch.is_grad_enabled()):
        return F.normalize(encode_image(backbone.visual, image).float(), dim=-1)


def image_norms(visual: nn.Module) -> dict[str, nn.Parameter]:
    """Weights and biases of ln_1 and ln_2 of every block of a ViT image tower, by name.

    Raises:
        ConfigError: the tower has no such blocks (a ResNet).
    """
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None or not all(hasattr(block, "ln_1") and hasattr(block, "ln_2") for block in blocks):
        raise ConfigError(
            [f"FINETUNE_VIT_LN needs an image tower of ViT blocks, found {type(visual).__name__}; set it to False"]
        )
    return {
        f"{i}_{norm}_{kind}": getattr(getattr(block, norm), kind)
        for i, block in enumerate(blocks)
        for norm in ("ln_1", "ln_2")
        for kind in ("weight", "bias")
    }


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device: the GPU's free memory, or the system's available memory."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device.index)[0] + cached  # (torch 2.4 wants a number; None = the current one)
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return min(int(lines["MemAvailable"].split()[0]) * 1024, container_memory())
    except (OSError, KeyError, ValueError):  # not Linux
        return 8 * 2**30


def container_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes left under a container's own limit, which the system's available memory does not know; huge without one.

    Args:
        root: where the kernel shows control groups, of version 2 or 1. Cached files count as free, as they give way.
    """
    version_2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
    version_1 = ("limit_in_bytes", "usage_in_bytes", "stat")
    version_1 = (*(f"memory/memory.{name}" for name in version_1), "total_inactive_file")
    for limit, usage, stat, cached in (version_2, version_1):
        try:
            free = int((root / limit).read_text()) - int((root / usage).read_text())
            lines = dict(line.split() for line in (root / stat).read_text().splitlines())
            return max(0, free + int(lines.get(cached, 0)))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return 2**63


runs_at_once = 1  # runs that share this machine's memory (or this GPU's); set by the runner in the runs' processes


def rows_that_fit(encoder: TextEncoder, device: torch.device) -> float:
    """How many rows of prompts may be in flight in training: half of the free memory is for text."""
    return free_memory(device) / 2 / runs_at_once / encoder.bytes_per_row


class Kept:
    """Text features of evaluation, computed once per state of the parameters they depend on.

    Args:
        compute: () -> features; runs without gradient.
    """

    def __init__(self, compute: Callable[[], Tensor]):
        self.compute, self.state, self.value = compute, None, None

    @torch.no_grad()
    def __call__(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """The features for the present values of `parameters` (in-place changes and loading are noticed)."""
        state = tuple((p.data_ptr(), p._version) for p in parameters)
        if self.state != state:
            self.value, self.state = self.compute(), state
        return self.value

    def drop(self) -> None:
        """Forget them (edits through `p.data` escape the version counters)."""
        self.state = None
