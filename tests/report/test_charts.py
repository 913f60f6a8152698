import pytest
from mocoop.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST,
    RIGHT,
    TOP,
    WIDTH,
    line_chart,
    reliability_chart,
    thinned,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (1, 12, [2.5, 5, 7.5, 10]),
        (-3, 3, [-2, 0, 2]),
        (0, 3.6, [0, 1, 2, 3]),
        (0.0012, 0.0031, [0.0015, 0.002, 0.0025, 0.003]),
    ],
)
def test_ticks(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_line_runs_from_corner_to_corner():
    chart = line_chart("Loss", "epoch", {"loss": [(1, 0.0), (3, 4.0)], "nothing": []})
    (line,) = chart.lines
    assert line.path == f"M{LEFT}.0 {HEIGHT - BOTTOM}.0L{WIDTH - RIGHT}.0 {TOP}.0" and line.last == 4.0
    assert [tick.text for tick in chart.x_ticks] == ["1", "2", "3"]  # no half epochs
    assert chart.y_ticks[0].place == HEIGHT - BOTTOM and chart.y_ticks[-1].text == "4"


def test_lines_that_are_not_there():
    assert line_chart("Loss", "epoch", {}) is None
    assert line_chart("Loss", "epoch", {"loss": [(1, float("nan"))]}) is None
    (line,) = line_chart("Loss", "epoch", {"loss": [(1, 2.0)]}).lines  # one epoch: a point
    assert line.path.count("L") == 1


def test_many_epochs_are_thinned():
    points = [(float(i), float(i)) for i in range(1000)]
    found = thinned(points)
    assert len(found) == MOST and found[0] == points[0] and found[-1] == points[-1] and found == sorted(set(found))
    assert thinned(points[:5]) == points[:5]


def test_reliability_by_hand():
    row = {"low": 0.5, "high": 1.0, "share": 0.25, "confidence": 0.75, "accuracy": 0.5}
    chart = reliability_chart([row])
    (bar,) = chart.bars
    height, width = HEIGHT - BOTTOM - TOP, WIDTH - RIGHT - LEFT
    assert (bar.x, bar.width) == (LEFT + width / 2 + 1, width / 2 - 2)
    assert (bar.y, bar.height, bar.confidence) == (TOP + height / 2, height / 2, TOP + height / 4)
    assert "25.0% of the images" in bar.text and "right 50.0%" in bar.text
