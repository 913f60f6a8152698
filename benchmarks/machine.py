"""What the measurements were made on: the machine, the versions, its matrix-product peak, its memory counters."""

import os
import platform
import resource
import subprocess
import time
from importlib import metadata
from pathlib import Path

from ..toolbox.dassl.utils import cores

ROOT = Path(__file__).resolve().parent.parent


def describe() -> dict:
    """Processor, cores, memory and present load, of this machine."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_gb": round(_kilobytes("/proc/meminfo", "MemTotal") / 2**20, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2),
    }


def versions() -> dict:
    """Python's, the libraries', this project's and its commit."""
    packages = {"torch": "torch", "open_clip": "open_clip_torch", "mocoop": "mocoop"}
    found = {"python": platform.python_version()}
    for name, package in packages.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[name] = "?"
    return found | {"commit": _commit()}


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "clip", "trainers", "benchmarks")
        return (git("rev-parse", "--short", "HEAD") or "?") + (" with changes" if changed else "")
    except OSError:  # no git
        return "?"


def _field(file: str, name: str) -> str:
    """The value of the first `name: value` line of a file, "" if there is none."""
    try:
        for line in Path(file).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return ""


def _kilobytes(file: str, name: str) -> int:
    value = _field(file, name).split()
    return int(value[0]) if value else 0


def free_bytes(device: str = "cpu") -> float:
    """Memory that is available, of the GPU on "cuda"; without Linux's counter, 8 GB are assumed."""
    if device == "cuda":
        import torch

        return float(torch.cuda.mem_get_info()[0])
    return 1024.0 * _kilobytes("/proc/meminfo", "MemAvailable") or 8e9


def resident_bytes() -> int:
    """What this process holds now."""
    return 1024 * _kilobytes("/proc/self/status", "VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most this process has held at once (since `reset_peak`, where the system allows that)."""
    linux = 1024 * _kilobytes("/proc/self/status", "VmHWM")
    return linux or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def reset_peak() -> None:
    """Forget the peak of what came before, such as making the weights."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def end_this_process_first() -> None:
    """If the machine runs out of memory, let it end this process rather than another."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        pass


def matrix_peak(prec: str, device: str, quick: bool = False) -> dict:
    """The best rate of square matrix products, with torch's present threads.

    Args:
        prec: fp32, or one whose autocast type is measured instead; device: cpu or cuda.
        quick: small matrices only, for trying out.

    Returns:
        {"flops": per second, "dtype": name, "size": n of the n x n matrices}.
    """
    import torch

    from ..trainers.precision import autocast_dtype

    dtype = autocast_dtype(prec, torch.device(device)) or torch.float32
    best = {"flops": 0.0, "dtype": str(dtype).removeprefix("torch."), "size": 0}
    for size in (256,) if quick else (1024, 2048, 4096) if device == "cpu" else (4096, 8192, 16384):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out, spent = a @ b, 0.0
        while spent < (0.05 if quick else 1.0):
            synchronize(device)
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            synchronize(device)
            seconds = time.perf_counter() - start
            spent += seconds
            if 2 * size**3 / seconds > best["flops"]:
                best |= {"flops": 2 * size**3 / seconds, "size": size}
    return best


def synchronize(device: str) -> None:
    """Wait for the GPU, if there is one in play."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
