"""Histories as of a moment: the event log as sorted arrays, and slices of them by binary search.

One scan loads everything; a history is then three numbers per modality. Nothing here copies an event.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.errors import EventsInvalid
from qanchor.events.quality import EventChecker
from qanchor.events.schema import EventDecoder
from qanchor.names import EVENT_ID, EVENT_TIME, MODALITY, USER_ID
from qanchor.settings import EventSettings
from qanchor.storage.event_log import REUSED_ID_REMEDY, EventSource, time_conditions
from qanchor.storage.sql import Connection, connect_table, literal, quote
from qanchor.times import DAY_US
from qanchor.workspace import ModalitySpec, Workspace

if TYPE_CHECKING:
    import pandas as pd

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class ModalityEvents:
    """One modality's events, sorted by (user, time, event_id).

    Args:
        name: the modality.
        offsets: int64 [users + 1]; user u owns events offsets[u] to offsets[u + 1].
        time: int64 [events], microseconds since the epoch, UTC.
        text: int32 [events], index into EventArrays.texts.
        numbers: float64 [events, numbers], raw values in the order of ModalitySpec.numbers; NaN is missing.
    """

    name: str
    offsets: Int64
    time: Int64
    text: NDArray[np.int32]
    numbers: NDArray[np.float64]


@dataclass(frozen=True)
class EventArrays:
    """All events in memory.

    Args:
        users: object [users], user ids, ascending.
        texts: every distinct rendered text of all modalities.
        modalities: in the order of the workspace.
    """

    users: NDArray[np.object_]
    texts: tuple[str, ...]
    modalities: tuple[ModalityEvents, ...]

    def user_rows(self, user_ids: Sequence[str] | NDArray[np.object_]) -> Int64:
        """Each user's row, int64 [len(user_ids)]; -1 where the user has no event here."""
        users = np.asarray(user_ids, dtype=object)
        if not len(self.users) or not len(users):
            return np.full(len(users), -1, dtype=np.int64)
        rows = np.searchsorted(self.users, users).clip(max=len(self.users) - 1)
        return np.where(self.users[rows] == users, rows, -1).astype(np.int64)

    def last_times(self) -> Int64:
        """The newest event of each user over all modalities, int64 [users], microseconds UTC."""
        newest = np.full(len(self.users), np.iinfo(np.int64).min, dtype=np.int64)
        for events in self.modalities:
            has = np.diff(events.offsets) > 0
            newest[has] = np.maximum(newest[has], events.time[events.offsets[1:][has] - 1])
        return newest


@dataclass(frozen=True)
class HistorySlices:
    """The events of each request: a range of every modality's arrays.

    Args:
        start: int64 [requests, modalities], first event kept.
        stop: int64 [requests, modalities], one past the last event before the cut-off.
        window_events: int64 [requests, modalities], events inside the window before max_events cut them.
        cutoff: int64 [requests], microseconds UTC.
    """

    start: Int64
    stop: Int64
    window_events: Int64
    cutoff: Int64

    def take(self, requests: Int64) -> "HistorySlices":
        """The slices of some requests, in that order."""
        return HistorySlices(
            self.start[requests], self.stop[requests], self.window_events[requests], self.cutoff[requests]
        )


def load_event_arrays(
    log: EventSource,
    workspace: Workspace,
    *,
    before: datetime | None = None,
    after: datetime | None = None,
    users: Sequence[str] | None = None,
) -> EventArrays:
    """Sorted arrays of the log's events, read in one scan.

    Args:
        log: the event log.
        workspace: names the modalities, their texts and numbers.
        before: only events with event_time < before.
        after: only events with event_time >= after.
        users: only these users; None is all.
    """
    with log.connect() as connection:
        return _scan(connection, workspace, before, after, users)


