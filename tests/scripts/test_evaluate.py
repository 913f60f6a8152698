"""The property table of the miniature world: by hand, on made-up measurements."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import mocoop
import pytest
import torch
from mocoop.datasets import miniature as mini


@pytest.fixture(scope="module")
def evaluate():
    """The script as a module (scripts/ is no package)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(mocoop.__file__).parent / "scripts" / "demo"))
        yield importlib.import_module("evaluate")


@pytest.fixture()
def measured(evaluate):
    """Ten sets of which every property of zero-shot CLIP holds."""
    looks = {"outline": (60.0, 56.0), "solid": (50.0, 50.0)}
    zero = {"own": 55.0, "photo": 49.0, "ensemble": 56.0, "looks": looks, "base": 60.0, "new": 65.0}
    one = evaluate.Measured(30, 80.0, 60.0, **zero, untrained={"a template": (60.0, 65.0)}, copies=0, drawings=9)
    return dict.fromkeys(evaluate.SETS, one)


def holds(evaluate, measured, gained=None):
    """Property -> yes, no, in part or ""."""
    rows = evaluate.properties(measured, gained or dict.fromkeys(measured, [None] * 4))
    return {row[0]: row[3] for row in rows}


def test_all_that_zero_shot_tells(evaluate, measured):
    assert holds(evaluate, measured) == {
        "P1": "yes",
        "P2": "yes",
        "P3": "yes",
        "P4": "yes",
        "P5": "",
        "P6": "",
        "P7": "yes",
    }


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"classes": 61}, {"P1"}),
        ({"shared": 50.0}, {"P2"}),
        ({"photo": 50.5}, {"P3"}),
        ({"ensemble": 55.0}, {"P3"}),
        ({"own": 66.0, "ensemble": 67.0}, {"P4"}),
        ({"looks": {"outline": (60.0, 57.0), "solid": (50.0, 49.5)}}, {"P7"}),
    ],
)
def test_a_property_that_does_not_hold(evaluate, measured, changes, broken):
    changed = {name: replace(m, **changes) for name, m in measured.items()}
    assert {key for key, value in holds(evaluate, changed).items() if value == "no"} == broken


@pytest.mark.parametrize(("changes", "what"), [({"copies": 1}, "P1"), ({"strictly": 50.0}, "P2")])
def test_a_property_that_holds_in_part(evaluate, measured, changes, what):
    changed = {name: replace(m, **changes) for name, m in measured.items()}
    assert {key for key, value in holds(evaluate, changed).items() if value == "in part"} == {what}


def test_what_prompts_give_alone_is_averaged_over_the_benchmarks_sets(evaluate, measured):
    held_out = replace(measured["MiniSky"], untrained={"a template": (0.0, 0.0)})
    changed = measured | {"MiniSky": held_out, "MiniLogos": held_out}
    changed["MiniMath"] = replace(held_out, untrained={"a template": (20.0, 105.0)})
    assert evaluate.without_training(changed) == [
        ["a template", "55.00", "70.00", f"{2 * 55 * 70 / 125:.2f}", "60.00", "65.00", f"{2 * 60 * 65 / 125:.2f}"]
    ]


def test_means_of_features_are_normalised(evaluate):
    one, two = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    half = 2**-0.5
    assert torch.allclose(evaluate.averaged([one, two]), torch.tensor([[[half, half]]]))
    assert torch.allclose(evaluate.averaged([[one], [two, one]]), torch.tensor([[[2.0, 1.0]]]) / 5**0.5)


def test_drawings_that_look_the_same_are_counted(evaluate):
    """Counted by another program: logos of one trademark by several designers; signs of the zodiac by one hand."""
    assert evaluate.near_copies("logo") == (57, 117) and evaluate.near_copies("sky") == (6, 85)


def test_one_set_out_of_range_breaks_p4(evaluate, measured):
    own = 10.0
    changed = measured | {"MiniFlags": replace(measured["MiniFlags"], own=own, photo=0.0, ensemble=own + 1)}
    assert holds(evaluate, changed)["P4"] == "no"


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([8.0, -3.0, 5.0, -0.1], ("yes", "yes")),
        ([7.9, -3.0, 5.0, 0.0], ("no", "no")),
        ([9.0, -3.1, 4.9, -1.0], ("no", "no")),
    ],
)
def test_what_coop_gains(evaluate, measured, gains, expected):
    found = holds(evaluate, measured, dict.fromkeys(measured, gains))
    assert (found["P5"], found["P6"]) == expected


def test_sets_without_runs_leave_it_open(evaluate, measured):
    gained = dict.fromkeys(measured, [None] * 4) | {
        "MiniSky": [9.0, 1.0, 6.0, -2.0],
        "MiniMath": [11.0, 0.0, None, 1.0],
    }
    rows = {row[0]: row[2:] for row in evaluate.properties(measured, gained)}
    assert rows["P5"] == ["+10.0, +0.5 on 2 of 10 sets", ""] and rows["P6"] == ["+6.0, -2.0 on 1 of 10 sets", ""]


def test_gains_are_means_of_seeds_minus_zero_shot(evaluate, measured, tmp_path):
    runs = {"fewshot/mini_sky/shots_16": (60.0, 64.0), "base2new/test_new/mini_sky/shots_16": (58.0,)}
    for place, accuracies in runs.items():
        for seed, accuracy in enumerate(accuracies, 1):
            folder = tmp_path / place / "CoOp" / "miniature" / f"seed{seed}"
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps({"test": {"accuracy": accuracy}}))
    gained = evaluate.gains(measured, tmp_path)
    assert gained["MiniSky"] == [7.0, None, None, -7.0] and gained["MiniMath"] == [None] * 4


def test_names_that_mean_something_else_in_an_unrelated_domain(evaluate):
    names = mini.CLASSES["sky"]
    domains = {name: {"sky"} for name in names} | {names[0]: {"sky", "emoji"}, names[1]: {"sky", "thing", "logo"}}
    assert evaluate.shared_names("sky", domains) == pytest.approx(200 / len(names))
    assert evaluate.shared_names("sky", domains, {"emoji", "logo"}) == pytest.approx(100 / len(names))
    things = mini.CLASSES["thing"]
    domains = {name: {"thing", "emoji"} for name in things} | {things[0]: {"thing", "music"}}
    assert evaluate.shared_names("thing", domains) == pytest.approx(100 / len(things))
