"""The report as one HTML page that needs nothing else."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from qanchor.charts.chart import Series
from qanchor.charts.overview import MARK_NAMES, OverviewRow, scale
from qanchor.charts.svg import draw
from qanchor.report.headline import headline
from qanchor.report.summary import ReportSummary, ScenarioSummary

_TEMPLATES = Path(__file__).with_name("templates")
_ABSENT = "\u2013"


def render(summary: ReportSummary) -> str:
    """The page as text; nothing in it refers to another file or address.

    Args:
        summary: what to say.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _filters()
    rows = [scenario.overview for scenario in summary.scenarios]
    low, high = scale(rows)
    return environment.get_template("report.html").render(
        summary=summary,
        alone=len(summary.scenarios) == 1,
        headline=headline(summary.scenarios),
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),  # our own file
        script=Markup((_TEMPLATES / "report.js").read_text(encoding="utf-8")),  # our own file
        draw=lambda chart: Markup(draw(chart)),  # escapes what it is given
        legend=_legend,
        marks=_marks_present(rows),
        ticks=_ticks(low, high),
        at=lambda value: f"{100 * (value - low) / (high - low):.2f}%",
        means=_means(summary.scenarios),
        base_area=base_area,
    )


def _filters() -> dict[str, Callable[..., str]]:
    return {
        "count": _count,
        "area": _area,
        "signed": _signed,
        "share": _share,
        "change": _change,
        "day": _day,
        "code": _code,
    }


def _legend(series: tuple[Series, ...]) -> list[Series]:
    return [one for one in series if one.name]


def _marks_present(rows: list[OverviewRow]) -> list[tuple[str, str]]:
    kinds = {mark.kind for row in rows for mark in row.marks}
    return [(kind, name) for kind, name in MARK_NAMES.items() if kind in kinds]


def _ticks(low: float, high: float) -> list[float]:
    step = 0.1 if high - low > 0.25 else 0.05
    first, last = round(low / step + 0.499), int(high / step + 1e-9)
    return [round(place * step, 2) for place in range(first, last + 1)]


def _means(scenarios: tuple[ScenarioSummary, ...]) -> dict[str, float | None]:
    """Mean over the scenarios, of figures that all of them know."""
    columns: dict[str, list[float | None]] = {
        "way": [one.way for one in scenarios],
        "ceiling": [one.ceiling for one in scenarios],
        "base": [base_area(one) for one in scenarios],
    }
    for scorer in ("head", "probe", "aggregates"):
        columns[scorer] = [one.card.metrics.get(scorer, {}).get("auc") for one in scenarios]
    for name in ("ks", "lift_10"):
        columns[name] = [one.card.metrics["head"][name] for one in scenarios]
    return {name: _mean(values) for name, values in columns.items()}


def base_area(one: ScenarioSummary) -> float | None:
    """Test area of a linear probe on the untuned embedding; None where it was not measured."""
    gain = one.anchor.gain if one.anchor else None
    return None if gain is None else gain.base["auc"]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    # A mean over some scenarios beside one over all would compare different things.
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _code(text: str) -> str:
    """The text with `commands` set as code; everything else is escaped."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _count(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:,.0f}"


def _area(value: float | None, digits: int = 3) -> str:
    return _ABSENT if value is None else f"{value:.{digits}f}"


def _signed(value: float | None, digits: int = 3) -> str:
    return _ABSENT if value is None else f"{value:+.{digits}f}"


def _share(value: float | None, digits: int = 1) -> str:
    return _ABSENT if value is None else f"{100 * value:.{digits}f}%"


def _change(value: float | None) -> str:
    return _ABSENT if value is None else f"{round(100 * value) + 0:+d}%"


def _day(value: datetime | str | None) -> str:
    return _ABSENT if value is None else str(value)[:10]
