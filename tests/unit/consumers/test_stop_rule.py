"""When a consumer that ends at the topic's end may end: not while a dead member's partitions wait for it."""

import asyncio
import time

import pytest
from kafka.errors import KafkaTimeoutError

from consumers.assignment import Assignment
from consumers.sinks.event_log import EventLogSink
from consumers.stop_rule import EndOfTopic
from qanchor.registry.ledger import LedgerEntry, OffsetRanges, commit_entry
from tests.unit.consumers.fakes import TOPIC, FakeClient, decode, place


class _Half:
    """A consumer that owns the first of two partitions of ten messages, and has read it."""

    def __init__(self, sink: EventLogSink) -> None:
        self.engine = sink.engine
        self.client = FakeClient(owned={place(0)}, ends={place(0): 10, place(1): 10})
        self.client.positions[place(0)] = 10
        self.assignment = Assignment(self.client, sink.engine, "g", TOPIC, decode)
        asyncio.run(self.assignment.on_partitions_assigned(self.client.owned))
        self.end = EndOfTopic(self.client, self.assignment, TOPIC, session_seconds=6.0)

    def wrote(self, end: int) -> None:
        """The other partition's owner wrote so far."""
        entry = LedgerEntry(offsets=OffsetRanges("g", TOPIC, {1: (0, end)}))
        commit_entry(self.engine, entry)


@pytest.fixture
def half(sink: EventLogSink) -> _Half:
    return _Half(sink)


def test_what_others_own_is_waited_for_until_it_is_written(half: _Half) -> None:
    assert not half.end.is_reached()
    half.wrote(9)
    assert not half.end.is_reached()


def test_what_others_wrote_counts(half: _Half) -> None:
    half.wrote(10)
    assert half.end.is_reached()


def test_messages_that_came_later_do_not_count(half: _Half) -> None:
    assert not half.end.is_reached()
    half.client.ends[place(1)] = 20
    half.wrote(10)
    assert half.end.is_reached()


def test_own_partitions_are_read_to_their_end(half: _Half) -> None:
    half.wrote(10)
    half.client.positions[place(0)] = 9
    assert not half.end.is_reached()


def test_others_that_have_outlived_their_session_are_left_to_their_work(
    half: _Half, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not half.end.is_reached()
    half.assignment.changed = time.monotonic() - 12.1
    assert half.end.is_reached()


def test_a_partition_that_came_over_is_read_first(half: _Half) -> None:
    assert not half.end.is_reached()
    half.client.owned.add(place(1))
    assert not half.end.is_reached()
    half.client.positions[place(1)] = 10
    assert half.end.is_reached()


def test_a_broker_that_does_not_answer_is_no_end(half: _Half, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KafkaTimeoutError

    half.wrote(10)
    with monkeypatch.context() as patch:
        patch.setattr(half.client, "end_offsets", fail)
        assert not half.end.is_reached()
    assert half.end.is_reached()
