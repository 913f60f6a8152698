"""`mocoop bench WHAT ...`: the benchmarks, by name."""

import importlib
from collections.abc import Sequence

BENCHMARKS = {
    "step": "a training step or a test batch against the plain way",
    "scale": "a step against numbers of classes, experts and images",
    "ranks": "work and memory of each process when one run is shared by several",
    "loading": "the data loader against the released one",
    "predict": "a classifier over a folder against its image tower alone",
    "export": "an exported ONNX file against torch",
    "report": "docs/PERFORMANCE.md from what was measured",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one; returns the exit code."""
    what, *rest = list(argv or []) or ["--help"]
    if what not in BENCHMARKS:
        lines = [f"  {name:<8} {text}" for name, text in BENCHMARKS.items()]
        print("\n".join(["usage: mocoop bench WHAT ...", "", *lines, "", "mocoop bench WHAT --help says more."]))
        return 0 if what in ("-h", "--help") else 2
    return importlib.import_module(f"mocoop.benchmarks.{what}").main(rest) or 0
