"""How many prompts fit into memory at once."""

import os
from pathlib import Path

import torch

from ..clip.text import TextEncoder

RUNS_AT_ONCE = (
    "MOCOOP_RUNS_AT_ONCE"  # environment: runs that share this machine's memory, or this GPU's (see `runs.pool`)
)


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
    """Bytes left under a container's own limit, which the system's available memory ignores; huge without a limit.

    Args:
        root: where the kernel shows control groups, of version 2 or 1. Cached files count as free.
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


def rows_that_fit(encoder: TextEncoder, device: torch.device) -> float:
    """How many rows of prompts fit into memory at once in training: half of the free memory is for text."""
    return free_memory(device) / 2 / int(os.environ.get(RUNS_AT_ONCE, 1)) / encoder.bytes_per_row
