"""The index of an output folder is only a cache: it never says anything that the runs' files do not."""

import json
import os
from pathlib import Path

import pytest
from mocoop import results
from mocoop.results import index, reading
from mocoop.results.index import INDEX


@pytest.fixture
def indexed(write_run, output, monkeypatch):
    """Five runs of long ago, and which results are read from their files."""
    monkeypatch.setattr(index, "FEWEST", 3)
    for seed in range(1, 6):
        age(write_run("fewshot/dtd/shots_1", seed, 50.0 + seed, method="MoCoOp", routing=[0.25, 0.75]))
    read = []
    original = reading.read_record
    monkeypatch.setattr(reading, "read_record", lambda folder, split: read.append(folder) or original(folder, split))
    return read


def age(folder: Path) -> Path:
    """Let a run's files be an hour old."""
    for name in ("config.yaml", "results.json"):
        if (folder / name).exists():
            then = (folder / name).stat().st_mtime - 3600
            os.utime(folder / name, (then, then))
    return folder


def values(output):
    (seeds,) = [results.collect(output).values(setting) for setting in results.collect(output).seen]
    return seeds


def test_the_second_reading_opens_no_results(indexed, output):
    first = results.collect(output)
    assert len(indexed) == 5 and (output / INDEX).is_file()
    second = results.collect(output)
    assert len(indexed) == 5
    assert [(r.setting, r.seed, r.folder, r.metrics) for r in first.runs] == [
        (r.setting, r.seed, r.folder, r.metrics) for r in second.runs
    ]
    assert second.runs[0].routing["test"]["share"] == [0.25, 0.75]


def test_a_changed_run_is_read_anew(indexed, output):
    results.collect(output)
    path = next(output.rglob("seed3/results.json"))
    record = json.loads(path.read_text())
    record["test"]["accuracy"] = 99.0
    path.write_text(json.dumps(record))
    assert values(output) == {1: 51.0, 2: 52.0, 3: 99.0, 4: 54.0, 5: 55.0}
    assert {Path(folder).name for folder in indexed[5:]} == {"seed3"}


def test_a_file_that_may_still_change_within_its_time_stamp_is_not_remembered(indexed, output, write_run):
    write_run("fewshot/dtd/shots_1", 6, 56.0, method="MoCoOp")
    results.collect(output)
    del indexed[:]
    results.collect(output)
    assert [Path(folder).name for folder in indexed] == ["seed6"]


def test_runs_that_are_gone_or_not_finished_are_forgotten(indexed, output):
    results.collect(output)
    next(output.rglob("seed2/DONE")).unlink()
    assert values(output) == {1: 51.0, 3: 53.0, 4: 54.0, 5: 55.0}
    assert len(index.read_index(output / INDEX)) == 4


def test_a_part_of_the_runs_keeps_the_entries_of_the_others(indexed, output, write_run):
    for seed in range(1, 4):
        age(write_run("fewshot/ucf101/shots_1", seed, 70.0))
    results.collect(output)
    results.collect(output, "ucf101")
    assert len(index.read_index(output / INDEX)) == 8


def test_another_config_is_found_without_opening_equal_ones(indexed, output):
    results.collect(output)
    folder = next(output.rglob("seed4"))
    (folder / "config.yaml").write_text("OPTIM:\n  LR: 0.5\nSEED: 4\n")
    (problem,) = results.collect(output).errors()
    assert str(folder) in problem and "OPTIM.LR" in problem


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"null\n",
        b"[" * 100000,
        b'{"mocoop results index": 2}\n',
        b'{"mocoop results index": 1}\n["fewshot/dtd"]\n',
        b'{"mocoop results index": 1}\n{"a": 1}\n',
    ],
)
def test_a_damaged_index_is_done_without(indexed, output, content):
    results.collect(output)
    (output / INDEX).write_bytes(content)
    assert values(output) == {seed: 50.0 + seed for seed in range(1, 6)}
    assert len(index.read_index(output / INDEX)) == 5  # made anew


@pytest.mark.parametrize("wrong", [None, True, "x", [], {"test": 3}, {"test": {"accuracy": "50"}}])
def test_an_index_with_other_values_is_done_without(indexed, output, wrong):
    results.collect(output)
    head, first, *rest = (output / INDEX).read_text().splitlines()
    row = json.loads(first)
    row[4] = wrong
    (output / INDEX).write_text("\n".join([head, json.dumps(row), *rest]) + "\n")
    assert index.read_index(output / INDEX) == {}
    assert values(output) == {seed: 50.0 + seed for seed in range(1, 6)}


def test_an_output_folder_that_cannot_be_written(indexed, output, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mocoop.toolbox.dassl.utils.tools.os.replace", full)
    assert values(output) == {seed: 50.0 + seed for seed in range(1, 6)}
    assert [path.name for path in output.iterdir()] == ["fewshot"]


def test_few_runs_need_none(write_run, output):
    write_run("fewshot/dtd/shots_1", 1, 50.0)
    results.collect(output)
    assert not (output / INDEX).exists()
