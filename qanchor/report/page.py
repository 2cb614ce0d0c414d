"""The report as one self-contained HTML page."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from qanchor.charts.overview import MARK_NAMES, OverviewRow, scale
from qanchor.report.findings import headline
from qanchor.report.summary import ReportSummary, ScenarioSummary

_TEMPLATES = Path(__file__).with_name("templates")
_ABSENT = "\u2013"


def render(summary: ReportSummary, drawings: Mapping[tuple[str, str], str]) -> str:
    """The page as text; it refers to no other file or address.

    Args:
        summary: contents of the report.
        drawings: <svg> element of each chart, by scenario and name of the chart.
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
        drawings={chart: Markup(drawing) for chart, drawing in drawings.items()},  # their text is escaped
        legend=lambda series: [one for one in series if one.name],
        marks=_marks_present(rows),
        ticks=_ticks(low, high),
        at=lambda value: f"{100 * (value - low) / (high - low):.2f}%",
        means=_means(summary.scenarios),
        base_area=base_area,
    )


def _filters() -> dict[str, Callable[..., str]]:
    return {
        "count": lambda value: _formatted(value, ",.0f"),
        "area": lambda value, digits=3: _formatted(value, f".{digits}f"),
        "signed": lambda value, digits=3: _formatted(value, f"+.{digits}f"),
        "share": lambda value, digits=1: _formatted(value, f".{digits}%"),
        # Adding 0 turns a rounded -0 into 0.
        "change": lambda value: f"{round(100 * value) + 0:+d}%",
        "day": lambda value: _ABSENT if value is None else str(value)[:10],
        "code": _code,
    }


def _formatted(value: float | None, form: str) -> str:
    return _ABSENT if value is None else format(value, form)


def _code(text: str) -> str:
    """The escaped text with `commands` as code elements."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _marks_present(rows: list[OverviewRow]) -> list[tuple[str, str]]:
    kinds = {mark.kind for row in rows for mark in row.marks}
    return [(kind, name) for kind, name in MARK_NAMES.items() if kind in kinds]


def _ticks(low: float, high: float) -> list[float]:
    step = 0.1 if high - low > 0.25 else 0.05
    first, last = round(low / step + 0.499), int(high / step + 1e-9)
    return [round(number * step, 2) for number in range(first, last + 1)]


def _means(scenarios: tuple[ScenarioSummary, ...]) -> dict[str, float | None]:
    """Means over the scenarios; None for a figure that one of them lacks."""
    columns: dict[str, list[float | None]] = {
        "reached": [one.reached for one in scenarios],
        "ceiling": [one.ceiling for one in scenarios],
        "base": [base_area(one) for one in scenarios],
    }
    for scorer in ("head", "probe", "aggregates"):
        columns[scorer] = [one.card.metrics.get(scorer, {}).get("auc") for one in scenarios]
    for name in ("ks", "lift_10"):
        columns[name] = [one.card.metrics["head"][name] for one in scenarios]
    return {name: _mean(values) for name, values in columns.items()}


def base_area(one: ScenarioSummary) -> float | None:
    """Test AUC of a linear probe on the untuned embedding; None where it was not measured."""
    gain = one.tuning.gain if one.tuning else None
    return None if gain is None else gain.base["auc"]


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    # A mean over some scenarios is not comparable with a mean over all.
    return sum(known) / len(known) if known and len(known) == len(values) else None
