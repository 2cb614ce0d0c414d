"""Charts as data, independent of how they are drawn."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Tone = Literal["head", "probe", "aggregates", "base", "positive", "negative", "guide"]
Shape = Literal["line", "area", "dots", "points", "bars", "whiskers"]
_MOST_POINTS = 160


@dataclass(frozen=True)
class Series:
    """A line, an area, or a set of marks.

    Args:
        name: text in the legend; empty: not in the legend.
        tone: role that the theme gives a colour.
        shape: `dots` are large marks and `points` small ones, `bars` run from 0 to x, `whiskers` from y to
            `until`.
        x: horizontal values.
        y: vertical values, as long as x.
        until: upper ends of whiskers, as long as x; empty for other shapes.
        words: texts at the ends of bars, as long as x; empty: none.
    """

    name: str
    tone: Tone
    shape: Shape
    x: list[float]
    y: list[float]
    until: list[float] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


class Tick(NamedTuple):
    """A position on an axis with its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """One axis.

    Args:
        label: measured quantity; a horizontal axis without a label is not drawn.
        low: left or lower end.
        high: right or upper end.
        percent: whether the values are shares.
        ticks: positions with texts; empty: round numbers.
    """

    label: str
    low: float
    high: float
    percent: bool = False
    ticks: tuple[Tick, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart.

    Args:
        name: part of its PNG's file name.
        title: heading.
        note: one line that says how to read the chart.
        x: horizontal axis.
        y: vertical axis.
        series: lines and marks in the order of drawing.
        rules: positions of vertical rules on the horizontal axis, with their meaning.
    """

    name: str
    title: str
    note: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Tick, ...] = ()


def rounded(values: NDArray[np.float64], digits: int = 5) -> list[float]:
    """Values with as many digits as a screen can show."""
    return [round(float(value), digits) for value in values]


def thinned(*columns: NDArray[np.float64]) -> list[list[float]]:
    """The columns at up to 160 points spread evenly along the curve, both ends included."""
    size = len(columns[0])
    if size > _MOST_POINTS:
        steps = sum(np.abs(np.diff(column)) / max(float(np.ptp(column)), 1e-12) for column in columns)
        travelled = np.concatenate(([0.0], np.cumsum(np.asarray(steps, dtype=np.float64))))
        nearest = np.searchsorted(travelled, np.linspace(0, travelled[-1], _MOST_POINTS)).clip(0, size - 1)
        rows = np.unique(np.append(nearest, (0, size - 1)))
        columns = tuple(column[rows] for column in columns)
    return [rounded(column) for column in columns]
