"""The report's charts as PNG files, for slides and documents."""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from qanchor.charts.chart import Chart, Series
from qanchor.charts.overview import OverviewRow
from qanchor.charts.svg import ticks

COLOURS = {
    "head": "#3d4fd1",
    "probe": "#0e9384",
    "aggregates": "#8a8f98",
    "positive": "#d9480f",
    "negative": "#8a8f98",
    "guide": "#b4b8bf",
    "ceiling": "#1c2024",
    "base": "#7cc4bb",
}
_DPI = 160
# A point of a map is too small for a legend.
_LEGEND_POINTS = 2.5
# How far from the middle of its row a mark stands, so that equal ones do not hide each other.
_LIFTED = {"aggregates": 0.3, "base": 0.15, "probe": -0.15}
# A process takes as long to start as it takes to draw this many.
_WORTH_A_PROCESS = 25


def _style() -> dict[str, Any]:
    return {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#c9ccd1",
        "axes.labelcolor": "#4b5158",
        "xtick.color": "#4b5158",
        "ytick.color": "#4b5158",
        "axes.grid": True,
        "grid.color": "#eceef0",
        "axes.axisbelow": True,
        "legend.frameon": False,
    }


def save_charts(charts: Sequence[tuple[Chart, Path]]) -> None:
    """Write charts as `save_chart` does: many of them on all cores."""
    cores = min(len(os.sched_getaffinity(0)), len(charts) // _WORTH_A_PROCESS)
    if cores < 2:
        for chart, path in charts:
            save_chart(chart, path)
        return
    # Drawing holds the interpreter's lock, and a fork of a process with a model's threads may hang.
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(save_chart, *zip(*charts, strict=True), chunksize=5):
            pass


def save_chart(chart: Chart, path: Path) -> None:
    """Write one chart as a PNG of 5 by 3.7 inches at 160 dots an inch."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_style()):
        figure = Figure(figsize=(5, 3.7))
        FigureCanvasAgg(figure)
        # Names beside the axis need more room than numbers do.
        left = min(0.13 + 0.012 * max((len(words) for _, words in chart.y.ticks), default=0), 0.35)
        # On the right half of the last tick's words stands beyond the axis.
        axes = figure.add_axes((left, 0.14, 0.95 - left, 0.76))
        for series in chart.series:
            _plot(axes, series)
        for at, words in chart.rules:
            axes.axvline(at, color=COLOURS["ceiling"], linewidth=0.9, linestyle=(0, (3, 3)), label=words)
        axes.set_xlim(chart.x.low, chart.x.high)
        axes.set_ylim(chart.y.low, chart.y.high)
        axes.set_title(chart.title, loc="left", fontweight="bold")
        axes.set_xlabel(chart.x.label)
        axes.set_ylabel(chart.y.label)
        for axis, wording in ((axes.xaxis, chart.x), (axes.yaxis, chart.y)):
            places = ticks(wording)
            axis.set_ticks([place for place, _ in places], [words for _, words in places])
        if not chart.x.label:
            axes.set_xticks([])
            axes.set_yticks([])
        if any(series.name for series in chart.series):
            few = any(series.shape == "points" for series in chart.series)
            axes.legend(fontsize=8, markerscale=_LEGEND_POINTS if few else 1)
        # Packed harder, a chart is a tenth smaller and takes a third longer.
        figure.savefig(path, dpi=_DPI, pil_kwargs={"compress_level": 3})


def _plot(axes: Any, series: Series) -> None:
    colour, label = COLOURS[series.tone], series.name or "_"
    if series.shape == "bars":
        bars = axes.barh(series.y, series.x, height=0.34, color=colour, label=label, zorder=3)
        if series.words:
            axes.bar_label(bars, series.words, padding=3, fontsize=8, color="#4b5158")
        return
    if series.shape == "whiskers":
        axes.vlines(series.x, series.y, series.until, color=colour, linewidth=1.1, alpha=0.6)
        return
    if series.shape in ("dots", "points"):
        size = 26 if series.shape == "dots" else 5
        axes.scatter(
            series.x, series.y, s=size, color=colour, label=label, linewidths=0, alpha=0.85, zorder=3
        )
        return
    style = (0, (4, 3)) if series.tone == "guide" else "-"
    axes.plot(series.x, series.y, color=colour, label=label, linewidth=1.7, linestyle=style)
    if series.shape == "area":
        axes.fill_between(series.x, series.y, color=colour, alpha=0.18, linewidth=0)


def save_overview(rows: list[OverviewRow], path: Path) -> None:
    """Write the comparison of all scenarios as a PNG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_style()):
        figure = Figure(figsize=(8, 1.2 + 0.42 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        named: set[str] = set()
        for place, row in enumerate(reversed(rows)):
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=COLOURS["head"], linewidth=5, alpha=0.22)
            for mark in row.marks:
                tall = mark.kind == "ceiling"
                axes.scatter(
                    [mark.value],
                    [place + _LIFTED.get(mark.kind, 0.0)],
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
        figure.legend(fontsize=8, ncols=3, loc="outside lower center")
        figure.savefig(path, dpi=_DPI)
