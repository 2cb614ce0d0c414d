import pytest

from qanchor.charts.overview import overview_row, reached_share, scale

MEASURED = {
    "head": {"auc": 0.8, "auc_low": 0.76, "auc_high": 0.84},
    "probe": {"auc": 0.78},
    "aggregates": {"auc": 0.7},
}


def test_a_row_holds_what_is_known_with_the_head_drawn_last() -> None:
    full = overview_row("risk", MEASURED, base=0.75, ceiling=0.9)
    assert [mark.kind for mark in full.marks] == ["ceiling", "aggregates", "base", "probe", "head"]
    bare = overview_row("risk", {"head": MEASURED["head"]})
    assert [mark.kind for mark in bare.marks] == ["head"]


def test_the_scale_holds_every_mark_and_interval() -> None:
    rows = [overview_row("a", MEASURED, ceiling=0.9), overview_row("b", MEASURED, base=0.41)]
    assert scale(rows) == (0.4, 0.9)
    assert scale([]) == (0.5, 1.0)
    perfect = {"head": {"auc": 1.0, "auc_low": 1.0, "auc_high": 1.0}}
    assert scale([overview_row("c", perfect)]) == (0.5, 1.0)


def test_the_reached_share_starts_at_chance() -> None:
    assert reached_share(0.5, 0.9) == 0
    assert reached_share(0.8, 0.9) == pytest.approx(0.75)
    assert reached_share(0.8, None) is None
