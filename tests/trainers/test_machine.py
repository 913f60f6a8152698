"""What is read about the machine: its free memory, its processor."""

from pathlib import Path

import pytest
from mocoop.trainers.memory import container_memory
from mocoop.trainers.precision import has_bf16_units

VERSION_2 = {"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 500\ninactive_file 150\n"}
VERSION_1 = {
    "memory/memory.limit_in_bytes": "4000",
    "memory/memory.usage_in_bytes": "1000",
    "memory/memory.stat": "cache 9\ninactive_file 1\ntotal_inactive_file 30\n",
}


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (VERSION_2, 1000 - 700 + 150),
        (VERSION_1, 4000 - 1000 + 30),
        (VERSION_2 | {"memory.current": "1200"}, 0),
        (VERSION_2 | {"memory.max": "max"}, 2**63),
        ({}, 2**63),
    ],
)
def test_a_containers_limit(tmp_path, files, left):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert container_memory(tmp_path) == left


@pytest.mark.parametrize(("flags", "units"), [("fpu avx512_bf16 amx_bf16 amx_tile", True), ("fpu avx512_bf16", False)])
def test_matrix_units_are_what_the_processor_says(monkeypatch, flags, units):
    monkeypatch.setattr(Path, "read_text", lambda self: f"flags\t\t: {flags}\n" if str(self) == "/proc/cpuinfo" else "")
    assert has_bf16_units.__wrapped__() is units
