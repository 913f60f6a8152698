import csv
import json

import pytest
import torch
from mocoop.classifier.experts import ExpertRecord, Routing
from mocoop.report.measured import Measured, from_evaluation, from_held_out, from_images, worst_mistakes
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


# ---- what `mocoop evaluate` has left


@pytest.fixture()
def evaluated(fitted, photos, tmp_path):
    """A run's folder with evaluation.json and predictions.csv."""
    clf = fitted("CoOp")
    batches = list(clf.stream(sorted(map(str, (photos / "test").rglob("*.png")))))
    with open(tmp_path / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "answer", "probability", "unsure"])
        for batch in batches:
            for name, row in zip(batch.names, batch.probabilities, strict=True):
                writer.writerow(
                    [name, name.split("/")[-2], clf.classes_[int(row.argmax())], f"{float(row.max()):.6f}", ""]
                )
    record = {**clf.evaluate(photos).to_dict(), "folder": str(photos), "method": "CoOp", "temperature": 1.0}
    (tmp_path / "evaluation.json").write_text(json.dumps(record))
    return tmp_path


def test_an_evaluation_gives_the_same_as_its_images(fitted, photos, evaluated):
    found, expected = from_evaluation(fitted("CoOp"), evaluated), from_images(fitted("CoOp"), photos)
    assert (
        found.figures == expected.figures and found.confusion == expected.confusion and found.rows() == expected.rows()
    )
    assert found.reliability == expected.reliability and found.source == expected.source
    pairs = zip(found.mistakes, expected.mistakes, strict=True)
    assert all((a.label, a.answer) == (b.label, b.answer) for a, b in pairs) and found.mistakes[0].probability is None
    (evaluated / "predictions.csv").unlink()
    assert from_evaluation(fitted("CoOp"), evaluated).mistakes == []
    (evaluated / "evaluation.json").unlink()
    assert from_evaluation(fitted("CoOp"), evaluated) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "MoCoOp"}, "method is 'MoCoOp' there, 'CoOp' here"),
        ({"temperature": 2.0}, "temperature is 2.0 there"),
        ({"classes": ["a", "b", "c"]}, "other classes"),
        ({"accuracy": "high"}, "accuracy is no number"),
        ({"confusion": [[1, 2], [3, 4]]}, "3 x 3 whole numbers"),
        ({"confusion": [[1, 2, 0.5]] * 3}, "3 x 3 whole numbers"),
        ({"reliability": [{"low": 0}]}, "no list of low, high"),
        ({"confusion": [[0] * 3] * 3}, "expected as many images in confusion as in images"),
        ({"accuracy": 2}, "expected an object of finite numbers"),
        ({"nll": 10**400}, "expected an object of finite numbers"),
        (None, "expected an object"),
    ],
)
def test_an_evaluation_that_cannot_be_used_is_named(fitted, evaluated, change, said):
    path = evaluated / "evaluation.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps([] if change is None else {**record, **change}))
    with pytest.raises(WrongValue, match=f"evaluation.json cannot be used: .*{said}"):
        from_evaluation(fitted("CoOp"), evaluated)


def test_damaged_predictions_are_named(fitted, evaluated):
    (evaluated / "predictions.csv").write_text("image,label,answer,probability\na.png,horse,red_ball,0.5\n")
    with pytest.raises(WrongValue, match=r"predictions.csv is damaged \(KeyError\('horse'\)"):
        from_evaluation(fitted("CoOp"), evaluated)
