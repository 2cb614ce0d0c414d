from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanchor.errors import LabelsInvalid
from qanchor.events.label_rows import LABEL_SCHEMA
from qanchor.events.labels import Labels
from qanchor.heads.split import Division, SplitRequest, divide

START = datetime(2026, 1, 1, tzinfo=UTC)


def labels(days: list[int], folds: list[int] | None = None) -> Labels:
    """Row i is of user u{i:04d}, `days[i]` after the start."""
    columns: list[list[Any]] = [
        [f"u{place:04d}" for place in range(len(days))],
        [START + timedelta(days=day) for day in days],
        [place % 2 for place in range(len(days))],
        folds or [None] * len(days),
        [None] * len(days),
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, LABEL_SCHEMA, strict=True)]
    return Labels("risk", pa.table(arrays, schema=LABEL_SCHEMA))


def counts(division: Division) -> list[int]:
    """Rows left out, of train, valid and test."""
    return [int((division.parts == part).sum()) for part in (-1, 0, 1, 2)]


def test_the_labels_own_folds_are_the_rule() -> None:
    some = labels([0] * 50, [place % 5 for place in range(50)])
    division = divide(some, SplitRequest())
    assert (division.by, division.test_fold, counts(division)) == ("fold", 4, [0, 30, 10, 10])
    assert divide(some, SplitRequest(test_fold=0)).test_fold == 0


def test_without_columns_users_are_hashed_and_stay_together() -> None:
    some = labels([0, 30] * 300)
    own, asked = divide(some, SplitRequest()), divide(some, SplitRequest("user"))
    assert own.by == asked.by == "user"
    np.testing.assert_array_equal(own.parts, asked.parts)
    share = np.array(counts(asked)) / 600
    assert share == pytest.approx([0, 0.7, 0.1, 0.2], abs=0.05)


@given(st.lists(st.integers(0, 12), min_size=8, max_size=60), st.integers(0, 40))
def test_no_training_row_was_known_later_than_the_first_test_row(weeks: list[int], horizon: int) -> None:
    days = [7 * week for week in weeks]
    try:
        division = divide(labels(days), SplitRequest("time", horizon_days=horizon))
    except LabelsInvalid:
        return
    found = {part: [d for d, p in zip(days, division.parts, strict=True) if p == part] for part in range(3)}
    assert all(found.values())
    assert max(found[0]) < min(found[1]) < min(found[2])
    assert max(found[0] + found[1]) + horizon <= min(found[2])
    assert sum(division.left_out.values()) == (division.parts == -1).sum()


def test_a_split_by_time_says_when_its_parts_begin_and_what_it_leaves_out() -> None:
    division = divide(labels([0, 30, 60, 90, 100] * 20), SplitRequest("time", horizon_days=30))
    assert counts(division) == [20, 40, 20, 20]
    assert division.begins == {"valid": "2026-03-02T00:00:00+00:00", "test": "2026-04-11T00:00:00+00:00"}
    assert division.left_out == {"not_yet_known_at_the_test": 20}


@pytest.mark.parametrize(
    ("days", "horizon", "message"),
    [
        ([5] * 10, 0, "all have the same time, 2026-01-06"),
        ([0, 10, 20] * 5, 30, "have 0 time\\(s\\) whose outcome, 30 days later, was known"),
        ([0, 30] * 5, 0, "have 1 time\\(s\\)"),
    ],
)
def test_too_few_times_are_named(days: list[int], horizon: int, message: str) -> None:
    with pytest.raises(LabelsInvalid, match=message):
        divide(labels(days), SplitRequest("time", horizon_days=horizon))


def test_rows_that_tuned_the_prompt_are_never_tested_on() -> None:
    folds = [place % 5 for place in range(400)]
    some = labels([10 * (place % 7) for place in range(400)], folds)
    for by in ("user", "time"):
        division = divide(some, SplitRequest("user" if by == "user" else "time", prompt_fold=4, tuned=True))
        seen_as = some.part_indexes(4)
        kept = division.parts >= 0
        assert (division.parts[kept] <= seen_as[kept]).all()
        assert division.left_out["seen_by_the_prompt"] == counts(division)[0] > 0
    with pytest.raises(LabelsInvalid, match="tuned with test fold 4 and has seen labels of fold 2"):
        divide(some, SplitRequest(test_fold=2, prompt_fold=4, tuned=True))


def test_a_test_fold_belongs_to_a_split_by_fold() -> None:
    with pytest.raises(LabelsInvalid, match="--test-fold 1 does not go with --split time"):
        divide(labels([0, 30, 60]), SplitRequest("time", test_fold=1))
    with pytest.raises(LabelsInvalid, match="no fold 1"):
        divide(labels([0, 30, 60]), SplitRequest(test_fold=1))
