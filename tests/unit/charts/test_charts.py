from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanchor import metrics
from qanchor.charts import head_charts as charts
from qanchor.charts.chart import Axis, Chart, Series, Tick
from qanchor.charts.drawing import draw_chart, ticks

RANDOM = np.random.default_rng(0)
LABELS = (RANDOM.random(3000) < 0.1).astype(np.int64)
SCORES = 1 / (1 + np.exp(-(RANDOM.normal(size=3000) + 1.5 * LABELS - 2)))
ALL = {"head": SCORES, "probe": SCORES**2, "aggregates": RANDOM.random(3000)}


def series(chart: Chart, name: str) -> Series:
    return next(one for one in chart.series if one.name == name)


def test_a_thinned_roc_curve_keeps_its_area() -> None:
    curve = series(charts.roc_chart(LABELS, ALL), "head")
    assert len(curve.x) <= 162
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(metrics.roc_auc(LABELS, SCORES), abs=0.005)


def test_the_ks_rule_is_where_the_curves_are_furthest_apart() -> None:
    chart = charts.ks_chart(LABELS, SCORES)
    best = metrics.ks(LABELS, SCORES)
    ((at, text),) = chart.rules
    flagged = best.threshold <= SCORES
    assert at == pytest.approx(float(flagged.mean()))
    assert f"{best.statistic:.3f}" in text


def test_the_score_chart_shows_each_class_whole() -> None:
    chart = charts.score_chart(LABELS, SCORES)
    for name in ("label 0", "label 1"):
        assert sum(series(chart, name).y) == pytest.approx(1, abs=0.03)
    positions = [tick.at for tick in chart.x.ticks]
    assert len(positions) >= 3
    assert positions == sorted(positions)


def test_the_lift_chart_ends_at_one() -> None:
    curve = series(charts.lift_chart(LABELS, ALL), "head")
    assert curve.y[-1] == pytest.approx(1)
    assert curve.y[0] > 2


def test_constant_scores_are_drawn() -> None:
    flat = np.full(3000, 0.25)
    for chart in (
        charts.roc_chart(LABELS, {"head": flat}),
        charts.ks_chart(LABELS, flat),
        charts.score_chart(LABELS, flat),
        charts.lift_chart(LABELS, {"head": flat}),
        charts.calibration_chart(LABELS, flat),
    ):
        assert "nan" not in draw_chart(chart)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside_the_axis(low: float, span: float) -> None:
    axis = Axis("x", low, low + span)
    positions = [tick.at for tick in ticks(axis)]
    assert 1 <= len(positions) <= 7
    assert all(low - 1e-6 * span <= at <= low + span * (1 + 1e-6) for at in positions)


def test_text_in_a_chart_is_escaped() -> None:
    chart = Chart("x", "<b>", "a & b", Axis("x", 0, 1), Axis("y", 0, 1), (), (Tick(0.5, "<script>"),))
    assert "<script>" not in draw_chart(chart)
    assert "&lt;b&gt;: a &amp; b" in draw_chart(chart)


def test_a_chart_is_drawn_with_the_same_bytes_text_and_theme_colours(tmp_path: Path) -> None:
    chart = charts.roc_chart(LABELS, ALL)
    drawing = draw_chart(chart, tmp_path / "roc.png")
    assert drawing == draw_chart(chart)
    assert (tmp_path / "roc.png").read_bytes().startswith(b"\x89PNG")
    for text in (">true positive rate<", ">100%<", "var(--head)", "var(--probe)", "var(--aggregates)"):
        assert text in drawing
    for absent in ("#", "url(", "http", "font-family"):
        assert absent not in drawing
    assert len(drawing) < 10_000
