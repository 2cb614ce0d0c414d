"""Charts drawn with matplotlib: as SVG for the page, whose colours follow its theme, and as PNG."""

import io
import os
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from html import escape
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

from qanchor.charts.chart import Axis, Chart, Series, Tick
from qanchor.charts.overview import OverviewRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In the SVG each colour becomes the page's variable of the same name.
COLOURS: Final = {
    "head": "#3d4fd1",
    "probe": "#0e9384",
    "aggregates": "#8a8f98",
    "positive": "#d9480f",
    "negative": "#8b9098",
    "guide": "#b4b8bf",
    "base": "#7cc4bb",
    "ceiling": "#1c2024",
    "soft": "#4b5158",
    "grid": "#eceef0",
}
_VARIABLES: Final = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_HEX: Final = re.compile("|".join(_VARIABLES))
_DECIMAL: Final = re.compile(r"-?\d+\.\d+")
_POINTS_PER_INCH: Final = 72
_PNG_DPI: Final = 160
_WIDTH, _HEIGHT = 360, 268  # points
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 18, 12, 42  # points around the plane
_TITLE_ROOM, _LEGEND_ROOM = 18, 22  # points above and below the drawing in a PNG
_TITLE_SIZE, _TITLE_WIDTH = 11, 540  # points; a longer title is smaller
_LETTER: Final = 6  # points of width
_LONGEST_NAME: Final = 17  # letters
_THICKEST_BAR: Final = 20  # points
# A point of a map is too small for a legend.
_LEGEND_POINTS: Final = 2.5
_DOTS, _POINTS = 6.4, 3.4  # diameters in points
# Distance of a mark from the middle of its row, so that equal marks do not hide each other.
_SHIFTS: Final = {"aggregates": 0.3, "base": 0.15, "probe": -0.15}
# A process takes as long to start as it takes to draw this many.
_WORTH_A_PROCESS: Final = 25

_STYLE: Final = {
    "font.size": 9.5,  # the page's own font is narrower
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.spines.bottom": False,
    "axes.labelcolor": COLOURS["soft"],
    "axes.labelsize": "medium",
    "axes.labelpad": 6,
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "xtick.bottom": False,
    "ytick.left": False,
    "xtick.major.pad": 5,
    "ytick.major.pad": 5,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": COLOURS["grid"],
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": "small",
    # A name with two dollar signs is no formula.
    "text.parse_math": False,
    # Text stays text, and the same chart has the same bytes.
    "svg.fonttype": "none",
    "svg.hashsalt": "qanchor",
}


