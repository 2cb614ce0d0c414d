"""Every figure of the report, unrounded, for report.json."""

from dataclasses import asdict
from typing import Any

from qanchor.charts.overview import as_figures
from qanchor.explain.anchor import AnchorFindings
from qanchor.report.summary import ReportSummary, ScenarioSummary


def report_figures(summary: ReportSummary) -> dict[str, Any]:
    """The report as JSON: figures in full, points of charts rounded for drawing.

    Args:
        summary: what the page says.
    """
    return {
        "created_at": summary.created_at,
        "data": summary.data,
        "model": summary.model,
        "missing": summary.missing,
        "scenarios": [_scenario(one) for one in summary.scenarios],
    }


def _scenario(one: ScenarioSummary) -> dict[str, Any]:
    return {
        "scenario": one.name,
        "domain": one.spec.domain,
        "query": one.spec.query,
        "in_words": {statement.about: statement.text for statement in one.statements},
        "checks": [asdict(check) for check in one.checks],
        "data": asdict(one.data),
        "ceiling": one.ceiling,
        "way_to_ceiling": one.way,
        "areas": as_figures(one.overview),
        "head": one.card.model_dump(mode="json", exclude={"numbers", "categories"}),
        "calibration": {name: values.tolist() for name, values in vars(one.calibration).items()},
        "confusion": asdict(one.confusion),
        "campaigns": [asdict(campaign) | {"precision": campaign.precision} for campaign in one.campaigns],
        "anchor": anchor_figures(one.anchor) if one.anchor else None,
        "anchor_absent": one.anchor_absent,
        "tuning": dict(one.curves.metrics),
        "lookalikes": asdict(one.lookalikes) if one.lookalikes else None,
        "warnings": one.warnings,
        "charts": {chart.name: asdict(chart) for chart in one.all_charts},
    }


def anchor_figures(found: AnchorFindings) -> dict[str, Any]:
    """Attention and the gain of tuning as JSON.

    Args:
        found: of a scenario.
    """
    gain = found.gain
    figures = None
    if gain is not None:
        figures = {
            "rows": gain.rows,
            "sampled": gain.sampled,
            "base": gain.base,
            "tuned": gain.tuned,
            "difference": asdict(gain.test.difference),
            "p_value": gain.test.p_value,
        }
    words = asdict(found.words.auc) if found.words else None
    return {"attention": asdict(found.attention), "linear_probe": figures, "words_alone_auc": words}
