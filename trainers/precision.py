"""In which precision the frozen towers compute."""

from functools import lru_cache
from pathlib import Path

import torch

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

    Read from the processor's flags, not measured: runs side by side, or a resumed one, must not decide differently.
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
