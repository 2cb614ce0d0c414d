"""100,000 damaged messages: each ends in the event log or in the dead letters, none ends the consumer."""

import asyncio
import json
import random
import threading
from collections import deque
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from consumers.assignment import Assignment
from consumers.event_consumer import ConsumerParts, EventConsumer
from consumers.metrics import ConsumerMetrics
from consumers.sinks.event_log import EventLogSink, RepeatWindow
from consumers.stop_rule import StopRule
from qanchor.progress import Silent
from qanchor.settings import KafkaSettings
from qanchor.storage.event_log import EventLog
from tests.unit.consumers.conftest import KeptLetters
from tests.unit.consumers.fakes import TOPIC, FakeClient, Record, decode, place
from tests.unit.events.files import START, WORKSPACE, make_decoder

_MESSAGES: Final = 100_000
_FROM_HYPOTHESIS: Final = 4_000
_POLL: Final = 5_000
_INSERTED: Final = (
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b'"',
    b"\\",
    b"{",
    b"[",
    b"null",
    b"NaN",
    b"1e999",
    b"\n",
)


def _event(number: int) -> dict[str, Any]:
    event = {"event_id": f"e{number}", "user_id": f"u{number % 97}", "event_time": START.isoformat()}
    if number % 2:
        return {
            **event,
            "modality": "pay",
            "shop": "corner",
            "amount": 5.0,
            "note": "déjà vu",
            "balance": None,
        }
    return {**event, "modality": "visit", "page": "home", "invoice": "i1"}


def _mutate(payload: bytes, dice: random.Random) -> bytes:
    """One to three random changes of a valid message's bytes."""
    changed = bytearray(payload)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        at, end = sorted((dice.randrange(len(changed) + 1), dice.randrange(len(changed) + 1)))
        kind = dice.randrange(6)
        if kind == 0 and changed:
            changed[min(at, len(changed) - 1)] ^= 1 << dice.randrange(8)
        elif kind == 1:
            changed = changed[:at]
        elif kind == 2:
            changed[at:at] = dice.choice(_INSERTED)
        elif kind == 3:
            del changed[at:end]
        elif kind == 4:
            changed[at:at] = changed[at:end]
        else:
            changed[at : at + 4] = dice.randbytes(4)
    return bytes(changed)


_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=4,
)
_FIELDS: Final = st.sampled_from([*_event(0), *_event(1), "unknown"])
_CHANGES: Final = st.lists(
    st.dictionaries(_FIELDS, _JSON, min_size=1, max_size=3) | st.binary(max_size=30),
    min_size=100,
    max_size=100,
)


def _from_hypothesis() -> list[bytes | None]:
    """Valid events with fields exchanged for any JSON, and any bytes; the same in every run."""
    found: list[bytes | None] = [None]

    @settings(
        max_examples=_FROM_HYPOTHESIS // 100,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_CHANGES)
    def collect(changes: list[Any]) -> None:
        for change in changes:
            number = len(found)
            found.append(
                change if isinstance(change, bytes) else json.dumps({**_event(number), **change}).encode()
            )

    collect()
    return found


def _messages() -> list[bytes | None]:
    payloads, dice = _from_hypothesis(), random.Random(20260101)
    while len(payloads) < _MESSAGES:
        payloads.append(_mutate(json.dumps(_event(len(payloads)), ensure_ascii=False).encode(), dice))
    return payloads[:_MESSAGES]


def test_every_damaged_message_is_in_the_log_or_in_the_dead_letters(tmp_path: Path, engine: Engine) -> None:
    log, letters = EventLog(tmp_path / "events", WORKSPACE), KeptLetters()
    # Without the memory of repeats: a mutation may give an event the id of another.
    sink = EventLogSink(engine, log, make_decoder(), letters, "g", TOPIC, 1.0, RepeatWindow(engine, log, 0))
    records = [Record(offset, value) for offset, value in enumerate(_messages())]
    polls = deque([{}, *({place(0): records[i : i + _POLL]} for i in range(0, _MESSAGES, _POLL))])
    client = FakeClient(polls, owned={place(0)}, ends={place(0): _MESSAGES})
    assignment = Assignment(client, engine, "g", TOPIC, decode)
    asyncio.run(assignment.on_partitions_assigned(client.owned))
    parts = ConsumerParts(client, sink, assignment, ConsumerMetrics(), Silent())
    summary = EventConsumer(parts, KafkaSettings(topic=TOPIC), StopRule(at_end=True)).run(threading.Event())

    logged = [offset for file in log.files() for offset in pq.read_table(file)["_offset"].to_pylist()]
    refused = [letter.record.offset for letter in letters]
    assert sorted(logged + refused) == list(range(_MESSAGES))
    assert (summary.events, summary.rejected.total()) == (len(logged), len(refused))
    # It would prove little if nearly all went one way.
    assert min(len(logged), len(refused)) > _MESSAGES // 20
    assert {"not_json", "wrong_type", "missing_field", "no_value", "bad_time"} <= set(summary.rejected)
    for letter in letters:
        assert letter.reason.isidentifier()
        assert letter.detail
