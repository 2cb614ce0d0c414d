"""A chart as data: what is plotted, independent of how it is drawn."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Tone = Literal["head", "probe", "aggregates", "base", "positive", "negative", "guide"]
Shape = Literal["line", "area", "dots", "points", "bars", "whiskers"]
_MOST_POINTS = 160


@dataclass(frozen=True)
class Series:
    """One line, area, set of points or of bars.

    Args:
        name: in the legend; empty: not listed there.
        tone: its role, which the theme gives a colour.
        shape: how it is drawn; `dots` are joined to nothing and large, `points` small, `bars` lie from 0
            to x, `whiskers` stand from y to `until`.
        x: positions in the chart's range.
        y: as long as x.
        until: upper ends of whiskers, as long as x; empty for other shapes.
        words: written at the ends of bars, as long as x; empty: none.
    """

    name: str
    tone: Tone
    shape: Shape
    x: list[float]
    y: list[float]
    until: list[float] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Axis:
    """One axis.

    Args:
        label: what it measures; empty: no axis is drawn, unless it has ticks of its own.
        low: left or lower end.
        high: right or upper end.
        percent: ticks are shares.
        ticks: places and words, where they are not evenly spaced numbers.
    """

    label: str
    low: float
    high: float
    percent: bool = False
    ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart, independent of how it is drawn.

    Args:
        name: file name of its PNG.
        title: above it.
        note: one line below the title that says what to look for.
        x: horizontal axis.
        y: vertical axis.
        series: drawn in this order.
        rules: x positions of vertical rules, with what they mean.
    """

    name: str
    title: str
    note: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[tuple[float, str], ...] = field(default=())


def rounded(values: NDArray[np.float64], digits: int = 5) -> list[float]:
    """Values for drawing: as many digits as a screen can show."""
    return [round(float(value), digits) for value in values]


def thinned(*columns: NDArray[np.float64]) -> list[list[float]]:
    """The columns at up to 160 places spread over the length of the curve, both ends kept."""
    size = len(columns[0])
    if size > _MOST_POINTS:
        steps = sum(np.abs(np.diff(column)) / max(float(np.ptp(column)), 1e-12) for column in columns)
        travelled = np.concatenate(([0.0], np.cumsum(np.asarray(steps, dtype=np.float64))))
        wanted = np.linspace(0, travelled[-1], _MOST_POINTS)
        places = np.unique(np.append(np.searchsorted(travelled, wanted).clip(0, size - 1), (0, size - 1)))
        columns = tuple(column[places] for column in columns)
    return [rounded(column) for column in columns]
