"""Metrics by hand, and the lines that parsers of log.txt rely on."""

import re

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.errors import ExpectedError
from dassl.evaluation import build_evaluator
from dassl.metrics import compute_accuracy
from dassl.utils import AverageMeter, MetricMeter


def evaluate(true, predicted, **settings):
    cfg = get_cfg_default()
    for name, value in settings.items():
        (cfg if name == "OUTPUT_DIR" else cfg.TEST)[name] = value
    evaluator = build_evaluator(cfg, lab2cname={0: "cat", 1: "dog", 2: "owl", 3: "emu"})
    evaluator.reset()
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), 4).float()
    evaluator.process(logits[:2], torch.tensor(true[:2]))
    evaluator.process(logits[2:], torch.tensor(true[2:]))
    return evaluator.evaluate()


def test_values_by_hand(capsys, tmp_path):
    # cat: 2 of 3 right, one called dog. dog: 1 of 2 right, one called emu. No owl, and emu occurs as a prediction only.
    results = evaluate(
        [0, 0, 0, 1, 1], [0, 0, 1, 1, 3], PER_CLASS_RESULT=True, COMPUTE_CMAT=True, OUTPUT_DIR=str(tmp_path)
    )
    assert list(results) == ["accuracy", "error_rate", "macro_f1", "perclass_accuracy"]
    cat, dog = 2 * 2 / (3 + 2), 2 * 1 / (2 + 2)
    expected = [60.0, 40.0, 100 * (cat + dog) / 2, (100 * 2 / 3 + 50) / 2]
    assert list(results.values()) == pytest.approx(expected) and all(type(v) is float for v in results.values())
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "=> result",
        "* total: 5",
        "* correct: 3",
        "* accuracy: 60.0%",
        "* error: 40.0%",
        "* macro_f1: 65.0%",
        "=> per-class result",
        "* class: 0 (cat)\ttotal: 3\tcorrect: 2\tacc: 66.7%",
        "* class: 1 (dog)\ttotal: 2\tcorrect: 1\tacc: 50.0%",
        "* average: 58.3%",
        f"Confusion matrix is saved to {tmp_path / 'cmat.pt'}",
    ]
    assert re.search(r"\* accuracy: ([\.\deE+-]+)%", lines[4])[1] == "60.0"
    matrix = torch.load(tmp_path / "cmat.pt", weights_only=True)
    third = 1 / 3
    assert torch.allclose(matrix[:2], torch.tensor([[2 * third, third, 0, 0], [0, 0.5, 0, 0.5]], dtype=torch.float64))
    assert matrix[2:].abs().sum() == 0


def test_thousands_and_reset(capsys):
    results = evaluate([1] * 1500, [1] * 1500)
    assert results["accuracy"] == 100.0 and results["macro_f1"] == 100.0
    assert "* total: 1,500\n* correct: 1,500\n" in capsys.readouterr().out
    evaluator = build_evaluator(get_cfg_default())
    with pytest.raises(ValueError, match="no batch"):
        evaluator.evaluate()


def test_topk_accuracy():
    output = torch.tensor([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.5, 0.4, 0.1]])
    target = torch.tensor([1, 1, 0, 2])
    top1, top2, top3 = compute_accuracy((output, None), target, topk=(1, 2, 3))
    assert (top1.item(), top2.item(), top3.item()) == (25.0, 50.0, 100.0) and top1.shape == (1,)
    assert compute_accuracy(output, target)[0].item() == 25.0


def test_meters():
    meter = AverageMeter()
    meter.update(torch.tensor(2.0))
    meter.update(5.0, n=2)
    assert (meter.val, meter.sum, meter.count, meter.avg) == (5.0, 12.0, 3, 4.0)
    ema = AverageMeter(ema=True)
    ema.update(10.0)
    ema.update(20.0)
    assert ema.avg == pytest.approx(0.1 * 10 * 0.9 + 0.1 * 20)
    meters = MetricMeter()
    meters.update(None)
    meters.update({"loss": 1.0, "acc": torch.tensor(50.0)})
    meters.update({"loss": 2.0, "acc": 25.0})
    assert str(meters) == "loss 2.0000 (1.5000) acc 25.0000 (37.5000)"
    with pytest.raises(TypeError, match="float"):
        meters.update(1.0)


@pytest.mark.parametrize(
    ("row", "good"),
    [
        ([0.0, 1.0], True),
        ([-float("inf"), 1.0], True),  # a class that a mask excludes
        ([float("nan"), 1.0], False),
        ([1.0, float("inf")], False),
        ([-float("inf"), -float("inf")], False),
    ],
)
def test_an_accuracy_from_logits_that_are_no_numbers_is_an_error(row, good):
    evaluator = build_evaluator(get_cfg_default())
    evaluator.process(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    evaluator.process(torch.tensor([row, [1.0, 0.0]]), torch.tensor([1, 0]))
    if good:
        assert evaluator.evaluate()["accuracy"] == 100.0
        return
    with pytest.raises(FloatingPointError, match="logits of 1 of 5 images are infinite or NaN") as caught:
        evaluator.evaluate()
    assert isinstance(caught.value, ExpectedError)
