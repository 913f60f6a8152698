import pytest
import torch
from mocoop.classifier.experts import ExpertRecord, Routing
from mocoop.report.measured import Measured, from_held_out, from_images, worst_mistakes
from mocoop.toolbox.dassl.errors import WrongValue

CONFUSION = [[3, 1, 0], [2, 2, 0], [0, 0, 0]]  # true class by answer


def measured(**given):
    return Measured("somewhere", ["a", "b", "c"], {}, CONFUSION, None, **given)


def test_rows_by_hand():
    a, b, c = measured().rows()
    assert (a.images, a.accuracy, a.precision, a.taken_for, a.times) == (4, 3 / 4, 3 / 5, "b", 1)
    assert (b.images, b.accuracy, b.precision, b.taken_for, b.times) == (4, 2 / 4, 2 / 3, "a", 2)
    assert (c.images, c.accuracy, c.precision, c.taken_for, c.times) == (0, None, None, None, 0)
    assert (a.expert, a.weight) == (None, None)


def test_the_main_expert_of_a_class():
    experts = [ExpertRecord(t, 0.5, 4, 0.5, 0.5, []) for t in ("x {}", "y {}")]
    routing = Routing(8, 5 / 8, ["a", "b", "c"], [[0.3, 0.7], [0.9, 0.1], None], experts)
    assert [(row.expert, row.weight) for row in measured(routing=routing).rows()] == [(2, 0.7), (1, 0.9), (None, None)]


def test_confused_pairs_by_hand():
    assert measured().confused(9) == [("b", "a", 2, 2 / 4), ("a", "b", 1, 1 / 4)]
    assert measured().confused(1) == [("b", "a", 2, 2 / 4)]


def test_worst_mistakes_by_hand():
    table = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.7, 0.3]])
    found = worst_mistakes(["p", "q", "r", "s"], table, torch.tensor([1, 1, 1, 1]), ["x", "y"], 2)
    assert [(m.image, m.label, m.answer) for m in found] == [("p", "y", "x"), ("s", "y", "x")]
    assert [m.confidence for m in found] == pytest.approx([0.9, 0.7])
    assert [m.probability for m in found] == pytest.approx([0.1, 0.3])


def test_images_are_measured_as_evaluate_does(fitted, photos):
    clf = fitted("MoCoOp")
    found, expected = from_images(clf, photos), clf.evaluate(photos)
    assert found.figures == expected.figures() and found.confusion == expected.confusion
    assert found.reliability == expected.reliability and found.routing == clf.routing(photos)
    assert len(found.mistakes) == round((1 - expected.accuracy) * 12) and found.seen and not found.skipped
    assert from_held_out(clf) is None  # folds=0


def test_unreadable_images_are_counted_and_none_is_an_error(fitted, photos, tmp_path):
    for name in fitted("CoOp").classes_:
        (tmp_path / name).mkdir()
        (tmp_path / name / "bad.png").write_bytes(b"no image")
    with pytest.raises(WrongValue, match="none of its 3 images can be read"):
        from_images(fitted("CoOp"), tmp_path)
    good = next((photos / "test" / "red_ball").iterdir())
    (tmp_path / "red_ball" / "good.png").write_bytes(good.read_bytes())
    found = from_images(fitted("CoOp"), tmp_path)
    assert found.skipped == 3 and found.figures["images"] == 1 and found.routing is None


def test_held_out_figures_are_those_of_training(demo, photos, tmp_path):
    from mocoop import Classifier, load
    from mocoop.tests.classifier.conftest import QUICK

    clf = Classifier("CoOp", **{**QUICK, "backbone": demo, "folds": 2}).fit(photos)
    clf.save(tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors", backbone=demo)
    found = from_held_out(again)
    assert sum(map(sum, found.confusion)) == found.figures["images"] == 18 and not found.seen
    right = sum(found.confusion[c][c] for c in range(3))
    assert found.figures["accuracy"] == pytest.approx(right / 18)
    assert sum(row["share"] * row["accuracy"] for row in found.reliability) == pytest.approx(right / 18)
    assert again.versions_["mocoop"] and clf.versions_ == {}
