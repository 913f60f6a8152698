import pytest
import torch
from mocoop import Classifier
from mocoop.classifier import auto
from mocoop.classifier.auto import compare, plans, table
from mocoop.classifier.training import TrainingImages
from mocoop.tests.classifier.conftest import COLOURS, QUICK

CANDIDATES = ["zsclip", "coop", "mocoop"]


@pytest.fixture()
def data(listed):
    paths, labels = listed
    return TrainingImages(paths, torch.tensor([list(COLOURS).index(label) for label in labels]), workers=2)


def test_the_best_on_held_out_images_is_chosen(demo, data, monkeypatch):
    wrong = {"ZeroshotCLIP": 4, "CoOp": 2, "MoCoOp": 2}  # of 15 images; between equal ones the log-loss decides

    def held_out_logits(plan, data, folds, seed, watch):
        logits = 9.0 * torch.eye(3)[data.labels] * (2 if plan.row.name == "CoOp" else 1)
        logits[: wrong[plan.row.name]] *= -0.01
        return logits, data.labels

    monkeypatch.setattr(auto, "held_out_logits", held_out_logits)
    monkeypatch.setattr(auto, "expected_seconds", lambda *rest: 0.0)
    best, tried = compare(plans(list(COLOURS), demo, CANDIDATES, {}), data, folds=3, seconds=60)
    assert [record.method for record in tried] == ["MoCoOp", "CoOp", "ZeroshotCLIP"] and best.row.name == "MoCoOp"
    assert [record.accuracy for record in tried] == pytest.approx([13 / 15, 13 / 15, 11 / 15])


def test_what_would_take_too_long_is_not_tried(demo, data, monkeypatch):
    clock = iter(range(0, 1000, 1))
    monkeypatch.setattr(auto.time, "monotonic", lambda: float(next(clock)))
    best, tried = compare(plans(list(COLOURS), demo, CANDIDATES, {"epochs": 40, "views": 1}), data, folds=3, seconds=9)
    assert best.row.name == "ZeroshotCLIP"
    # a step of 1 s, one step an epoch (15 images in a batch of 32), 40 epochs, 3 folds
    assert "would take about 120 s" in tried[1].note and tried[1].accuracy is None
    assert "CoOp" in table(tried) and "120 s" in table(tried)


def test_what_cannot_be_used_is_said_and_the_others_go_on(demo, data, monkeypatch):
    def refuse(self, seed):
        raise ValueError("not with this tower")

    candidates = plans(list(COLOURS), demo, ["coop", "zsclip"], {})
    monkeypatch.setattr(type(candidates[0]), "model", refuse)
    with pytest.raises(ValueError, match="no method could be tried: CoOp: not with this tower"):
        compare(candidates, data, folds=2, seconds=60)


def test_settings_hold_for_the_methods_that_know_them(demo):
    coop, mocoop = plans(list(COLOURS), demo, ["coop", "mocoop"], {"topk": 1, "epochs": 3})
    assert mocoop.arguments["topk"] == 1 and "topk" not in coop.arguments
    assert coop.recipe.epochs == mocoop.recipe.epochs == 3
    with pytest.raises(ValueError, match="no method among CoOp has a setting 'topk'"):
        plans(list(COLOURS), demo, ["coop"], {"topk": 1})


def test_auto_end_to_end(demo, listed):
    clf = Classifier("auto", **{**QUICK, "backbone": demo, "folds": 2}, candidates=CANDIDATES[:2]).fit(*listed)
    assert {row["method"] for row in clf.tried_} == {"ZeroshotCLIP", "CoOp"}
    assert clf.model.method == clf.tried_[0]["method"] == clf.fit_["method"]
    assert clf.figures_["held_out"]["accuracy"] == clf.tried_[0]["accuracy"] == max(r["accuracy"] for r in clf.tried_)
    assert clf.figures_["held_out"]["images"] == 15


def test_auto_needs_something_to_hold_out(demo, listed):
    paths, labels = listed
    with pytest.raises(ValueError, match="every class has one only"):
        Classifier("auto", **{**QUICK, "backbone": demo, "folds": 2}, candidates=["coop"], shots=1).fit(paths, labels)
    with pytest.raises(ValueError, match="auto cannot do with"):
        Classifier("auto", **{**QUICK, "backbone": demo}).fit(paths, labels)
