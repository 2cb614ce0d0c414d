from typing import Any

import pytest

from qanchor.heads.calibrate import Calibration
from qanchor.heads.card import HeadCard
from qanchor.report.decisions import campaigns
from qanchor.report.findings import check, statements
from qanchor.workspace import ScenarioSpec
from tests.unit.explain.test_event_effects import card as any_card

SPEC = ScenarioSpec(
    domain="marketing", query="Will this user order takeout?", positive="the user orders takeout"
)


def figures(**changes: float) -> dict[str, float]:
    values = {"rows": 1000.0, "positives": 200.0, "ece": 0.01, "psi_valid_test": 0.02, "ks_threshold": 0.3}
    for name, value in {"auc": 0.8, "gain_10": 0.35, "lift_10": 3.5}.items():
        values |= {name: value, f"{name}_low": value * 0.9, f"{name}_high": value * 1.1}
    for share in ("1", "5", "20"):
        for kind in ("gain", "lift"):
            values |= dict.fromkeys((f"{kind}_{share}", f"{kind}_{share}_low", f"{kind}_{share}_high"), 0.5)
    return values | changes


def gap(low: float, high: float) -> dict[str, float]:
    return {"head_gain": (low + high) / 2, "head_gain_low": low, "head_gain_high": high}


def card(
    head: dict[str, float] | None = None, segments: list[dict[str, Any]] | None = None, **others: Any
) -> HeadCard:
    """A card with what the words are made from."""
    metrics = {"head": head or figures(), **others}
    level = Calibration("level", (0.0,), (0.0,), 1.0)
    return any_card(level).model_copy(update={"metrics": metrics, "segments": segments or []})


def state_of(made: HeadCard, name: str) -> tuple[str, str]:
    result = next(one for one in check(made, ()) if one.name == name)
    return result.state, result.fault


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 0.05, ("good", "")),
        (-0.01, 0.05, ("fair", "")),
        (-0.05, -0.01, ("look", "worse than aggregates")),
        (-3e-16, -1e-16, ("fair", "")),  # a rounding error
        (1e-16, 3e-16, ("fair", "")),
    ],
)
def test_the_interval_decides_who_is_ahead(low: float, high: float, expected: tuple[str, str]) -> None:
    assert state_of(card(aggregates=gap(low, high)), "against aggregates") == expected


def test_a_head_behind_a_logistic_regression_is_pointed_out() -> None:
    assert state_of(card(probe=gap(-0.06, -0.02)), "against logistic regression") == (
        "look",
        "worse than logistic regression",
    )


@pytest.mark.parametrize(("error", "state"), [(0.02, "good"), (0.03, "fair"), (0.06, "look")])
def test_calibration_is_judged_by_its_error(error: float, state: str) -> None:
    assert state_of(card(figures(ece=error)), "calibration")[0] == state


@pytest.mark.parametrize(("positives", "state"), [(100.0, "good"), (970.0, "fair"), (12.0, "look")])
def test_the_rarer_label_decides_the_sample_size(positives: float, state: str) -> None:
    assert state_of(card(figures(positives=positives)), "sample size")[0] == state


def test_shifted_scores_flagged_segments_and_old_heads_are_named() -> None:
    flagged = {"feature": "prof_city", "value": "Ulm", "flags": ["scored too high"]}
    made = card(figures(psi_valid_test=0.3), segments=[flagged, flagged | {"flags": []}])
    checks = {one.name: one for one in check(made, ("The labels have changed.",))}
    assert checks["score stability"].fault == "scores shifted"
    assert (
        checks["segments"].text == "1 of 2 segments differ from the others: prof_city = Ulm: scored too high."
    )
    assert checks["up to date"].text == "The labels have changed."


def test_statements_hold_the_figures_and_what_the_label_means() -> None:
    texts = {one.about: one.text for one in statements(card(aggregates=gap(0.01, 0.05)), SPEC, 0.9, None)}
    assert "label 1 (the user orders takeout)" in texts["Ranking"]
    assert "80% of pairs (95% interval 72% to 88%)" in texts["Ranking"]
    assert "world gives 90%" in texts["Ranking"]
    assert "35% of all positives (32% to 38%), 3.5 times" in texts["Campaign"]
    assert "of 100 users contacted, 70 would be positive" in texts["Campaign"]
    assert "+0.030 AUC (+0.010 to +0.050)" in texts["Baselines"]
    assert "Tuning" not in texts


def test_campaigns_count_who_is_reached() -> None:
    tenth = next(one for one in campaigns(figures()) if one.share == 0.1)
    assert [tenth.users, tenth.reached] == pytest.approx([100, 70])
    assert tenth.precision == pytest.approx(0.7)
