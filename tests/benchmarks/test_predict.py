"""The prediction benchmark: both passes see the same images, its arithmetic by hand, the command at tiny size."""

import itertools
import json

import pytest
import torch
from mocoop.benchmarks import predict
from mocoop.benchmarks.loading import make_images


def arguments(*given):
    return predict.build_parser().parse_args(["--backbone", "tiny", "--classes", "3", *map(str, given)])


def test_both_passes_encode_the_same_images(tmp_path, monkeypatch):
    args = arguments("--batch", 4)
    clf, seen = predict.build(args), []
    encode = clf.model.encode_image
    monkeypatch.setattr(clf.model, "encode_image", lambda images: seen.append(images) or encode(images))
    ways = predict.passes(clf, make_images(tmp_path, 6, 50, 40), args)
    assert (ways["tower"](), ways["folder"]()) == (6, 6)
    assert len(seen) == 4 and all(torch.equal(a, b) for a, b in zip(seen[:2], seen[2:], strict=True))


def test_passes_take_turns_and_times_are_those_of_the_clock(tmp_path):
    args = arguments("--passes", 2, "--batch", 4)
    ticks = itertools.accumulate([0, 1, 0, 2, 0, 3, 0, 4])
    rows = predict.measure(predict.build(args), make_images(tmp_path, 6, 50, 40), args, lambda: next(ticks))
    assert [(row["way"], row["images"], row["seconds"]) for row in rows] == [
        ("tower", 6, [1, 3]),
        ("folder", 6, [2, 4]),
    ]
    assert predict.rates(rows[0]) == {"median": 4, "min": 2, "max": 6}
    assert predict.table(rows).splitlines()[-1].split() == ["folder", "2.2", "1.5", "3.0", "0.56"]


def test_the_command(tmp_path, capsys):
    out = tmp_path / "predict.json"
    done = predict.main(["--backbone", "tiny", "--classes", "3", "--images", "5", "--passes", "1", "--json", str(out)])
    found = json.loads(out.read_text())
    assert done == 0 and [row["way"] for row in found["rows"]] == ["tower", "folder"]
    assert found["title"] in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        predict.main(["--images", "0"])
    assert left.value.code == 1
