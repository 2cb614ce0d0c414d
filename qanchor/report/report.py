"""The report on disk: one HTML page that needs nothing else; report.json, scores and PNGs beside it."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from qanchor.charts.images import save_charts, save_overview
from qanchor.report.page import render
from qanchor.report.report_json import report_figures
from qanchor.report.summary import ReportSummary

FIGURES_FOLDER, SCORES_FOLDER = "figures", "scores"


def write_report(summary: ReportSummary, page: Path) -> list[Path]:
    """Write the page, and beside it report.json, scores/SCENARIO.parquet and the PNGs in figures/.

    The page is written last: what it speaks of is there.

    Args:
        summary: what to say.
        page: the HTML file.

    Returns:
        Every file written, the page first.
    """
    figures, scores = page.parent / FIGURES_FOLDER, page.parent / SCORES_FOLDER
    for folder in (figures, scores):
        folder.mkdir(parents=True, exist_ok=True)
    data = page.with_name("report.json")
    _replace(data, json.dumps(report_figures(summary), indent=2, default=str))
    overview = figures / "overview.png"
    save_overview([scenario.overview for scenario in summary.scenarios], overview)
    tables = {scores / f"{scenario.name}.parquet": scenario.scores for scenario in summary.scenarios}
    for path, table in tables.items():
        pq.write_table(table, path)
    charts = [
        (
            replace(chart, title=f"{scenario.name}: {chart.title}"),
            figures / f"{scenario.name}_{chart.name}.png",
        )
        for scenario in summary.scenarios
        for chart in scenario.all_charts
    ]
    save_charts(charts)
    _replace(page, render(summary))
    return [page, data, overview, *tables, *(path for _, path in charts)]


def _replace(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}.tmp")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
