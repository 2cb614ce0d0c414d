"""Users to embed again: those with new, late or expired events, and how much these change."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.events.change import history_change
from qanchor.events.history import EventArrays, Int64, load_event_arrays
from qanchor.names import EVENT_TIMESTAMP, N_EVENTS, USER_ID
from qanchor.registry.tables import EmbeddingManifest
from qanchor.site import Site
from qanchor.storage.event_log import LogRows, UserEvents
from qanchor.storage.generations import generation_parts
from qanchor.times import as_utc, column_microseconds, from_microseconds, to_microseconds

# Consumers' clocks may differ, and a file is committed after its rows were stamped.
_OVERLAP: Final = timedelta(seconds=60)
_SECOND_US: Final = 1_000_000


@dataclass(frozen=True)
class Changes:
    """Users whose events have changed, and how much of that each scenario's vectors have not read.

    Args:
        arrays: events of the users, from the earliest window on.
        users: object [users], ascending.
        scores: float64 [scenarios, users], share of the history that is different.
        events: all events of the users.
        ingested_until: last arrival in the log, UTC.
    """

    arrays: EventArrays
    users: NDArray[np.object_]
    scores: NDArray[np.float64]
    events: UserEvents
    ingested_until: datetime


def find_changes(
    site: Site,
    serving: Sequence[EmbeddingManifest],
    moment: datetime,
    rows: LogRows,
    expired: bool = False,
) -> Changes:
    """The users whose histories have changed since the vectors that serve were made.

    Args:
        site: vectors of the scenarios.
        serving: manifest of each scenario; all of snapshots.
        moment: cut-off of new vectors, UTC.
        rows: event log as it is now.
        expired: whether users count who have no new events, but events that have left the window.
    """
    workspace, cutoff = site.workspace, to_microseconds(moment)
    since = min(as_utc(m.ingested_until) for m in serving if m.ingested_until) - _OVERLAP
    window = timedelta(days=workspace.window_days)
    from_ = min(as_utc(m.as_of) for m in serving if m.as_of) if expired else moment
    arrived, ingested_until = rows.arrived(since, moment)
    left = rows.between(from_ - window, moment - window)
    users = np.array(pc.unique(pa.concat_arrays([arrived, left])).sort().to_pylist(), dtype=object)
    events = rows.of_users(users)
    known = [_known(site.home.root / m.path, users) for m in serving]
    oldest = min([int(cutoffs[cutoffs >= 0].min(initial=cutoff)) for cutoffs, _ in known])
    after = from_microseconds(oldest // _SECOND_US * _SECOND_US) - window
    arrays = load_event_arrays(events, workspace, before=moment, after=after)
    histories, cutoffs = arrays.user_rows(users), np.full(len(users), cutoff, np.int64)
    scores = [history_change(arrays, histories, before, cutoffs, read, workspace) for before, read in known]
    return Changes(arrays, users, np.array(scores).reshape(len(serving), len(users)), events, ingested_until)


def _known(folder: Path, users: NDArray[np.object_]) -> tuple[Int64, Int64]:
    """Each user's newest cut-off in a manifest's folder (-1: none), and how many events its vector has read;
    int64 [users]."""
    cutoffs, read = np.full(len(users), -1, np.int64), np.zeros(len(users), np.int64)
    if not len(users):
        return cutoffs, read
    value_set = pa.array(users, pa.string())
    for path in generation_parts(folder):
        table = pq.read_table(path, columns=[USER_ID, EVENT_TIMESTAMP, N_EVENTS], partitioning=None)
        index = pc.index_in(table[USER_ID].combine_chunks(), value_set=value_set)
        member = np.flatnonzero(np.asarray(pc.is_valid(index)))
        user = np.asarray(index.fill_null(-1)).astype(np.int64)[member]
        moments = column_microseconds(table[EVENT_TIMESTAMP])[member]
        events = table[N_EVENTS].to_numpy()[member]
        order = np.argsort(moments, kind="stable")  # the newest of a user is written last
        later = moments[order] >= cutoffs[user[order]]
        rows = user[order][later]
        cutoffs[rows], read[rows] = moments[order][later], events[order][later]
    return cutoffs, read
