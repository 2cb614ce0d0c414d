"""When the watch over a group asks for a join, and what it exports."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumers.group_status import GroupStatus, PartitionStatus
from consumers.metrics import ConsumerMetrics
from consumers.watch import GroupWatch, StatusSource, WatchTimes
from qanchor.registry.positions import Position

_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _row(number: int, written: int | None, end: int, owner: str | None, begin: int = 0) -> PartitionStatus:
    position = None if written is None else Position(written, _NOW)
    return PartitionStatus(number, end, begin, position, owner)


class _Watched:
    def __init__(self, name: str = "one", owned: frozenset[int] = frozenset({0})) -> None:
        self.metrics = ConsumerMetrics()
        self.owned = owned
        self.watch = GroupWatch(_no_source, name, self.metrics, lambda: self.owned, WatchTimes(1, 9, 30))

    def look(self, now: float, *rows: PartitionStatus, stable: bool = True) -> None:
        self.watch.look(GroupStatus(list(rows), ["one", "two"], stable), now)

    def value(self, name: str, partition: int | None = None) -> float | None:
        labels = {} if partition is None else {"partition": str(partition)}
        value: float | None = self.metrics.registry.get_sample_value(f"qanchor_consumer_{name}", labels)
        return value


def _no_source() -> StatusSource:
    raise AssertionError("no look connects here")


def test_a_partition_without_owner_in_a_stable_group_leads_to_a_join() -> None:
    one = _Watched()
    for now in (0.0, 5.0):
        one.look(now, _row(0, 5, 5, "one"), _row(1, 5, 9, None))
        assert not one.watch.take_rejoin()
    one.look(10.0, _row(0, 5, 5, "one"), _row(1, 5, 9, None))
    assert one.watch.take_rejoin()
    assert not one.watch.take_rejoin()
    assert (one.value("rejoins_total"), one.value("unowned_partitions")) == (1, 1)


def test_joins_that_do_not_help_become_rare() -> None:
    one = _Watched()
    joins = []
    for now in range(0, 200, 5):
        one.look(float(now), _row(0, 5, 5, "one"), _row(1, 5, 9, None))
        if one.watch.take_rejoin():
            joins.append(now)
    assert 3 <= len(joins) <= 5


def test_a_rebalance_under_way_is_no_reason() -> None:
    one = _Watched()
    for now in range(0, 100, 5):
        one.look(float(now), _row(0, 5, 5, "one"), _row(1, 5, 9, None), stable=False)
        assert not one.watch.take_rejoin()


def test_an_owned_partition_that_stays_while_its_end_moves_is_read_again() -> None:
    one = _Watched()
    for now in range(0, 35, 5):
        one.look(float(now), _row(0, 5, 5 + now, "one"))
    assert one.watch.take_unread()
    assert one.watch.take_rejoin()


@pytest.mark.parametrize("written", [lambda now: 5 + now, lambda _: 40])
def test_a_partition_that_moves_or_has_nothing_unread_is_left_alone(written: object) -> None:
    one = _Watched()
    assert callable(written)
    for now in range(0, 100, 5):
        end = 10 + now if written(1) != 40 else 40
        one.look(float(now), _row(0, written(now), end, "one"))
    assert not one.watch.take_rejoin()


def test_lag_is_that_of_owned_partitions_and_ends_with_the_ownership(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))  # as Feast does when it is imported
    one = _Watched(owned=frozenset({0, 1}))
    one.look(0.0, _row(0, 5, 8, "one"), _row(1, None, 100, "one", begin=90), _row(2, 1, 9, "two"))
    assert [one.value("lag", number) for number in (0, 1, 2)] == [3, 10, None]
    one.look(7.0, _row(0, 6, 8, "one"), _row(1, 100, 100, "one"), _row(2, 1, 9, "two"))
    assert [one.value("lag_seconds", number) for number in (0, 1)] == [7, 0]
    one.owned = frozenset({0})
    one.look(8.0, _row(0, 8, 8, "one"), _row(1, 100, 120, "two"), _row(2, 9, 9, "two"))
    assert [one.value("lag", number) for number in (0, 1, 2)] == [0, None, None]


def test_the_first_member_speaks_for_what_nobody_owns() -> None:
    rows = (_row(0, 5, 5, "one"), _row(1, 5, 9, None))
    one, two = _Watched("one"), _Watched("two", frozenset())
    for watched in (one, two):
        watched.look(0.0, *rows)
        watched.look(4.0, *rows)
    assert (one.value("lag", 1), one.value("lag_seconds", 1)) == (4, 4)
    assert (two.value("lag", 1), two.value("unowned_partitions")) == (None, 0)
