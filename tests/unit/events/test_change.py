"""The change of a history is the share of its events that are different, by whatever cause."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.events.change import history_change
from qanchor.events.history import EventArrays, arrays_from_table
from qanchor.times import to_microseconds
from qanchor.workspace import ModalitySpec, Workspace
from tests.unit.embedding.world import START, day, make_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("change"))


def _arrays(workspace: Workspace, events: list[tuple[str, float, str]]) -> EventArrays:
    rows = [
        {
            "event_id": f"e{number}",
            "user_id": user,
            "event_time": day(moment),
            "modality": "bill",
            "shop": shop,
            "amount": 1.0,
        }
        for number, (user, moment, shop) in enumerate(events)
    ]
    return arrays_from_table(pa.Table.from_pylist(rows), workspace)


def _change(
    workspace: Workspace, events: list[tuple[str, float, str]], before: float | None, after: float, read: int
) -> float:
    arrays = _arrays(workspace, events)
    old = np.array([-1 if before is None else to_microseconds(day(before))])
    new, rows = np.array([to_microseconds(day(after))]), arrays.user_rows(["ann"])
    return float(history_change(arrays, rows, old, new, np.array([read]), workspace)[0])


def test_nothing_new_is_no_change(workspace: Workspace) -> None:
    assert _change(workspace, [("ann", 1, "a"), ("ann", 2, "b")], 5, 9, read=2) == 0.0


def test_the_same_moment_again_is_no_change_at_all(workspace: Workspace) -> None:
    events = [("ann", 1 + number / 100, "abc"[number % 3]) for number in range(49)]
    assert _change(workspace, events, 5, 5, read=49) == 0.0


def test_more_of_the_same_changes_little_and_something_else_much(workspace: Workspace) -> None:
    old = [("ann", 1 + number / 10, "ab"[number % 2]) for number in range(10)]
    same = _change(workspace, [*old, ("ann", 6, "a")], 5, 9, read=10)
    other = _change(workspace, [*old, ("ann", 6, "c")], 5, 9, read=10)
    assert same == pytest.approx((1 / 11 + 6 / 11 - 1 / 2) / 2)
    assert other == pytest.approx(1 / 11)
    assert 0 < same < other


def test_events_that_leave_the_window_count(workspace: Workspace) -> None:
    assert _change(workspace, [("ann", 1, "a"), ("ann", 50, "b")], 60, 95, read=2) == pytest.approx(0.5)
    assert _change(workspace, [("ann", 1, "a"), ("ann", 50, "a")], 60, 95, read=2) == pytest.approx(0.25)


def test_a_late_event_counts_though_both_moments_see_it(workspace: Workspace) -> None:
    assert _change(workspace, [("ann", 1, "a"), ("ann", 2, "a")], 5, 9, read=1) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("events", "before", "read", "change"),
    [
        ([("ann", 6, "a")], None, 0, 1.0),
        ([("ann", 6, "a")], 5, 0, 1.0),
        ([("bob", 6, "a")], None, 0, 0.0),
        ([("ann", 1, "a")], None, 0, 1.0),
    ],
    ids=["no vector yet", "no event then", "no event at all", "no vector but old events"],
)
def test_the_first_event_is_the_whole_history(
    workspace: Workspace,
    events: list[tuple[str, float, str]],
    before: float | None,
    read: int,
    change: float,
) -> None:
    assert _change(workspace, events, before, 9, read) == change


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 40), st.sampled_from("abcd")), min_size=1, max_size=30),
    st.floats(1, 40),
    st.floats(1, 40),
)
def test_it_is_the_mean_of_unshared_events_and_total_variation(
    events: list[tuple[float, str]], one: float, other: float
) -> None:
    before, after = sorted((one, other))
    workspace = _plain_workspace()
    rows = [("ann", moment, shop) for moment, shop in events]
    histories = [
        [shop for moment, shop in events if START + timedelta(days=moment) < day(end)]
        for end in (before, after)
    ]
    found = _change(workspace, rows, before, after, read=len(histories[0]))
    if not all(histories):
        assert found == (1.0 if any(histories) else 0.0)
        return
    shares = [{shop: history.count(shop) / len(history) for shop in "abcd"} for history in histories]
    variation = sum(abs(shares[0][shop] - shares[1][shop]) for shop in "abcd") / 2
    unshared = 1 - len(histories[0]) / len(histories[1])
    assert found == pytest.approx((unshared + variation) / 2, abs=1e-12)


def _plain_workspace() -> Workspace:
    from pathlib import Path

    from qanchor.workspace import FieldSpec

    fields = {"shop": FieldSpec(type="text"), "amount": FieldSpec(type="number", amount=True)}
    return Workspace(Path(), 90, {"bill": ModalitySpec(text="{shop}", fields=fields)}, {})