def arrays_from_table(
    table: "pa.Table | pd.DataFrame", workspace: Workspace, *, is_text: bool = False
) -> EventArrays:
    """Sorted arrays of a table of events held in memory, checked as `qanchor-cli events load` checks a file.

    Args:
        table: pyarrow table or pandas DataFrame with user_id, event_time (without a zone: UTC), modality, the
            modalities' fields and, optionally, event_id; an event that is repeated with its id counts once.
        workspace: names the modalities, their texts and numbers.
        is_text: numbers are text that has to be parsed (CSV).

    Raises:
        EventsInvalid: a column is missing, or a row is no valid event or has the event_id of another one; the
            message names the first one.
    """
    checked = _checked(table if isinstance(table, pa.Table) else _from_pandas(table), workspace, is_text)
    with connect_table(_each_id_once(checked)) as connection:
        return _scan(connection, workspace, None, None, None)


def _each_id_once(events: pa.Table) -> pa.Table:
    ids = pc.dictionary_encode(events[EVENT_ID].combine_chunks()).indices.to_numpy()
    _, first, group = np.unique(ids, return_index=True, return_inverse=True)
    if len(first) == events.num_rows:
        return events
    rows = np.flatnonzero(first[group] != np.arange(events.num_rows))
    content = events.select([n for n in events.column_names if not n.startswith("_")])
    later, earlier = content.take(pa.array(rows)), content.take(pa.array(first[group][rows]))
    if not later.equals(earlier):
        other = np.zeros(len(rows), bool)
        for column in content.column_names:
            same = pc.fill_null(pc.equal(later[column], earlier[column]), False)
            both_null = pc.and_(later[column].is_null(), earlier[column].is_null())
            other |= ~np.asarray(pc.or_(same, both_null))
        taken = later[EVENT_ID].filter(pa.array(other))
        raise EventsInvalid(
            f"event_id {taken[0].as_py()!r} is that of several events ({len(taken):,} rows repeat an id)",
            REUSED_ID_REMEDY,
        )
    return events.take(pa.array(np.sort(first)))


def slice_histories(arrays: EventArrays, rows: Int64, cutoffs: Int64, workspace: Workspace) -> HistorySlices:
    """What may be read of each user as of each cut-off.

    Kept are the events strictly before the cut-off, at most `window_days` old, and of those the newest
    `max_events` of each modality.

    Args:
        arrays: the events.
        rows: int64 [requests], user rows; -1 (a user without events) gives empty slices.
        cutoffs: int64 [requests], microseconds UTC.
        workspace: gives the window and max_events.
    """
    window = workspace.window_days * DAY_US
    shape = (len(rows), len(arrays.modalities))
    start, stop = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    in_window = np.zeros(shape, np.int64)
    known = rows >= 0
    user = rows[known]
    for column, events in enumerate(arrays.modalities):
        low, high = events.offsets[user], events.offsets[user + 1]
        end = _first_at_or_after(events.time, low, high, cutoffs[known])
        begin = _first_at_or_after(events.time, low, end, cutoffs[known] - window)
        stop[known, column] = end
        in_window[known, column] = end - begin
        start[known, column] = np.maximum(begin, end - workspace.modalities[events.name].max_events)
    return HistorySlices(start, stop, in_window, cutoffs.astype(np.int64))


def _first_at_or_after(times: Int64, low: Int64, high: Int64, moments: Int64) -> Int64:
    """The first index in each ascending segment [low, high) that is not before the moment."""
    left, right = low.copy(), high.copy()
    while True:
        open_ = np.flatnonzero(left < right)
        if not len(open_):
            return left
        middle = (left[open_] + right[open_]) // 2
        earlier = times[middle] < moments[open_]
        left[open_[earlier]] = middle[earlier] + 1
        right[open_[~earlier]] = middle[~earlier]


