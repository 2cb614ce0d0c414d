import asyncio
import threading
from collections import deque
from typing import Any

import pytest
from kafka.errors import KafkaConnectionError, OffsetOutOfRangeError

from consumers.assignment import Assignment
from consumers.event_consumer import ConsumerParts, EventConsumer
from consumers.health import Health
from consumers.metrics import ConsumerMetrics
from consumers.sinks.event_log import EventLogSink
from consumers.stop_rule import StopRule
from consumers.summary import ConsumeSummary
from qanchor.errors import EventsInvalid, NotReady
from qanchor.progress import Silent
from qanchor.registry.ledger import LedgerEntry, OffsetRanges, commit_entry, next_offsets
from qanchor.settings import KafkaSettings
from tests.unit.consumers.fakes import TOPIC, FakeClient, Record, decode, place, records


class _Stop(threading.Event):
    """Remembers how long it was waited for, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        return self.is_set()


def _run(
    sink: EventLogSink, polls: list[Any], stop: threading.Event | None = None, **settings: Any
) -> tuple[ConsumeSummary, FakeClient]:
    client = FakeClient(deque(polls), owned={place(0)})
    batches = [batch for poll in polls if isinstance(poll, dict) for batch in poll.values()]
    client.ends = {place(0): max([10, *(batch[-1].offset + 1 for batch in batches)])}
    assignment = Assignment(client, sink.engine, "g", TOPIC, decode)
    asyncio.run(assignment.on_partitions_assigned(client.owned))
    client.polls.appendleft({})
    parts = ConsumerParts(client, sink, assignment, ConsumerMetrics(), Silent(), Health(sink.engine, 300))
    consumer = EventConsumer(parts, KafkaSettings(topic=TOPIC, **settings), StopRule(at_end=True))
    return consumer.run(stop or threading.Event()), client


def test_everything_up_to_the_end_is_written_and_counted(sink: EventLogSink) -> None:
    summary, client = _run(sink, [{place(0): records(0, 4)}, {place(0): records(4, 10)}])
    assert (summary.events, summary.lag) == (10, {0: 0})
    assert next_offsets(sink.engine, "g", TOPIC) == {0: 10}
    assert client.committed[-1][place(0)].offset == 10


def test_a_full_buffer_is_written_at_once(sink: EventLogSink) -> None:
    polls = [{place(0): records(i, i + 2)} for i in range(0, 10, 2)]
    summary, client = _run(sink, polls, flush_events=2, flush_seconds=600)
    assert summary.events == 10
    assert summary.writes > 1
    assert client.held == set()


def test_a_failed_poll_is_tried_again_after_a_wait_that_a_stop_would_end(sink: EventLogSink) -> None:
    stop = _Stop()
    broken = [KafkaConnectionError("gone"), KafkaConnectionError("gone"), ConnectionResetError()]
    summary, _ = _run(sink, [*broken, {place(0): records(0, 10)}], stop)
    assert summary.events == 10
    assert stop.waits == [0.1, 0.2, 0.4]


def test_a_stop_leaves_on_the_topic_what_would_take_too_long(
    sink: EventLogSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.event_consumer._FIRST_RATE", 5.0)
    stop = threading.Event()

    def read_and_stop(_: FakeClient) -> Any:
        stop.set()
        return {place(0): records(0, 10)}

    summary, _ = _run(sink, [read_and_stop], stop, flush_seconds=600)
    assert (summary.events, next_offsets(sink.engine, "g", TOPIC)) == (0, {})


def test_events_deleted_unread_end_the_run_with_a_way_out(sink: EventLogSink) -> None:
    def deleted(client: FakeClient) -> Any:
        client.begins = {place(0): 9}
        raise OffsetOutOfRangeError({place(0): 3})

    with pytest.raises(NotReady, match="--skip-deleted"):
        _run(sink, [deleted])


def test_a_refused_write_is_read_again_from_the_ledger(sink: EventLogSink) -> None:
    def overtaken(_: FakeClient) -> Any:
        commit_entry(sink.engine, LedgerEntry(offsets=OffsetRanges("g", TOPIC, {0: (0, 6)})))
        return {place(0): records(0, 5)}

    def once_sought(client: FakeClient) -> Any:
        if client.sought[-1] == (0, 6):
            return {place(0): records(6, 10)}
        client.polls.append(once_sought)
        return {}

    summary, client = _run(sink, [overtaken, once_sought], flush_events=1)
    assert (summary.fenced, summary.events) == (1, 4)
    assert client.sought[-1] == (0, 6)
    assert next_offsets(sink.engine, "g", TOPIC) == {0: 10}


class _SlowWrites:
    """Holds the first write up until it is released, so that the next batch is full before it is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = threading.Event()
        real = EventLogSink.write

        def write(*arguments: Any) -> Any:
            assert self.release.wait(10)
            return real(*arguments)

        monkeypatch.setattr(EventLogSink, "write", write)


def _unless_held(client: FakeClient, batch: dict[Any, list[Record]], tries: list[int]) -> Any:
    """As a broker: partitions that are paused give nothing."""

    def again(client: FakeClient) -> Any:
        return _unless_held(client, batch, tries)

    tries[0] += 1
    assert tries[0] < 100, "the partitions are held back for good"
    if client.held or not client.sought:
        client.polls.append(again)
        return {}
    return batch


def test_partitions_held_back_are_read_on_after_a_refused_write(
    sink: EventLogSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, tries = _SlowWrites(monkeypatch), [0]

    def overtaken(client: FakeClient) -> Any:
        assert client.held == {place(0)}
        commit_entry(sink.engine, LedgerEntry(offsets=OffsetRanges("g", TOPIC, {0: (0, 8)})))
        client.sought.clear()  # until the refused write has led to another seek, nothing comes
        writes.release.set()
        return {}

    polls = [
        {place(0): records(0, 5)},
        {place(0): records(5, 7)},
        overtaken,
        lambda client: _unless_held(client, {place(0): records(8, 10)}, tries),
    ]
    summary, client = _run(sink, polls, flush_events=1)
    assert (summary.fenced, summary.events) == (1, 2)
    assert client.held == set()
    assert next_offsets(sink.engine, "g", TOPIC) == {0: 10}


def test_partitions_held_back_are_read_on_after_another_one_was_revoked(
    sink: EventLogSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, tries = _SlowWrites(monkeypatch), [0]
    listeners: list[Assignment] = []
    real = Assignment.take

    def take(assignment: Assignment, polled: Any) -> int:
        listeners.append(assignment)
        return real(assignment, polled)

    monkeypatch.setattr(Assignment, "take", take)

    def revoked(client: FakeClient) -> Any:
        assert client.held
        asyncio.run(listeners[0].on_partitions_revoked({place(1)}))
        client.owned.discard(place(1))
        writes.release.set()
        return {}

    def assigned(client: FakeClient) -> Any:
        client.owned.add(place(1))
        asyncio.run(listeners[0].on_partitions_assigned({place(1)}))
        return {}

    polls = [
        assigned,
        {place(0): records(0, 5)},
        {place(1): records(0, 3, partition=1)},
        revoked,
        lambda client: _unless_held(client, {place(0): records(5, 10)}, tries),
    ]
    summary, client = _run(sink, polls, flush_events=1)
    assert summary.events == 10
    assert client.held == set()


def test_an_error_of_the_sink_ends_the_run(sink: EventLogSink) -> None:
    with pytest.raises(EventsInvalid):
        _run(sink, [{place(0): [Record(i, b"{") for i in range(200)]}])
