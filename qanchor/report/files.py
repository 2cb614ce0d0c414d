"""The report on disk: one HTML page, with report.json, scores and PNGs next to it."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from qanchor.charts.drawing import draw_charts, save_overview
from qanchor.files import atomic_file, write_atomically
from qanchor.report.page import render
from qanchor.report.summary import ReportSummary, ScenarioSummary

FIGURES_FOLDER, SCORES_FOLDER = "figures", "scores"


def write_report(summary: ReportSummary, page: Path) -> list[Path]:
    """Write the page, and next to it report.json, scores/SCENARIO.parquet and the PNGs in figures/.

    The page is written last: everything that it names exists by then.

    Args:
        summary: contents of the report.
        page: path of the HTML file.

    Returns:
        Every file written, the page first.

    Raises:
        DiskFull: no space is left; free some.
    """
    figures, scores = page.parent / FIGURES_FOLDER, page.parent / SCORES_FOLDER
    figures.mkdir(parents=True, exist_ok=True)
    data, overview = page.with_name("report.json"), figures / "overview.png"
    write_atomically(data, json.dumps(report_json(summary), indent=2, default=str))
    tables = {scores / f"{scenario.name}.parquet": scenario.scores for scenario in summary.scenarios}
    for path, table in tables.items():
        with atomic_file(path) as staged:
            pq.write_table(table, staged)
    save_overview([scenario.overview for scenario in summary.scenarios], overview)
    charts = {
        (scenario.name, chart.name): (
            replace(chart, title=f"{scenario.name}: {chart.title}"),
            figures / f"{scenario.name}_{chart.name}.png",
        )
        for scenario in summary.scenarios
        for chart in scenario.all_charts
    }
    drawings = dict(zip(charts, draw_charts(list(charts.values())), strict=True))
    write_atomically(page, render(summary, drawings))
    return [page, data, overview, *tables, *(path for _, path in charts.values())]


def report_json(summary: ReportSummary) -> dict[str, Any]:
    """The contents of report.json: every figure unrounded, points of charts rounded for drawing.

    Args:
        summary: contents of the report.
    """
    return {
        "created_at": summary.created_at,
        "data": summary.data,
        "model": summary.model,
        "missing": summary.missing,
        "scenarios": [_scenario_json(scenario) for scenario in summary.scenarios],
    }


def _scenario_json(one: ScenarioSummary) -> dict[str, Any]:
    checks = [
        {"name": c.name, "state": c.state, "word": c.verdict, "told": c.text, "fault": c.fault}
        for c in one.checks
    ]
    return {
        "scenario": one.name,
        "domain": one.spec.domain,
        "query": one.spec.query,
        "in_words": {statement.about: statement.text for statement in one.statements},
        "checks": checks,
        "data": asdict(one.data),
        "ceiling": one.ceiling,
        "way_to_ceiling": one.reached,
        "areas": {"scenario": one.name, **{mark.kind: mark.value for mark in one.overview.marks}},
        "head": one.card.model_dump(mode="json", exclude={"numbers", "categories"}),
        "calibration": {name: values.tolist() for name, values in vars(one.calibration).items()},
        "confusion": asdict(one.confusion),
        "campaigns": [asdict(campaign) | {"precision": campaign.precision} for campaign in one.campaigns],
        "anchor": one.tuning.as_json() if one.tuning else None,
        "anchor_absent": one.tuning_absent,
        "tuning": dict(one.curves.metrics),
        "lookalikes": asdict(one.lookalikes) if one.lookalikes else None,
        "warnings": one.warnings,
        "charts": {chart.name: asdict(chart) for chart in one.all_charts},
    }
