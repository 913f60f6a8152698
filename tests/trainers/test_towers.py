"""What the estimate of free memory reads."""

import pytest
from mocoop.trainers.towers import container_memory

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
