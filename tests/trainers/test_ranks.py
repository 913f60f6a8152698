"""One run on 2 and 3 ranks, real processes with gloo, gives what it gives on one."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mocoop.tests.trainers import shared_run
from mocoop.trainers.ranks import Ranks

pytestmark = pytest.mark.slow
METHODS = ("ZeroshotCLIP", "ZeroshotCLIP2", "CoOp", "CoCoOp", "LASP", "MoCoOp", "KgCoOp")
CASES = {
    **{method: (method,) for method in METHODS},
    "CoOp, a context for each class": ("CoOp", "TRAINER.COOP.CSC", True),
    "MoCoOp, in chunks, gradients clipped": ("MoCoOp", "TRAIN.TEXT_CHUNK", 4, "TRAINER.MOCOOP.GRAD_CLIP", 0.1),
    "MoCoOp, the released gate": ("MoCoOp", "TRAINER.MOCOOP.GATE_TARGET", "authors"),
    "LASP, three groups": ("LASP", "TRAINER.LASP.GROUPS", 3),
    "CoCoOp, in chunks": ("CoCoOp", "TRAIN.TEXT_CHUNK", 4),
}
WHOLE = {
    "MoCoOp": ("MoCoOp",),
    "LASP, stored features": ("LASP", "INPUT.FEATURE_VIEWS", 2, "TRAINER.LASP.FINETUNE_VIT_LN", False),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    shared_run.make_images(root)
    return root


@pytest.fixture(scope="module")
def found(tmp_path_factory, images):
    """{N: {task: [answer of each rank]}} for N = 1, 2, 3."""
    answers = {}
    for size in (1, 2, 3):
        out = tmp_path_factory.mktemp(f"ranks{size}")
        tasks = {"pieces": ("pieces",), "read": ("images_read", "CoOp", images, out / "read")}
        for title, (method, *opts) in CASES.items():
            tasks[title] = ("twenty_steps", method, images, out / title, *opts)
        for title, (method, *opts) in WHOLE.items():
            tasks["whole " + title] = ("whole_run", method, images, out / f"whole {title}", *opts)
        done = shared_run.on_ranks(size, list(tasks.values()), out / "store")
        answers[size] = dict(zip(tasks, done, strict=True)) | {"out": out}
    return answers


def test_shares_are_consecutive_and_complete():
    assert [Ranks(r, 3).share(7) for r in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 7)]
    assert Ranks(0, 3).parts(7) == [2, 2, 3] and Ranks(0, 3).parts(1) == [0, 0, 1]
    assert Ranks(0, 3).share(1) == slice(0, 1)  # nothing is its own: the first is computed, and not gathered


@pytest.mark.parametrize("size", [2, 3])
def test_what_is_gathered_and_averaged(found, size):
    """By hand: d/dx of 3 sum x^2 is 6 x, whichever rank squared it."""
    for answer in found[size]["pieces"]:
        assert np.array_equal(answer["gathered"], np.arange(10.0).reshape(5, 2) ** 2)
        assert np.allclose(answer["gradient"], 6 * np.arange(10.0).reshape(5, 2), rtol=1e-6)
        assert answer["unused"] is None
        total = [0.0 + 1.0 + (2.0 if size == 3 else 0.0), size - 1.0]
        assert np.allclose(answer["some"], np.array(total) / size)
        assert answer["few"].shape == (3, 1) and (answer["few"] == size - 1).all()  # of 1 entry the last rank has it
        assert answer["dealt"] == list(range(7))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("title", CASES)
def test_twenty_steps_are_those_of_one_rank(found, size, title):
    (one,), answers = found[1][title], found[size][title]
    for answer in answers:
        assert answer["accuracy"] == one["accuracy"] and np.array_equal(answer["logits"], one["logits"])  # bit for bit
        assert answer["routing"] == one["routing"]
        for key in ("gradients", "state"):
            assert answer.keys() == one.keys()
            for name, expected in one.get(key, {}).items():
                scale = max(1.0, np.abs(expected).max())
                assert np.abs(answer[key][name] - expected).max() <= 1e-5 * scale, (key, name)
                assert np.array_equal(answer[key][name], answers[0][key][name])  # ranks do not drift apart
        if "losses" in one:
            assert np.allclose(answer["losses"], one["losses"], rtol=1e-5, atol=1e-5)
            assert len(one["losses"]) == 20 and one["losses"][0, 0] != one["losses"][-1, 0]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("title", WHOLE)
def test_a_run_leaves_the_files_of_one_rank(found, size, title):
    """Augmentation, noise and order are drawn alike; the first rank writes, and nobody else."""
    (one,), answers = found[1]["whole " + title], found[size]["whole " + title]
    for answer in answers:
        assert answer["draw"] == one["draw"]
        for name, expected in one["state"].items():
            assert np.abs(answer["state"][name] - expected).max() <= 1e-5, name
    folders = [found[n]["out"] / f"whole {title}" for n in (1, size)]
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in folders]
    names = [[name for name in each if "tfevents" not in name] for each in names]
    assert names[0] == names[1] and "prompt_learner/model.pth.tar-4" in names[0]
    records = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in folders]
    assert [r["epoch"] for r in records[1]] == [1, 2, 3, 4]
    for a, b in zip(*records, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["acc"] == pytest.approx(b["acc"])


@pytest.mark.parametrize(("first", "then"), [(1, 3), (3, 1), (2, 3)])
def test_a_run_goes_on_with_another_number_of_ranks(found, images, tmp_path, first, then):
    shutil.copytree(found[first]["out"] / "whole MoCoOp", tmp_path / "run")
    folder = tmp_path / "run/prompt_learner"
    (folder / "checkpoint").write_text("model.pth.tar-2\n")
    for epoch in (3, 4):
        (folder / f"model.pth.tar-{epoch}").unlink()
    tasks = [("whole_run", "MoCoOp", images, tmp_path / "run")]
    (answers,) = shared_run.on_ranks(then, tasks, tmp_path / "store")
    whole = found[1]["whole MoCoOp"][0]
    for answer in answers:
        assert answer["epoch"] == 2 and answer["draw"] == whole["draw"]
        for name, expected in whole["state"].items():
            assert np.abs(answer["state"][name] - expected).max() <= 1e-5, name
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_each_rank_reads_its_own_test_images(found):
    """15 images in batches of 4: the batches 0 and 2, and 1 and 3 (of three images)."""
    assert sorted(found[1]["read"][0]["read"]) == list(range(15))
    assert found[2]["read"][0]["read"] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert found[2]["read"][1]["read"] == [4, 5, 6, 7, 12, 13, 14]


def test_a_rank_encodes_its_share_of_the_names(tiny_backbone):
    """In training; in evaluation, and alone, all."""
    from mocoop.trainers.mocoop import MoCoOpModel

    model = MoCoOpModel(tiny_backbone, shared_run.NAMES, groups=shared_run.GROUPS)
    assert [layout.shape for layout in model.layouts(5)] == [(3, 5)]
    model.ranks = SimpleNamespace(share=Ranks(1, 3).share)
    assert [layout.shape for layout in model.layouts(5)] == [(3, 2)]
    with torch.no_grad():
        assert [layout.shape for layout in model.layouts(5)] == [(3, 5)]
