"""The geometry of the report's diagrams, in the units of an SVG's view box; how they look is the page's business."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 22, 12, 40
MOST = 200  # points of a line
STEPS = (1, 2, 2.5, 5, 10)  # of ticks, times a power of ten


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place and its text."""

    place: float
    text: str


@dataclass(frozen=True)
class Line:
    """A named line: an SVG path, and its last value."""

    name: str
    path: str
    last: float


@dataclass(frozen=True)
class LineChart:
    """A diagram of lines.

    Attributes:
        title, x_label: texts; x_ticks, y_ticks: marks; lines: in the order given.
    """

    title: str
    x_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]


@dataclass(frozen=True)
class Bar:
    """A bin of a reliability diagram: its bar, the mean confidence as a place, and its numbers in words."""

    x: float
    y: float
    width: float
    height: float
    confidence: float
    text: str


@dataclass(frozen=True)
class ReliabilityChart:
    """A reliability diagram: bars, marks, and the diagonal of perfect calibration as an SVG path."""

    bars: list[Bar]
    ticks: list[Tick]
    x_ticks: list[Tick]
    diagonal: str


class Scale:
    """From values between low and high to places between first and last."""

    def __init__(self, low: float, high: float, first: float, last: float):
        self.low, self.first = low, first
        self.factor = (last - first) / (high - low)

    def __call__(self, value: float) -> float:
        """The place of a value, to a tenth."""
        return round(self.first + (value - self.low) * self.factor, 1)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers within low and high.

    Args:
        low, high: low < high.
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in STEPS if s * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def thinned(points: Sequence[Point], most: int = MOST) -> list[Point]:
    """At most `most` of the points, evenly, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def line_chart(title: str, x_label: str, series: Mapping[str, Sequence[Point]], y_top: float = 0.0) -> LineChart | None:
    """A diagram of lines over a common x; None if there is no line.

    Args:
        series: name -> points (x, y), x rising; those that are not finite are left out.
        y_top: that the y axis reaches at least; it starts at 0, or at the smallest value below.
    """
    kept = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return None
    xs, ys = ([p[i] for points in kept.values() for p in points] for i in (0, 1))
    x_low, x_high = widened(min(xs), max(xs))
    y_low, y_high = widened(min(0.0, *ys), max(y_top, *ys))
    x, y = Scale(x_low, x_high, LEFT, WIDTH - RIGHT), Scale(y_low, y_high, HEIGHT - BOTTOM, TOP)
    lines = []
    for name, points in kept.items():
        places = [f"{x(a)} {y(b)}" for a, b in thinned(points)]
        lines.append(Line(name, "M" + "L".join(places if len(places) > 1 else places * 2), points[-1][1]))
    whole = [value for value in ticks(x_low, x_high) if value == int(value)]
    return LineChart(
        title=title,
        x_label=x_label,
        x_ticks=[Tick(x(value), f"{int(value)}") for value in whole],
        y_ticks=[Tick(y(value), f"{value:g}") for value in ticks(y_low, y_high)],
        lines=lines,
    )


def widened(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty."""
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def reliability_chart(rows: Sequence[Mapping[str, float]]) -> ReliabilityChart:
    """The diagram of `calibration.reliability`: accuracy over confidence, both from 0 to 1."""
    x, y = Scale(0, 1, LEFT, WIDTH - RIGHT), Scale(0, 1, HEIGHT - BOTTOM, TOP)
    bars = [
        Bar(
            x=x(row["low"]) + 1,
            y=y(row["accuracy"]),
            width=round(x(row["high"]) - x(row["low"]) - 2, 1),
            height=round(y(0) - y(row["accuracy"]), 1),
            confidence=y(row["confidence"]),
            text=(
                f"confidence {row['low']:.2f} to {row['high']:.2f}: {100 * row['share']:.1f}% of the images, "
                f"mean confidence {100 * row['confidence']:.1f}%, right {100 * row['accuracy']:.1f}%"
            ),
        )
        for row in rows
    ]
    marks = (0, 0.25, 0.5, 0.75, 1)
    return ReliabilityChart(
        bars=bars,
        ticks=[Tick(y(value), f"{100 * value:g}%") for value in marks],
        x_ticks=[Tick(x(value), f"{100 * value:g}%") for value in marks],
        diagonal=f"M{x(0)} {y(0)}L{x(1)} {y(1)}",
    )
