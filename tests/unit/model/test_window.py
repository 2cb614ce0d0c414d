"""The activity view's SQL, the model's arrays and UserU's spans count the same events."""

from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.aggregates import ACTIVITY_WINDOWS_DAYS, activity_aggregates
from qanchor.events.activity import activity_table
from qanchor.events.history import load_event_arrays, slice_histories
from qanchor.model.window import Window
from qanchor.times import DAY_US, column_microseconds
from qanchor.training.useru.spans import Points, SpanReader
from qanchor.training.useru.topics import find_terms
from tests.unit.events.test_activity import EVENTS, MOMENTS, WORKSPACE, TableLog, request_table

WINDOW_US = WORKSPACE.window_days * DAY_US


@settings(max_examples=25, deadline=None)
@given(EVENTS, st.lists(st.tuples(st.sampled_from("abc"), MOMENTS), min_size=1, max_size=5))
def test_sql_and_arrays_give_the_same_aggregates(
    events: list[tuple[str, datetime, str, float]], requests: list[tuple[str, datetime]]
) -> None:
    log, table = TableLog(events), request_table(requests)
    sql = activity_table(log, WORKSPACE, table)
    arrays = load_event_arrays(log, WORKSPACE)
    rows, cutoffs = arrays.user_rows(table["user_id"].to_pylist()), column_microseconds(table["as_of"])
    slices = slice_histories(arrays, rows, cutoffs, WORKSPACE)
    for column, modality in enumerate(arrays.modalities):
        amount = WORKSPACE.modalities[modality.name].amount
        window, event_rows = Window.of(modality, slices, column)
        for aggregate in activity_aggregates(has_amount=amount is not None):
            expected = sql[aggregate.column(modality.name)].to_numpy()
            if aggregate.kind == "sum":
                values = window.of_number(aggregate, np.nan_to_num(modality.numbers[event_rows, 0]))
            else:
                values = window.of_events(aggregate)
            if aggregate.kind == "recency":
                # The view looks back without end, the model as far as its window.
                expected = np.where(expected * DAY_US <= WINDOW_US, expected, np.inf)
                values = values / DAY_US
            np.testing.assert_allclose(values, expected, rtol=1e-12, err_msg=aggregate.column(modality.name))


@settings(max_examples=25, deadline=None)
@given(EVENTS, st.lists(st.tuples(st.sampled_from("ab"), st.integers(-99, 99)), min_size=1, max_size=5))
def test_sql_and_spans_give_the_same_counts_and_sums(
    events: list[tuple[str, datetime, str, float]], requests: list[tuple[str, int]]
) -> None:
    midnight = datetime.fromisoformat("2026-03-29T00:00+00:00")
    log = TableLog([*events, ("a", midnight, "pay", 1.0), ("b", midnight, "pay", 2.0)])
    table = request_table([(user, midnight + timedelta(days=days)) for user, days in requests])
    sql = activity_table(log, WORKSPACE, table)
    arrays = load_event_arrays(log, WORKSPACE)
    points = Points(arrays.user_rows(table["user_id"].to_pylist()), column_microseconds(table["as_of"]))
    reader = SpanReader(arrays, WORKSPACE, find_terms(arrays))
    for days in ACTIVITY_WINDOWS_DAYS:
        span = reader.read(points, -days)
        np.testing.assert_array_equal(span.counts[:, 0], sql[f"act_pay_count_{days}d"].to_numpy())
        sums = np.nan_to_num(span.numbers[0][:, 0])
        assert sums == pytest.approx(sql[f"act_pay_sum_{days}d"].to_numpy(), abs=1e-9)
