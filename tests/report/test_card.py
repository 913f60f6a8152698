import pytest
from mocoop.report.card import facts, licence, limits
from mocoop.report.content import wilson
from mocoop.report.measured import Measured


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-B/16", "MIT (OpenAI"),
        ("ViT-B-16/laion2b_s34b_b88k", "MIT (LAION"),
        ("demo", "clip/demo/MODEL_CARD.md"),
        ("miniature", "clip/miniature/MODEL_CARD.md"),
        ("ViT-B-16/metaclip_400m", "not known here"),
        ("own.pt@ViT-B/16", "not known here"),
    ],
)
def test_licences_say_what_is_known(name, expected):
    assert expected in licence(name)


def test_facts_are_those_of_the_classifier(fitted):
    clf = fitted("MoCoOp")
    said = dict(facts(clf, {"mocoop": "0.0.9", "versions": {"torch": "2.4"}}, 2))
    assert said["Trained on"] == "18 images" and said["Classes"] == "3" and said["Training"].startswith("2 epochs")
    assert said["Trained parameters"] == f"{sum(p.numel() for p in clf.model.parameters()):,}"
    assert "mocoop 0.0.9, torch 2.4; report by" in said["Versions"] and said["Calibration"].startswith("none")
    zero = dict(facts(fitted("ZeroshotCLIP"), {}, 0))
    assert zero["Trained on"].startswith("class names only") and "Training" not in zero


def test_limits_follow_from_what_was_measured(fitted):
    clf = fitted("CoOp")
    assert "Nothing about its accuracy" in limits(clf, None)[-1]
    few = Measured("x", [0, 1], {}, [[29, 0], [0, 40]], None, seen=True)
    many = Measured("x", [0, 1], {}, [[30, 0], [0, 40]], None)
    assert any("smallest has 29 images" in said for said in limits(clf, few))
    assert not any("smallest" in said for said in limits(clf, many))
    assert any("not trained on these" in said for said in limits(clf, few))
    none = Measured("x", [0, 1, 2], {}, [[5, 0, 0], [0, 0, 0], [0, 0, 7]], None)
    assert any("1 of the 3 classes had no image" in said for said in limits(clf, none))
    assert any("smallest has 5 images" in said for said in limits(clf, none))
    assert not any("had no image" in said for said in limits(clf, few))


def test_wilsons_interval_by_hand():
    n, p, z = 240, 176 / 240, 1.959964
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    assert wilson(p, n) == pytest.approx((middle - half, middle + half), abs=1e-5)
