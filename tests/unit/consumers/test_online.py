"""Online rows follow the ledger: whoever is killed or overtaken, no row goes back and none is left behind."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete

from consumers.metrics import ConsumerMetrics
from consumers.sinks.event_log import EventLogSink, RepeatWindow, Written
from consumers.sinks.online import Memory, OnlineFeed, OnlineSink
from qanchor.errors import FeaturesInvalid, QAnchorError, StoreUnavailable
from qanchor.events.activity import activity_table
from qanchor.events.loading import EventLoader
from qanchor.events.rolling import RollingActivity
from qanchor.registry.ledger import next_offsets
from qanchor.registry.positions import positions
from qanchor.registry.tables import LedgerFile, LedgerOffset
from qanchor.storage.event_log import EventLog
from tests.unit.consumers.conftest import KeptLetters
from tests.unit.consumers.fakes import TOPIC, Record, batch, records
from tests.unit.events.files import START, WORKSPACE, make_decoder, visit, write_parquet

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class KeptView:
    """An online view in memory with the store's guard, which notes every row that was not refused."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    before_write: Callable[[], None] = lambda: None
    broken: list[Exception] = field(default_factory=list)
    refused: int = 0

    def newest(self, users: Sequence[str]) -> dict[str, int]:
        return {
            user: (self.rows[user]["event_timestamp"] - _EPOCH) // timedelta(microseconds=1)
            for user in users
            if user in self.rows
        }

    def write(self, table: pa.Table) -> None:
        self.before_write()
        if self.broken:
            raise self.broken.pop()
        for row in table.to_pylist():
            known = self.rows.get(row["user_id"])
            if known and _age(row) < _age(known):
                self.refused += 1
            else:
                self.rows[row["user_id"]] = row

    def close(self) -> None:
        """Nothing is open."""


def _age(row: dict[str, Any]) -> tuple[datetime, datetime]:
    return row["event_timestamp"], row["created"]


class Member:
    """One consumer of the group: it writes, publishes, and forgets all it knew when it is started again."""

    def __init__(self, engine: Engine, root: Path, view: KeptView, name: str) -> None:
        self.engine, self.root, self.view, self.name = engine, root, view, name
        self._writer = EventLog(root, WORKSPACE, name)
        self.sink = EventLogSink(
            engine, self._writer, make_decoder(), KeptLetters(), "g", TOPIC, 1.0,
            RepeatWindow(engine, self._writer, 100),
        )  # fmt: skip
        self.restart()

    def restart(self) -> None:
        self._writer.close()
        log = EventLog(self.root, WORKSPACE)
        rolling = RollingActivity(log, WORKSPACE, 200)
        self.online = OnlineSink(self.engine, log, rolling, self.view, "g", TOPIC)
        self.memory, self.waiting = Memory(), list[Written]()

    def write(self, *some: Record) -> None:
        partition = some[0].partition
        start = next_offsets(self.engine, "g", TOPIC).get(partition, some[0].offset)
        self.waiting.append(self.sink.write(batch(some), {partition: (start, some[-1].offset + 1)}))

    def publish(self, *owned: int) -> None:
        waiting, self.waiting = self.waiting, []
        self.online.publish(waiting, owned, self.memory, threading.Event())


@pytest.fixture
def view() -> KeptView:
    return KeptView()


@pytest.fixture
def members(engine: Engine, tmp_path: Path, view: KeptView) -> tuple[Member, Member]:
    return Member(engine, tmp_path / "log", view, "one"), Member(engine, tmp_path / "log", view, "two")


def _record(offset: int, user: str, hours: float, partition: int = 0, name: str | None = None) -> Record:
    moment = (START + timedelta(hours=hours)).isoformat()
    changes = {"event_id": name} if name else {}
    return records(offset, offset + 1, partition, user_id=user, event_time=moment, **changes)[0]


def _assert_up_to_date(view: KeptView, root: Path) -> None:
    """Each user of the log has a row, and it is the batch view's row as of the row's own moment."""
    log = EventLog(root, WORKSPACE)
    with log.connect() as connection:
        newest = dict(connection.execute("SELECT user_id, max(event_time) FROM events GROUP BY 1").fetchall())
    assert set(view.rows) == set(newest)
    users = sorted(newest)
    moments = [view.rows[user]["event_timestamp"] for user in users]
    requests = pa.table({"user_id": users, "as_of": pa.array(moments, pa.timestamp("us", "UTC"))})
    for row in activity_table(log, WORKSPACE, requests).to_pylist():
        served = view.rows[row["user_id"]]
        assert served["event_timestamp"] > newest[row["user_id"]].astimezone(UTC)
        assert {n: served[n] for n in WORKSPACE.activity_columns} == pytest.approx(
            {n: row[n] for n in WORKSPACE.activity_columns}
        )


