"""How far a sweep is and what the rest costs, from folders made by hand."""

import json
import os
from pathlib import Path

import pytest
from mocoop.runs import folder, owner, progress, sweeps
from mocoop.runs.protocols import Settings


@pytest.fixture()
def items(tmp_path):
    """Base-to-new of two methods with two seeds, all below `tmp_path`."""
    grid = sweeps.Grid("mine", ("base2new",), ("dtd",), ("coop", "lasp"), (1, 2))
    return sweeps.items_of(grid, Settings(data=Path("/d"), output=tmp_path))


def finish(job, seconds=10.0):
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "env.json").write_text('{"device": "cpu (1 threads)"}')
    folder.finish(job.folder, seconds)


def states(items):
    return [progress.state_of(item).name for item in items]


def test_states(items):
    assert states(items) == ["waiting"] * 4
    for job in items[0].jobs:
        finish(job)
    finish(items[1].jobs[0])  # its test is left
    folder.note_failure(items[2].folder, 1, "Error: no images")
    items[3].folder.mkdir(parents=True)
    with owner.owning(items[3].folder, True):
        assert states(items) == ["done", "waiting", "failed", "running"]
    assert states(items) == ["done", "waiting", "failed", "waiting"]
    assert progress.state_of(items[1]).left == items[1].jobs[1:]


def test_a_model_that_is_trained_again_makes_its_test_wait(items):
    for job in items[0].jobs:
        finish(job)
    test = items[0].jobs[1].folder / "DONE"
    os.utime(test, (1, 1))
    assert states(items)[0] == "waiting"


def test_a_failed_run_that_is_at_work_again_is_running(items):
    folder.note_failure(items[0].folder, 1, "Error: no images")
    with owner.owning(items[0].folder, True):
        assert states(items)[0] == "running"


def test_the_report_names_reasons_shares_and_where_runs_are(items, tmp_path):
    for job in items[0].jobs:
        finish(job)
    finish(items[1].jobs[0])
    folder.note_failure(items[2].folder, 1, "Error: no images in x,\nfetch them")
    (items[2].folder / "log.txt").write_text("one\ntwo\n\nthree\nfour\n")
    items[3].folder.mkdir(parents=True)
    (items[3].folder / "log.txt").write_text("epoch [3/10] batch [5/5] loss 1\n")
    lines = progress.report([progress.state_of(item) for item in items], tmp_path)
    assert lines[:3] == [
        "4 items: 1 done, 0 running, 2 waiting, 1 failed",
        "  CoOp     3 of    4 runs done ( 75%)",
        "  LASP     0 of    4 runs done (  0%)",
    ]
    assert lines[3:] == [
        f"waiting  {items[3].name}: stopped at epoch 3/10 30%; goes on from its last checkpoint",
        f"failed   {items[2].name}",
        f"         {items[2].folder}",
        "         Error: no images in x,",
        "         fetch them",
        "         last lines of its log:",
        *("         two", "         three", "         four"),
    ]


def test_an_owner_of_another_machine_is_named(items, tmp_path):
    items[0].folder.mkdir(parents=True)
    (items[0].folder / ".owner").write_text(json.dumps({"host": "node7", "pid": 5, "job": "9_1"}))
    text = progress.state_of(items[0]).text
    assert text == "starting, process 5 on node7, Slurm job 9_1"


def test_the_estimate_is_what_other_seeds_took_and_says_what_was_not_measured(items, tmp_path):
    assert progress.estimate(items, tmp_path)[:2] == [
        "4 items, 8 runs; to be done: 4 items, 8 runs",
        "8 were not measured, so there is no estimate for them; for one, run one seed of:",
    ]
    finish(items[0].jobs[0], 600.0)  # CoOp, seed 1
    finish(items[0].jobs[1], 60.0)
    lines = progress.estimate(items, tmp_path)
    assert lines[0] == "4 items, 8 runs; to be done: 3 items, 6 runs"
    assert lines[1] == (
        "2 of these were measured with another seed (on cpu (1 threads)): "
        "11 min one after the other, divided by how many go at once"
    )
    assert lines[2].startswith("4 were not measured") and len(lines) == 5
    assert all("LASP" in line for line in lines[3:])


def test_a_run_that_went_on_has_cost_all_of_its_epochs(items):
    finish(items[0].jobs[0], 7.0)  # the last part
    records = [{"epoch": 1, "seconds": 30.0}, {"epoch": 2, "seconds": 31.5}]
    (items[0].folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert progress.seconds_of(items[0].folder) == 61.5
    (items[0].folder / "DONE").write_text("[]")
    assert progress.seconds_of(items[0].folder) is None
    assert progress.seconds_of(items[1].folder) is None


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "60 s"), (180, "3 min"), (7199, "120 min"), (9000, "2.5 h")])
def test_times_for_people(seconds, text):
    assert progress.duration(seconds) == text
