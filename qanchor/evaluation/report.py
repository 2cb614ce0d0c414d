"""The report on disk: one HTML page that needs nothing else, report.json with every figure, and PNGs."""

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from qanchor.evaluation.charts import Series
from qanchor.evaluation.images import save_chart, save_overview
from qanchor.evaluation.overview import MARK_NAMES, OverviewRow, as_figures, scale
from qanchor.evaluation.summary import ReportSummary, ScenarioSummary
from qanchor.evaluation.svg import draw

_TEMPLATES = Path(__file__).with_name("templates")
FIGURES_FOLDER = "figures"
_ABSENT = "\u2013"


def write_report(summary: ReportSummary, page: Path) -> list[Path]:
    """Write the page, report.json beside it and the PNGs in figures/; each file whole or not at all.

    Args:
        summary: what to say.
        page: the HTML file.

    Returns:
        Every file written, the page first.
    """
    figures = page.parent / FIGURES_FOLDER
    figures.mkdir(parents=True, exist_ok=True)
    data = page.with_name("report.json")
    _replace(data, json.dumps(report_figures(summary), indent=2, default=str))
    images = [figures / "overview.png"]
    save_overview([scenario.overview for scenario in summary.scenarios], images[0])
    for scenario in summary.scenarios:
        for chart in scenario.charts:
            images.append(figures / f"{scenario.card.scenario}_{chart.name}.png")
            save_chart(chart, images[-1])
    _replace(page, render(summary))
    return [page, data, *images]


def _replace(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}.tmp")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def report_figures(summary: ReportSummary) -> dict[str, Any]:
    """Every figure of the report, for report.json."""
    return {
        "created_at": summary.created_at,
        "data": summary.data,
        "model": summary.model,
        "missing": summary.missing,
        "scenarios": [
            {
                "scenario": scenario.card.scenario,
                "domain": scenario.domain,
                "query": scenario.query,
                "rows": scenario.label_rows,
                "positives": scenario.positives,
                "ceiling": scenario.ceiling,
                "way_to_ceiling": scenario.way,
                "areas": as_figures(scenario.overview),
                "tuned_valid_auc": scenario.tuned,
                "head": scenario.card.model_dump(
                    mode="json", exclude={"numbers", "categories", "parameters"}
                ),
                "confusion": asdict(scenario.confusion),
                "lookalikes": asdict(scenario.lookalikes) if scenario.lookalikes else None,
                "warnings": scenario.warnings,
                "charts": {chart.name: asdict(chart) for chart in scenario.charts},
            }
            for scenario in summary.scenarios
        ],
    }


def render(summary: ReportSummary) -> str:
    """The page as text; nothing in it refers to another file or address."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": _count, "area": _area, "share": _share, "day": _day}
    rows = [scenario.overview for scenario in summary.scenarios]
    low, high = scale(rows)
    return environment.get_template("report.html").render(
        summary=summary,
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),  # our own file
        script=Markup((_TEMPLATES / "report.js").read_text(encoding="utf-8")),  # our own file
        draw=lambda chart: Markup(draw(chart)),  # escapes what it is given
        legend=_legend,
        marks=_marks_present(rows),
        ticks=_ticks(low, high),
        at=lambda value: f"{100 * (value - low) / (high - low):.2f}%",
        means=_means(summary.scenarios),
    )


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
    """Mean over the scenarios that know a figure."""
    columns: dict[str, list[float]] = {"way": [s.way for s in scenarios if s.way is not None]}
    columns["ceiling"] = [s.ceiling for s in scenarios if s.ceiling is not None]
    for scorer in ("head", "probe", "aggregates"):
        columns[scorer] = [s.card.metrics[scorer]["auc"] for s in scenarios if scorer in s.card.metrics]
    columns["ks"] = [s.card.metrics["head"]["ks"] for s in scenarios]
    columns["lift_5"] = [s.card.metrics["head"]["lift_5"] for s in scenarios]
    columns["lift_10"] = [s.card.metrics["head"]["lift_10"] for s in scenarios]
    return {name: sum(values) / len(values) if values else None for name, values in columns.items()}


def _count(value: float | None) -> str:
    return _ABSENT if value is None else f"{value:,.0f}"


def _area(value: float | None, digits: int = 3) -> str:
    return _ABSENT if value is None else f"{value:.{digits}f}"


def _share(value: float | None, digits: int = 1) -> str:
    return _ABSENT if value is None else f"{100 * value:.{digits}f}%"


def _day(value: datetime | str | None) -> str:
    return _ABSENT if value is None else str(value)[:10]
