"""The records of a run: what is written is read back, and what a killed run has half-written does not count."""

import json

import pytest
from mocoop.trainers import records


def test_epochs_that_are_trained_again_are_dropped(tmp_path):
    records.drop_epochs_after(tmp_path, 0)  # no record yet
    for epoch in (1, 2, 3):
        records.add_epoch(tmp_path, {"epoch": epoch, "loss": 1 / epoch})
    path = tmp_path / "metrics.jsonl"
    with open(path, "a") as file:
        file.write('{"epoch": 4, "lo')
    records.check_metrics(tmp_path)
    records.drop_epochs_after(tmp_path, 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"epoch": 1, "loss": 1.0},
        {"epoch": 2, "loss": 0.5},
    ]
    path.write_text('{"epoch": 0}\n')
    with pytest.raises(ValueError, match="line 1 is no record of an epoch"):
        records.check_metrics(tmp_path)


def test_each_split_has_its_record_and_each_epoch_can_have_one(tmp_path):
    assert records.read_results(tmp_path) == {} == records.read_accuracies(tmp_path)
    records.write_result(tmp_path, "val", {"accuracy": 50.0})
    records.write_result(tmp_path, "test", {"accuracy": 2 / 3})
    records.keep_epoch_result(tmp_path, "test", 5)
    records.write_result(tmp_path, "test", {"accuracy": 1.0})
    assert records.read_accuracies(tmp_path) == {"val": 50.0, "test": 1.0, "test_epoch5": 2 / 3}
    records.drop_epoch_results(tmp_path, "test")
    assert records.read_results(tmp_path) == {"val": {"accuracy": 50.0}, "test": {"accuracy": 1.0}}
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="expected a record for each split"):
        records.write_result(tmp_path, "test", {})
    assert (tmp_path / "results.json").read_text() == "[]" and records.read_accuracies(tmp_path) == {}
