from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from consumers.sinks.event_log import RepeatWindow
from qanchor.events.quality import EventChecker
from qanchor.registry.ledger import OffsetRanges
from qanchor.storage.event_log import EventLog, append
from tests.unit.events.files import WORKSPACE, as_table, make_decoder, payment

_ROW = EventChecker(make_decoder()).check(as_table([payment()])).table


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events", WORKSPACE)


def _table(ids: Sequence[str], partition: int = 0, start: int = 0) -> Any:
    table = _ROW.take(pa.array([0] * len(ids), pa.int64()))
    changes = {
        "event_id": pa.array(ids, pa.string()),
        "_partition": pa.array([partition] * len(ids), pa.int32()),
        "_offset": pa.array(range(start, start + len(ids)), pa.int64()),
    }
    for name, column in changes.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _write(engine: Engine, log: EventLog, window: RepeatWindow, ids: Sequence[str], start: int) -> list[str]:
    """One write of partition 0, as the sink does it: the ids that were added."""
    ranges = {0: (start, start + len(ids))}
    fresh = window.select(_table(ids, start=start), ranges)
    append(engine, log, fresh.table, OffsetRanges("g", "t", ranges))
    window.remember(fresh, ranges)
    assert fresh.repeated == len(ids) - fresh.table.num_rows
    added: list[str] = fresh.table["event_id"].to_pylist()
    return added


def test_a_repeat_in_the_batch_and_one_of_an_earlier_batch_are_left_out(
    engine: Engine, log: EventLog
) -> None:
    window = RepeatWindow(engine, log, 100)
    assert _write(engine, log, window, ["a", "b", "a", "c", "b"], 0) == ["a", "b", "c"]
    assert _write(engine, log, window, ["c", "d", "a"], 5) == ["d"]


def test_a_new_owner_knows_what_the_log_holds(engine: Engine, log: EventLog) -> None:
    _write(engine, log, RepeatWindow(engine, log, 100), ["a", "b"], 0)
    heir = RepeatWindow(engine, log, 100)
    assert _write(engine, log, heir, ["b", "c"], 2) == ["c"]


def test_a_partition_that_another_consumer_moved_on_is_read_again(engine: Engine, log: EventLog) -> None:
    ours, theirs = (RepeatWindow(engine, log, 100) for _ in range(2))
    _write(engine, log, ours, ["a"], 0)
    _write(engine, log, theirs, ["b"], 1)
    assert _write(engine, log, ours, ["b", "c"], 2) == ["c"]


def test_events_whose_write_was_refused_are_not_known(engine: Engine, log: EventLog) -> None:
    window = RepeatWindow(engine, log, 100)
    window.select(_table(["a"]), {0: (0, 1)})
    assert _write(engine, log, window, ["a"], 0) == ["a"]


def test_a_window_of_size_zero_passes_everything(engine: Engine, log: EventLog) -> None:
    assert _write(engine, log, RepeatWindow(engine, log, 0), ["a", "a"], 0) == ["a", "a"]


def test_the_same_id_in_another_partition_passes(engine: Engine, log: EventLog) -> None:
    window = RepeatWindow(engine, log, 100)
    _write(engine, log, window, ["a"], 0)
    fresh = window.select(_table(["a"], partition=1), {1: (0, 1)})
    assert fresh.table.num_rows == 1


def test_only_the_newest_offsets_are_read_at_a_takeover(engine: Engine, log: EventLog) -> None:
    _write(engine, log, RepeatWindow(engine, log, 3), ["a", "b", "c", "d"], 0)
    heir = RepeatWindow(engine, log, 3)
    assert _write(engine, log, heir, ["a", "b"], 4) == ["a"]


@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=12), st.integers(1, 9))
def test_every_repeat_of_the_last_ids_is_found_and_nothing_else_is_left_out(
    batches: list[list[int]], size: int
) -> None:
    window = RepeatWindow(None, None, size)  # type: ignore[arg-type]
    known: list[int] = []
    start = 0
    for batch in batches:
        if start == 0:
            window._ends.clear()
        ranges = {0: (start, start + len(batch))}
        fresh = window.select(_table([str(number) for number in batch], start=start), ranges)
        window.remember(fresh, ranges)
        start += len(batch)
        passed = [int(name) for name in fresh.table["event_id"].to_pylist()]
        assert len(set(passed)) == len(passed)
        assert set(passed) | set(known) >= set(batch)
        assert not set(passed) & set(known[-size:])
        known += passed


def test_hashes_of_like_ids_do_not_collide() -> None:
    window = RepeatWindow(None, None, 1)  # type: ignore[arg-type]
    ids = pa.table({"event_id": [f"e{number:07d}" for number in range(300_000)]})
    assert len(np.unique(window._hash(ids))) == 300_000