def draw_charts(charts: Sequence[tuple[Chart, Path]]) -> list[str]:
    """Write charts as PNG files and return them as SVG elements, in their order; many of them on all cores.

    Args:
        charts: each with the path of its PNG.
    """
    cores = min(len(os.sched_getaffinity(0)), len(charts) // _WORTH_A_PROCESS)
    if cores < 2:
        return [draw_chart(chart, path) for chart, path in charts]
    # Drawing holds the interpreter's lock, and a fork of a process with a model's threads may hang.
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        return list(pool.map(draw_chart, *zip(*charts, strict=True), chunksize=5))


def draw_chart(chart: Chart, path: Path | None = None) -> str:
    """The chart as one <svg> element of 360 by 268 units.

    Args:
        chart: the description.
        path: PNG of the same chart, with its title and a legend; default: none is written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure((_WIDTH / _POINTS_PER_INCH, _HEIGHT / _POINTS_PER_INCH))
        figure.patch.set_visible(False)
        _plot(figure, chart)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg")
        if path is not None:
            _save_png(figure, chart, path)
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(chart.title)}: {escape(chart.note)}">{_inline(buffer.getvalue())}</svg>'
    )


def _save_png(figure: "Figure", chart: Chart, path: Path) -> None:
    """The drawing with a strip for its title above and one for its legend below."""
    height = _HEIGHT + _TITLE_ROOM + _LEGEND_ROOM
    figure.patch.set_visible(True)
    figure.set_size_inches(_WIDTH / _POINTS_PER_INCH, height / _POINTS_PER_INCH)
    left, bottom, width, rise = figure.gca().get_position().bounds
    figure.gca().set_position(
        (left, (bottom * _HEIGHT + _LEGEND_ROOM) / height, width, rise * _HEIGHT / height)
    )
    size = min(_TITLE_SIZE, _TITLE_WIDTH / max(len(chart.title), 1))
    figure.text(0.04, 1 - 8 / height, chart.title, va="top", fontweight="bold", fontsize=size)
    named = sum(bool(series.name) for series in chart.series)
    if named:
        small = any(series.shape == "points" for series in chart.series)
        figure.legend(loc="lower center", ncols=named, markerscale=_LEGEND_POINTS if small else 1)
    # Packed harder, a chart is a fiftieth smaller and takes a tenth longer.
    figure.savefig(path, dpi=_PNG_DPI, pil_kwargs={"compress_level": 1})


def ticks(axis: Axis) -> list[Tick]:
    """The axis's own ticks, or about five round numbers inside it."""
    from matplotlib.ticker import MaxNLocator

    if axis.ticks:
        return list(axis.ticks)
    room = 1e-9 * (axis.high - axis.low)
    values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(axis.low, axis.high)
    inside = [float(value) for value in values if axis.low - room <= value <= axis.high + room]
    return [Tick(value, f"{100 * value:.4g}%" if axis.percent else f"{value:.4g}") for value in inside]


def _plot(figure: "Figure", chart: Chart) -> None:
    bare = not chart.x.label
    # Names at the axis need more room than numbers do.
    longest = min(max((len(tick.text) for tick in chart.y.ticks), default=0), _LONGEST_NAME)
    left = 18 if bare else max(_LEFT, 16 + _LETTER * longest)
    bottom = 8 if bare else _BOTTOM
    width, height = _WIDTH - left - _RIGHT, _HEIGHT - _TOP - bottom
    axes = figure.add_axes((left / _WIDTH, bottom / _HEIGHT, width / _WIDTH, height / _HEIGHT))
    axes.patch.set_visible(False)
    axes.set_xlim(chart.x.low, chart.x.high)
    axes.set_ylim(chart.y.low, chart.y.high)
    for series in chart.series:
        _plot_series(figure, series, height / (chart.y.high - chart.y.low))
    # Areas rise from the floor, lines end at the ceiling: a rule's text is where the chart is empty.
    high = any(series.shape == "area" for series in chart.series)
    for rule in chart.rules:
        _plot_rule(figure, rule, high)
    for axis, described in ((axes.xaxis, chart.x), (axes.yaxis, chart.y)):
        shown = [] if bare else ticks(described)
        axis.set_ticks([tick.at for tick in shown], [_shortened(tick.text) for tick in shown])
    if chart.y.ticks:  # names have no lines of their own
        axes.grid(visible=False)
    axes.set_xlabel(chart.x.label)
    axes.set_ylabel(chart.y.label)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\u2026"


def _plot_rule(figure: "Figure", rule: Tick, high: bool) -> None:
    axes = figure.gca()
    low, top = axes.get_xlim()
    right = rule.at < (low + top) / 2
    axes.axvline(rule.at, color=COLOURS["ceiling"], linewidth=1, linestyle=(0, (3, 3)), alpha=0.7)
    axes.annotate(
        rule.text,
        (rule.at, 1.0 if high else 0.0),
        (5 if right else -5, -12 if high else 8),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        ha="left" if right else "right",
        color=COLOURS["ceiling"],
        fontweight="bold",
    )


def _plot_series(figure: "Figure", series: Series, row_points: float) -> None:
    axes, colour, label = figure.gca(), COLOURS[series.tone], series.name or "_"
    if series.shape == "bars":
        thickness = min(0.34, _THICKEST_BAR / row_points)
        bars = axes.barh(series.y, series.x, height=thickness, color=colour, label=label)
        if series.words:
            axes.bar_label(bars, series.words, padding=4, color=COLOURS["ceiling"])
    elif series.shape == "whiskers":
        axes.vlines(series.x, series.y, series.until, color=colour, linewidth=1.4, alpha=0.45)
    elif series.shape in ("dots", "points"):
        small = series.shape == "points"
        axes.plot(
            series.x,
            series.y,
            "o",
            color=colour,
            label=label,
            markersize=_POINTS if small else _DOTS,
            markeredgewidth=0,
            alpha=0.62 if small else None,
        )
    else:
        guide = series.tone == "guide"
        width, style = (1.2, (0, (3, 4))) if guide else (1.9, "-")
        axes.plot(series.x, series.y, color=colour, label=label, linewidth=width, linestyle=style)
        if series.shape == "area":
            axes.fill_between(series.x, series.y, color=colour, alpha=0.16, linewidth=0)


def _inline(document: str) -> str:
    """matplotlib's drawing without what the page has: namespaces, ids, fonts, clipping and colours."""
    drawing = document[document.index('<g id="figure_1">') : document.rindex("</svg>")]
    root = ElementTree.fromstring(f"<svg>{drawing.replace('xlink:href', 'href')}</svg>")
    for element in root.iter():
        element.tail = None
        if element.tag != "text":
            element.text = None
        attributes = ((key, _attribute(element.tag, key, text)) for key, text in element.items())
        element.attrib = {key: text for key, text in attributes if text}
    for group in root.iter("g"):
        marks = group.findall("use")
        if marks:  # the marks of a series share their style
            group.set("style", marks[0].get("style", ""))
            for mark in marks:
                mark.attrib.pop("style", None)
    # The clip paths follow the figure.
    return ElementTree.tostring(root[0], encoding="unicode")


def _attribute(tag: str, key: str, text: str) -> str:
    if key == "style":
        kept = [part for part in text.split("; ") if not part.startswith(("font-size", "font-family"))]
        return _HEX.sub(lambda colour: _VARIABLES[colour[0]], ";".join(kept))
    if key == "clip-path" or (key == "id" and tag == "g") or text.startswith("rotate(-0 "):
        return ""
    if key in ("d", "x", "y", "transform"):
        path = " ".join(text.split())
        if "C" not in path:  # after M and L further pairs are ends of lines anyway
            path = path.replace(" L ", " ")
        return _DECIMAL.sub(lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), path)
    return text


def save_overview(rows: Sequence[OverviewRow], path: Path) -> None:
    """Write the comparison of all scenarios as a PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**_STYLE, "font.size": 9, "axes.grid.axis": "x"}):
        figure = Figure((8, 1.2 + 0.42 * len(rows)), layout="constrained")
        axes = figure.subplots()
        named: set[str] = set()
        for height, row in enumerate(reversed(rows)):
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [height] * 2, color=COLOURS["head"], linewidth=5, alpha=0.22)
            for mark in row.marks:
                tall = mark.kind == "ceiling"
                axes.scatter(
                    [mark.value],
                    [height + _SHIFTS.get(mark.kind, 0.0)],
                    marker="|" if tall else "o",
                    s=190 if tall else 44,
                    color=COLOURS[mark.kind],
                    label="_" if mark.kind in named else mark.name,
                    zorder=3,
                )
                named.add(mark.kind)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_yticks(range(len(rows)), [row.scenario for row in reversed(rows)])
        axes.set_xlabel("AUC on the test part")
        axes.set_title("AUC per scenario", loc="left", fontweight="bold")
        figure.legend(ncols=3, loc="outside lower center")
        figure.savefig(path, dpi=_PNG_DPI)
