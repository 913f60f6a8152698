"""The loading benchmark: all ways deliver the same batches, its arithmetic by hand, the command at tiny size."""

import itertools
import json

import pytest
import torch
from mocoop.benchmarks import loading
from PIL import Image


def arguments(*given):
    return loading.build_parser().parse_args([str(value) for value in given])


@pytest.fixture()
def photos(tmp_path):
    return loading.make_images(tmp_path, 7, 50, 40)


def test_made_up_images_are_jpegs_of_the_size_and_always_the_same(photos, tmp_path):
    with Image.open(photos[3]) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (50, 40), "RGB")
    (tmp_path / "again").mkdir()
    again = loading.make_images(tmp_path / "again", 2, 50, 40)
    assert open(again[1], "rb").read() == open(photos[1], "rb").read() != open(photos[0], "rb").read()


@pytest.mark.parametrize("test", [[], ["--test"]])
def test_all_ways_deliver_the_same_batches(photos, test):
    args = arguments("--input", 32, "--batch", 3, *test)
    delivered = {}
    for way in loading.WAYS:
        loader = loading.loader(way, photos, args, workers=1)
        torch.manual_seed(2)
        delivered[way] = [batch["img"] for _ in range(2) for batch in loader]
    assert len(delivered["plain"]) == 2 * (3 if test else 2)
    for way in ("anew", "kept"):
        assert all(torch.equal(a, b) for a, b in zip(delivered[way], delivered["plain"], strict=True))


def test_ways_take_turns_and_times_are_those_of_the_clock(photos):
    args = arguments("--input", 16, "--batch", 4, "--workers", 0, "--passes", 2)
    ticks = itertools.accumulate([0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6])  # a pass takes 1, 2, ... seconds
    rows = loading.measure(photos, args, clock=lambda: next(ticks))
    assert [(row["way"], row["images"], row["seconds"]) for row in rows] == [
        ("plain", 4, [1, 4]),
        ("anew", 4, [2, 5]),
        ("kept", 4, [3, 6]),
    ]


def row(way, *seconds):
    return {"way": way, "workers": 0, "images": 12, "seconds": list(seconds)}


def test_rates_and_break_even_by_hand():
    plain, kept = row("plain", 4, 4, 6, 2), row("kept", 6, 2, 3, 1)
    assert loading.rates(kept) == {"first": 2, "later": {"median": 6, "min": 4, "max": 12}}
    assert (
        loading.break_even(kept, plain) == 2
    )  # two seconds lost, two gained in each later pass: even after the second
    assert loading.break_even(row("kept", 9, 4, 4), plain) is None
    assert loading.break_even(row("kept", 3, 2, 2), plain) == 1
    lines = loading.table([plain, kept]).splitlines()
    assert lines[-1].split() == ["0", "kept", "2", "6", "4", "12", "0.67", "2.00", "2.0"]


def test_the_command(tmp_path, capsys):
    out = tmp_path / "loading.json"
    code = loading.main(
        [
            *("--images", "3", "--size", "40", "30", "--input", "16", "--workers", "0", "--passes", "2"),
            *("--json", str(out)),
        ]
    )
    result = json.loads(out.read_text())
    assert code == 0 and result["kind"] == "loading" and [r["way"] for r in result["rows"]] == list(loading.WAYS)
    assert all(r["first"] > 0 and r["later"]["median"] > 0 for r in result["rows"])
    assert "made-up JPEGs of 40 x 30" in capsys.readouterr().out


def test_a_folder_of_images(tmp_path, capsys):
    for name in ("a/1.png", "a/2.PNG", "b/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(tmp_path / name)
    (tmp_path / "a/notes.txt").write_text("no image")
    assert len(loading.find_images(tmp_path, 9)) == 3
    assert len(loading.find_images(tmp_path, 2)) == 2
    given = ["--folder", str(tmp_path), "--input", "16", "--workers", "0", "--passes", "2", "--test"]
    assert loading.main(given) == 0
    assert "Evaluation, 3 images (a folder of the user's" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, complaint",
    [
        (["--passes", "1"], "--passes: expected at least 2"),
        (["--images", "0"], "must be at least 1"),
        (["--workers", "-1"], "at least 0"),
        (["--folder", "nowhere"], "--folder nowhere: expected images"),
    ],
)
def test_what_makes_no_sense_is_said(given, complaint, capsys):
    with pytest.raises(SystemExit) as caught:
        loading.main(given)
    assert caught.value.code == 1 and complaint in capsys.readouterr().err