def test_users_of_committed_events_are_served_and_the_ledger_knows(
    members: tuple[Member, Member], view: KeptView
) -> None:
    one, _ = members
    one.write(_record(0, "a", 1), _record(1, "b", 2))
    one.publish(0)
    one.write(_record(2, "a", 3))
    one.publish(0)
    assert view.rows["a"]["act_visit_count_1d"] == 2.0
    assert view.rows["a"]["event_timestamp"] == START + timedelta(hours=3, microseconds=1)
    assert positions(one.engine, "g", TOPIC)[0].online_offset == 3
    _assert_up_to_date(view, one.root)


def test_what_a_killed_consumer_left_between_commit_and_publish_is_made_up_for(
    members: tuple[Member, Member], view: KeptView
) -> None:
    one, two = members
    one.write(_record(0, "a", 1))
    one.publish(0)
    one.write(_record(1, "a", 2), _record(2, "b", 2))
    one.restart()  # killed: what waited is gone
    two.publish(0)
    assert set(view.rows) == {"a", "b"}
    _assert_up_to_date(view, one.root)


def test_files_that_a_killed_consumer_did_not_rename_count(
    members: tuple[Member, Member], view: KeptView, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = members
    with monkeypatch.context() as killed:
        killed.setattr(EventLog, "publish", lambda *_: None)
        one.write(_record(0, "a", 1))
    two.publish(0)
    _assert_up_to_date(view, one.root)
    assert set(view.rows) == {"a"}


def test_a_consumer_held_up_before_its_write_cannot_take_a_row_back(
    members: tuple[Member, Member], view: KeptView
) -> None:
    one, two = members
    one.write(_record(0, "a", 5))
    one.publish(0)
    two.publish(0)

    def overtaken() -> None:
        # The group has given the partition to the other one, which writes a late event and publishes it.
        view.before_write = lambda: None
        two.write(_record(2, "a", 3))
        two.publish(0)
        assert view.rows["a"]["act_visit_count_1d"] == 3.0

    one.write(_record(1, "a", 4))
    view.before_write = overtaken
    one.publish(0)
    assert view.refused == 1
    assert view.rows["a"]["act_visit_count_1d"] == 3.0
    one.write(_record(3, "a", 6))
    one.publish(0)
    _assert_up_to_date(view, one.root)


def test_a_partition_that_came_back_is_looked_at_anew(members: tuple[Member, Member], view: KeptView) -> None:
    one, two = members
    one.write(_record(0, "a", 1))
    one.publish(0)
    two.write(_record(1, "a", 2))
    two.publish(0)
    one.write(_record(2, "a", 3))
    one.publish(0)
    assert view.rows["a"]["act_visit_count_1d"] == 3.0


def test_events_that_another_consumer_wrote_without_publishing_are_found(
    members: tuple[Member, Member], view: KeptView
) -> None:
    one, two = members
    one.write(_record(0, "a", 1))
    one.publish(0)
    two.write(_record(1, "b", 2))  # and was killed
    one.publish(0)
    _assert_up_to_date(view, one.root)


def test_a_file_loaded_meanwhile_is_part_of_the_next_row(
    members: tuple[Member, Member], view: KeptView, tmp_path: Path
) -> None:
    one, _ = members
    one.write(_record(0, "a", 20))
    one.publish(0)
    path = write_parquet(tmp_path / "history.parquet", [visit("a", 1, event_id="old1", invoice="2")])
    EventLoader(one.engine, EventLog(one.root, WORKSPACE), make_decoder(), tmp_path / "dead").load(path)
    one.write(_record(1, "a", 21))
    one.publish(0)
    assert view.rows["a"]["act_visit_count_1d"] == 3.0


def test_a_stop_leaves_the_rest_to_the_next_run(members: tuple[Member, Member], view: KeptView) -> None:
    one, two = members
    one.write(_record(0, "a", 1))
    stop = threading.Event()
    stop.set()
    assert one.online.publish(one.waiting, [0], one.memory, stop) == 0
    assert positions(one.engine, "g", TOPIC)[0].online_offset is None
    two.publish(0)
    _assert_up_to_date(view, one.root)


_HAPPENINGS = st.lists(
    st.tuples(
        st.integers(0, 1),  # which member
        st.sampled_from(["write", "write", "publish", "publish", "killed", "held up"]),
        st.integers(0, 1),  # partition: users keep to theirs
        st.integers(0, 300),  # hours after the start: late and on time
        st.integers(0, 4),  # sent again: the id of one of the last events
    ),
    min_size=4,
    max_size=24,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_HAPPENINGS)
def test_any_order_of_writes_publications_and_kills_ends_up_to_date(
    tmp_path_factory: pytest.TempPathFactory, engine: Engine, happenings: list[tuple[int, str, int, int, int]]
) -> None:
    root, view = tmp_path_factory.mktemp("log"), KeptView()
    with engine.begin() as connection:
        connection.execute(delete(LedgerOffset))
        connection.execute(delete(LedgerFile))
    both = (Member(engine, root, view, "one"), Member(engine, root, view, "two"))
    seen: dict[str, datetime] = {}
    for number, (who, what, partition, hours, again) in enumerate(happenings):
        member, other = both[who], both[1 - who]
        offset = next_offsets(engine, "g", TOPIC).get(partition, 0)
        name = f"e{partition}-{number - number % 5 + again}"
        record = _record(offset, f"u{partition}{hours % 2}", hours, partition, name)
        if what == "write":
            member.write(record)
        elif what == "publish":
            member.publish(0, 1)
        elif what == "killed":
            member.restart()
        else:
            member.write(record)
            view.before_write = lambda other=other: _overtake(view, other)  # type: ignore[misc]
            member.publish(0, 1)
            view.before_write = lambda: None
        for user, row in view.rows.items():
            assert row["event_timestamp"] >= seen.get(user, row["event_timestamp"])
            seen[user] = row["event_timestamp"]
    both[0].publish(0, 1)
    both[0].publish(0, 1)  # what another one wrote after this one's last write is found when nothing waits
    if view.rows:
        _assert_up_to_date(view, root)
    for member in both:
        member.restart()


def _overtake(view: KeptView, other: Member) -> None:
    view.before_write = lambda: None
    other.publish(0, 1)


@pytest.fixture
def feed(members: tuple[Member, Member]) -> Iterator[OnlineFeed]:
    feed = OnlineFeed(members[0].online, ConsumerMetrics(), 1_000)
    yield feed
    feed.close()


def _until(feed: OnlineFeed, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        feed.step(frozenset({0}), idle=True)
        time.sleep(0.005)


def _offer_once_broken(member: Member, view: KeptView, feed: OnlineFeed, error: QAnchorError) -> None:
    view.broken = [error]
    member.write(_record(0, "a", 1))
    feed.offer(member.waiting.pop())


def test_an_online_store_that_fails_is_tried_again_and_the_log_goes_on(
    members: tuple[Member, Member], view: KeptView, feed: OnlineFeed
) -> None:
    one, _ = members
    _offer_once_broken(one, view, feed, StoreUnavailable("gone", "Wait."))
    _until(feed, lambda: "a" in view.rows)
    assert positions(one.engine, "g", TOPIC)[0].next_offset == 1
    _assert_up_to_date(view, one.root)


def test_what_no_second_try_mends_ends_the_run(
    members: tuple[Member, Member], view: KeptView, feed: OnlineFeed
) -> None:
    _offer_once_broken(members[0], view, feed, FeaturesInvalid("too far ahead", "Fix it."))
    with pytest.raises(FeaturesInvalid):
        _until(feed, lambda: False)


def test_more_than_may_wait_is_dropped_and_read_from_the_log(
    members: tuple[Member, Member], view: KeptView
) -> None:
    one, _ = members
    feed = OnlineFeed(one.online, ConsumerMetrics(), 3)
    for offset in range(6):
        one.write(_record(offset, f"u{offset}", offset))
        feed.offer(one.waiting.pop())
        assert sum(written.events for written in feed._waiting) <= 3
    feed.step(frozenset({0}), idle=True)
    feed.finish()
    feed.close()
    assert len(view.rows) == 6
    _assert_up_to_date(view, one.root)


def test_each_write_is_reported_once_it_is_online(
    members: tuple[Member, Member], view: KeptView, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = members
    shown: list[Written] = []
    metrics = ConsumerMetrics()
    monkeypatch.setattr(metrics, "shown", shown.append)
    feed = OnlineFeed(one.online, metrics, 1_000)
    one.write(_record(0, "a", 1))
    feed.offer(one.waiting[0])
    _until(feed, lambda: bool(shown))
    assert shown == one.waiting
    assert "a" in view.rows
    feed.close()
