import numpy as np
import pytest
from numpy.typing import NDArray

from qanchor.errors import InputError
from qanchor.metrics import auc_interval, compare_segments, roc_auc

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def drawn(seed: int, rows: int = 3000) -> tuple[Ints, Floats, NDArray[np.object_]]:
    """Honest probabilities, the labels they draw, and a segment that has nothing to do with either."""
    random = np.random.default_rng(seed)
    chances = 1 / (1 + np.exp(-random.normal(-1, 1.2, rows)))
    labels = (random.random(rows) < chances).astype(np.int64)
    return labels, chances, random.choice(np.array(["east", "north", "west"], dtype=object), rows)


def test_a_segment_says_what_its_own_rows_say() -> None:
    labels, chances, city = drawn(0)
    for row in compare_segments(labels, chances, {"city": city.tolist()}):
        inside = city == row.value
        assert (row.feature, row.rows, row.positives) == ("city", inside.sum(), labels[inside].sum())
        assert row.rate == pytest.approx(labels[inside].mean(), abs=1e-12)
        assert row.mean_score == pytest.approx(chances[inside].mean(), abs=1e-12)
        assert row.auc == auc_interval(labels[inside], chances[inside])
        assert row.auc_gap is not None
        gap = roc_auc(labels[inside], chances[inside]) - roc_auc(labels[~inside], chances[~inside])
        assert row.auc_gap.value == pytest.approx(gap, abs=1e-12)
        assert row.calibration_gap is not None
        assert row.calibration_gap.value == pytest.approx(row.mean_score - row.rate, abs=1e-12)
        assert row.flags == ()


def test_a_whole_table_of_equal_segments_is_seldom_flagged() -> None:
    flagged = sum(
        any(row.flags for row in compare_segments(labels, chances, {"city": city.tolist()}))
        for labels, chances, city in (drawn(seed, 800) for seed in range(100))
    )
    # Five in a hundred for areas and five for calibration are expected at most.
    assert flagged <= 18


def test_a_segment_that_is_ranked_or_scored_differently_is_flagged_alone() -> None:
    labels, chances, city = drawn(1)
    blind, random = chances.copy(), np.random.default_rng(3)
    blind[city == "west"] = random.permutation(blind[city == "west"])
    found = {row.value: row.flags for row in compare_segments(labels, blind, {"city": city.tolist()})}
    assert "ranks worse" in found["west"]
    assert not any("worse" in flag for value in ("east", "north") for flag in found[value])
    high = chances.copy()
    high[city == "north"] = np.minimum(high[city == "north"] + 0.1, 1)
    found = {row.value: row.flags for row in compare_segments(labels, high, {"city": city.tolist()})}
    assert found["north"] == ("scored too high",)
    low = chances.copy()
    low[city == "east"] *= 0.6
    found = {row.value: row.flags for row in compare_segments(labels, low, {"city": city.tolist()})}
    assert found["east"] == ("scored too low",)


def test_small_segments_are_listed_without_a_verdict() -> None:
    labels, chances, _ = drawn(2, 200)
    values: list[str | None] = ["all"] * 198 + [None, None]
    rows = compare_segments(labels, chances, {"kind": values})
    assert [(row.value, row.rows) for row in rows] == [("all", 198), ("(missing)", 2)]
    assert (rows[1].auc, rows[1].auc_gap, rows[1].calibration_gap, rows[1].flags) == (None, None, None, ())


def test_rare_values_are_one_segment_and_no_row_is_lost() -> None:
    labels, chances, _ = drawn(3, 400)
    rows = compare_segments(labels, chances, {"job": [f"job {place % 40}" for place in range(400)]})
    assert len(rows) == 13
    assert rows[-1].value == "(other)"
    assert sum(row.rows for row in rows) == 400


def test_scores_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(InputError, match="probabilities"):
        compare_segments([0, 1], [0.2, 7.0], {})