def _scan(
    connection: Connection,
    workspace: Workspace,
    before: datetime | None,
    after: datetime | None,
    users: Sequence[str] | None,
) -> EventArrays:
    numbers = list(dict.fromkeys(n for spec in workspace.modalities.values() for n in spec.numbers))
    where = [f"{MODALITY} IN ({', '.join(literal(name) for name in workspace.modalities)})"]
    where += time_conditions(before, after)
    if users is not None:
        connection.register("chosen_users", pa.table({USER_ID: pa.array(list(users), pa.string())}))
        where.append(f"{USER_ID} IN (SELECT {USER_ID} FROM chosen_users)")
    order = " ".join(f"WHEN {literal(name)} THEN {i}" for i, name in enumerate(workspace.modalities))
    texts = " ".join(
        f"WHEN {literal(name)} THEN {_rendered(spec)}" for name, spec in workspace.modalities.items()
    )
    # No field begins with an underscore. DuckDB sorts, and spills to disk where memory does not suffice.
    query = f"""
        SELECT CASE {MODALITY} {order} END AS _kind, {USER_ID} AS _uid, epoch_us({EVENT_TIME}) AS _moment,
            CASE {MODALITY} {texts} END AS _rendered{"".join(f", {quote(n)}" for n in numbers)}
        FROM events WHERE {" AND ".join(where)}
        ORDER BY _kind, _uid, _moment, {EVENT_ID}
    """
    return _assemble(connection.execute(query).to_arrow_table(), workspace, numbers)


def _assemble(table: pa.Table, workspace: Workspace, numbers: Sequence[str]) -> EventArrays:
    kinds = _numpy(table["_kind"])
    moments = _numpy(table["_moment"]).astype(np.int64)
    user_codes, users = _encoded(table["_uid"])
    ranks = np.argsort(users, kind="stable")
    position = np.empty(len(users), np.int64)
    position[ranks] = np.arange(len(users))
    user_codes = position[user_codes]
    text_codes, texts = _encoded(table["_rendered"])
    bounds = np.searchsorted(kinds, np.arange(len(workspace.modalities) + 1))
    columns = {name: _numpy(table[name]).astype(np.float64) for name in numbers}
    modalities = []
    for index, (name, spec) in enumerate(workspace.modalities.items()):
        part = slice(int(bounds[index]), int(bounds[index + 1]))
        offsets = np.searchsorted(user_codes[part], np.arange(len(users) + 1)).astype(np.int64)
        values = [columns[field][part] for field in spec.numbers]
        stacked = np.stack(values, axis=1) if values else np.empty((part.stop - part.start, 0))
        modalities.append(
            ModalityEvents(name, offsets, moments[part], text_codes[part].astype(np.int32), stacked)
        )
    return EventArrays(users[ranks], tuple(texts), tuple(modalities))


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    result: NDArray[Any] = column.to_numpy()
    return result


def _encoded(column: pa.ChunkedArray) -> tuple[Int64, NDArray[np.object_]]:
    """Codes [events] and the distinct values they point to."""
    if not len(column):
        return np.empty(0, np.int64), np.empty(0, object)
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, np.array(encoded.dictionary.to_pylist(), dtype=object)


def _rendered(spec: ModalitySpec) -> str:
    """SQL that fills the modality's template; concat() reads a missing field as an empty text."""
    parts = []
    for words, field, _, _ in Formatter().parse(spec.text):
        parts += [literal(words)] if words else []
        parts += [quote(field)] if field else []
    return f"concat({', '.join(parts)})" if parts else "''"


def _from_pandas(frame: "pd.DataFrame") -> pa.Table:
    if not hasattr(frame, "columns"):
        raise EventsInvalid(
            f"events of type {type(frame).__name__} cannot be read",
            "Pass a path, an Arrow table or a DataFrame.",
        )
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        raise EventsInvalid(
            f"the events' columns mix types: {reason}", "Give each column one type."
        ) from error


def _checked(table: pa.Table, workspace: Workspace, is_text: bool) -> pa.Table:
    """The table's events with the event log's columns; missing ids are derived as on loading."""
    missing = [name for name in (USER_ID, EVENT_TIME, MODALITY) if name not in table.column_names]
    if missing:
        raise EventsInvalid(f"the events have no column {missing[0]!r}", "Add it, or rename yours to it.")
    checker = EventChecker(EventDecoder(workspace, EventSettings()), is_text, assume_utc=True)
    checked = checker.check(table)
    if checked.rejections:
        first, more = checked.rejections[0], len(checked.rejections) - 1
        others = f" (and {more} more rows)" if more else ""
        raise EventsInvalid(
            f"row {first.row} is no valid event: {first.reason}: {first.detail.rstrip('.')}{others}",
            "Fix the rows or leave them out; modalities.yaml says what a row needs.",
        )
    return checked.table
