import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mocoop.classifier.calibration import (
    evaluate,
    expected_calibration_error,
    fit_temperature,
    fit_threshold,
    reliability,
)


def test_the_temperature_makes_probabilities_frequencies():
    # Two classes, logits (d, 0); right in 3 of 4 images: the log-loss is least where softmax is 3/4, d / T = log 3.
    logits = torch.tensor([[5.0, 0.0]]).repeat(8, 1)
    labels = torch.tensor([0, 0, 0, 1] * 2)
    assert fit_temperature(logits, labels) == pytest.approx(5 / math.log(3), rel=1e-3)
    assert fit_temperature(logits / 50, labels) == pytest.approx(0.1 / math.log(3), abs=0.01)  # (at its bound of 0.1)


def test_a_perfect_score_does_not_make_it_surer():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == pytest.approx(1, abs=1e-3)
    assert fit_temperature(torch.empty(0, 3), torch.empty(0, dtype=torch.long)) == 1


def test_the_lowest_threshold_that_is_right_often_enough():
    p = torch.tensor([0.9, 0.8, 0.7, 0.6])
    probabilities = torch.stack([p, 1 - p], dim=1)
    labels = torch.tensor([0, 0, 1, 0])  # right, right, wrong, right: 1, 1, 2/3, 3/4 from the top
    assert fit_threshold(probabilities, labels, 0.7) == 0
    assert fit_threshold(probabilities, labels, 0.9) == pytest.approx(0.8)
    assert fit_threshold(probabilities, 1 - labels, 0.9) > 1
    assert fit_threshold(probabilities, labels, None) == 0
    equal = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])
    assert fit_threshold(equal, torch.tensor([0, 1, 1]), 0.9) > 1  # equal probabilities are answered alike


@given(st.lists(st.tuples(st.integers(50, 100), st.booleans()), min_size=1, max_size=40), st.floats(0.01, 1))
def test_what_is_answered_is_right_as_often_as_wanted(rows, wanted):
    p = torch.tensor([percent / 100 for percent, _ in rows])
    probabilities, labels = torch.stack([p, 1 - p], dim=1), torch.tensor([int(not right) for _, right in rows])
    threshold = fit_threshold(probabilities, labels, wanted)
    found = evaluate(probabilities, labels, ["a", "b"], threshold)
    assert found.precision is None or found.precision >= wanted - 1e-9


def test_ece_by_hand():
    p = torch.tensor([0.95, 0.95, 0.65, 0.65])
    probabilities, labels = torch.stack([p, 1 - p], dim=1), torch.tensor([0, 1, 0, 0])
    # bins of 0.1: (0.9, 1] accuracy 1/2, (0.6, 0.7] accuracy 1
    assert expected_calibration_error(probabilities, labels, 10) == pytest.approx(0.5 * 0.45 + 0.5 * 0.35)
    first, second = reliability(probabilities, labels, 10)
    assert (first["low"], first["share"], first["accuracy"]) == (0.6, 0.5, 1.0)
    assert (second["high"], second["confidence"], second["accuracy"]) == (1.0, pytest.approx(0.95), 0.5)


def test_an_evaluation_by_hand():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1]])
    found = evaluate(probabilities, torch.tensor([0, 1, 1]), ["a", "b", "c"], threshold=0.55)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.nll == pytest.approx(-(math.log(0.7) + math.log(0.6) + math.log(0.4)) / 3, abs=1e-6)
    assert found.brier == pytest.approx((0.14 + 0.26 + 0.62) / 3, abs=1e-6)
    assert found.confusion == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert found.per_class == [1.0, 0.5, None] and found.support == [1, 2, 0]
    assert (found.answered, found.precision) == (pytest.approx(2 / 3), 1.0)
    assert "accuracy   0.6667" in str(found)
    assert evaluate(probabilities, torch.tensor([0, 1, 1]), ["a", "b", "c"], 0.9).precision is None


def test_a_probability_of_zero_is_a_finite_loss():
    found = evaluate(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), ["a", "b"])
    assert math.isfinite(found.nll) and found.nll > 80
