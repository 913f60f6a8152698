"""The benchmark of exported files: what runs sees the same images, its arithmetic by hand, the command at tiny size."""

import itertools
import json

import pytest
from mocoop.benchmarks import export
from mocoop.classifier.export import torch_writes_onnx
from mocoop.commands.main import main


def test_passes_take_turns_and_each_is_beside_torch_with_as_many_threads():
    seen = []
    passes = {
        (way, n): lambda way=way, n=n: seen.append((way, n)) or 6 for way in ("torch", "onnx fp32") for n in (1, 2)
    }
    ticks = itertools.accumulate([0, 6, 0, 3, 0, 2, 0, 2])
    rows = export.measure(passes, 1, lambda: next(ticks))
    assert seen == 2 * list(passes) and [row["seconds"] for row in rows] == [[6], [3], [2], [2]]
    ends = [(line.split()[-5], line.split()[-1]) for line in export.table(rows).splitlines()[2:]]
    assert ends == [("1", "1.00"), ("2", "1.00"), ("1", "3.00"), ("2", "1.50")]


@pytest.mark.slow
@pytest.mark.skipif(not torch_writes_onnx(), reason="torch exports to ONNX from 2.6 on")
def test_the_command(tmp_path, capsys):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    out = tmp_path / "export.json"
    small = ["--backbone", "tiny", "--classes", "3", "--images", "5", "--batch", "2", "--passes", "1"]
    assert main(["bench", "export", *small, "--threads", "1", "--precisions", "fp32", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert [(row["way"], row["threads"], row["images"]) for row in found["rows"]] == [
        ("torch", 1, 5),
        ("onnx fp32", 1, 5),
    ]
    assert found["title"] in capsys.readouterr().out
    assert main(["bench", "export", "--images", "0"]) == 1 and "at least 1" in capsys.readouterr().err
