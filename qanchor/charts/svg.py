"""A chart as inline SVG: no colour of its own, the page's theme gives them by class."""

from html import escape

import numpy as np

from qanchor.charts.chart import Axis, Chart, Series

_WIDTH, _HEIGHT = 360, 268
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 18, 12, 42


def draw(chart: Chart) -> str:
    """The chart as one <svg> element, 360 by 268 units, its colours left to CSS classes `t-TONE`."""
    bare = not chart.x.label
    left, bottom = (18, 8) if bare else (_left(chart), _BOTTOM)
    frame = _Frame(chart.x, chart.y, left, _WIDTH - _RIGHT, _TOP, _HEIGHT - bottom)
    parts = [f'<rect class="plane" x="{left}" y="{_TOP}" width="{frame.width}" height="{frame.height}"/>']
    if not bare:
        parts += frame.grid()
    # Areas rise from the floor, lines end at the ceiling: the words stand where the chart is empty.
    level = frame.top + 12 if any(series.shape == "area" for series in chart.series) else frame.bottom - 8
    parts += [_rule(frame, at, words, level) for at, words in chart.rules]
    parts += [_shape(frame, series) for series in chart.series]
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(chart.title)}: {escape(chart.note)}">{"".join(parts)}</svg>'
    )


def _left(chart: Chart) -> int:
    """Room for the words beside the vertical axis; 6 units a letter."""
    longest = max((len(words) for _, words in chart.y.ticks), default=0)
    return max(_LEFT, min(16 + 6 * longest, _WIDTH // 3))


class _Frame:
    """Places values of the two axes on the plane."""

    def __init__(self, x: Axis, y: Axis, left: int, right: int, top: int, bottom: int) -> None:
        self._x, self._y = x, y
        self.left, self.right, self.top, self.bottom = left, right, top, bottom

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    def x(self, value: float) -> float:
        share = (value - self._x.low) / max(self._x.high - self._x.low, 1e-12)
        return round(self.left + share * self.width, 1)

    def y(self, value: float) -> float:
        share = (value - self._y.low) / max(self._y.high - self._y.low, 1e-12)
        return round(self.bottom - share * self.height, 1)

    def grid(self) -> list[str]:
        """Grid lines, ticks and axis names."""
        parts = [
            f'<text class="tick" x="{self.x(value)}" y="{self.bottom + 15}" text-anchor="middle">'
            f"{escape(words)}</text>"
            for value, words in ticks(self._x)
        ]
        for value, words in ticks(self._y):
            y = self.y(value)
            if not self._y.ticks:  # names have no lines of their own
                parts.append(f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{y}" y2="{y}"/>')
            parts.append(
                f'<text class="tick" x="{self.left - 7}" y="{y + 3.5}" text-anchor="end">'
                f"{escape(words)}</text>"
            )
        middle = (self.left + self.right) / 2
        parts.append(
            f'<text class="name" x="{middle}" y="{self.bottom + 35}" text-anchor="middle">'
            f"{escape(self._x.label)}</text>"
        )
        parts.append(
            f'<text class="name" transform="translate(10 {(self.top + self.bottom) / 2}) rotate(-90)" '
            f'text-anchor="middle">{escape(self._y.label)}</text>'
        )
        return parts


def ticks(axis: Axis, wanted: int = 5) -> list[tuple[float, str]]:
    """Places inside an axis with their words: its own, or about as many round values as wanted."""
    if axis.ticks:
        return list(axis.ticks)
    rough = (axis.high - axis.low) / wanted
    scale = 10 ** np.floor(np.log10(max(rough, 1e-12)))
    step = next((float(scale * s) for s in (1, 2, 2.5, 5) if scale * s >= rough * 0.999), float(10 * scale))
    first = int(np.ceil(axis.low / step - 1e-9))
    last = int(np.floor(axis.high / step + 1e-9))
    values = [round(place * step, 10) for place in range(first, last + 1)]
    return [(value, f"{100 * value:.4g}%" if axis.percent else f"{value:.4g}") for value in values]


def _rule(frame: _Frame, at: float, words: str, level: int) -> str:
    x = frame.x(at)
    right = x < (frame.left + frame.right) / 2
    anchor, shift = ("start", 5) if right else ("end", -5)
    return (
        f'<line class="vrule" x1="{x}" x2="{x}" y1="{frame.top}" y2="{frame.bottom}"/>'
        f'<text class="callout" x="{x + shift}" y="{level}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


def _shape(frame: _Frame, series: Series) -> str:
    places = [(frame.x(x), frame.y(y)) for x, y in zip(series.x, series.y, strict=True)]
    tone = f"t-{series.tone}"
    if series.shape in ("dots", "points"):
        radius = 3.2 if series.shape == "dots" else 1.7
        marks = "".join(f'<circle cx="{x}" cy="{y}" r="{radius}"/>' for x, y in places)
        return f'<g class="{series.shape} {tone}">{marks}</g>'
    if series.shape == "bars":
        return f'<g class="bars {tone}">{_bars(frame, series, places)}</g>'
    if series.shape == "whiskers":
        ends = [frame.y(value) for value in series.until]
        lines = [f"M{x} {y}V{end}" for (x, y), end in zip(places, ends, strict=True)]
        return f'<path class="whiskers {tone}" d="{"".join(lines)}"/>'
    path = "M" + "L".join(f"{x} {y}" for x, y in places)
    if series.shape == "area":
        closed = f"{path}L{places[-1][0]} {frame.bottom}L{places[0][0]} {frame.bottom}Z"
        return f'<path class="fill {tone}" d="{closed}"/><path class="line {tone}" d="{path}"/>'
    return f'<path class="line {tone}" d="{path}"/>'


def _bars(frame: _Frame, series: Series, places: list[tuple[float, float]]) -> str:
    """Bars from 0, each with its words behind its end."""
    # A row is one unit high, and up to two bars share it.
    zero, half = frame.x(0), round(min(max(0.165 * (frame.y(0) - frame.y(1)), 3.5), 10), 1)
    parts = []
    for number, (x, y) in enumerate(places):
        left, width = min(zero, x), max(abs(x - zero), 1)
        parts.append(
            f'<rect x="{left}" y="{y - half:.1f}" width="{width:.1f}" height="{2 * half:.1f}" rx="2"/>'
        )
        if series.words:
            end = max(zero, x) + 5
            parts.append(f'<text class="end" x="{end}" y="{y + 4}">{escape(series.words[number])}</text>')
    return "".join(parts)
