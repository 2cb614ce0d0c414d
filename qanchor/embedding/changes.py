"""Who has to be embedded again: users with new, late or expired events, and how much that changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.events.change import history_change
from qanchor.events.history import EventArrays, Int64, load_event_arrays, microseconds
from qanchor.names import EVENT_TIMESTAMP, N_EVENTS, USER_ID
from qanchor.registry.tables import EmbeddingManifest
from qanchor.site import Site
from qanchor.storage.editions import edition_parts
from qanchor.storage.event_log import LogRows, UserEvents

# Consumers' clocks may differ, and a file is committed after its rows were stamped.
_OVERLAP: Final = timedelta(seconds=60)


@dataclass(frozen=True)
class Changes:
    """Users that something happened to, and what the scenarios' vectors know of them.

    Args:
        arrays: their events.
        users: object [users], ascending.
        scores: float64 [scenarios, users], how much of the history is different.
        events: all of their events.
        ingested_until: the last arrival in the log, UTC.
    """

    arrays: EventArrays
    users: NDArray[np.object_]
    scores: NDArray[np.float64]
    events: UserEvents
    ingested_until: datetime


def find_changes(
    serving: Sequence[EmbeddingManifest],
    moment: datetime,
    rows: LogRows,
    site: Site,
    expired: bool = False,
) -> Changes:
    """The users whose histories have changed since the vectors that serve were made.

    Args:
        serving: of each scenario; all of snapshots.
        moment: the cut-off of new vectors, UTC.
        rows: of the event log as it is now.
        site: where the vectors lie.
        expired: whether users count of whom nothing is new, but events have left the window.
    """
    workspace = site.features.workspace
    since = min(m.ingested_until.replace(tzinfo=UTC) for m in serving if m.ingested_until) - _OVERLAP
    window = timedelta(days=workspace.window_days)
    from_ = min(m.as_of.replace(tzinfo=UTC) for m in serving if m.as_of) if expired else moment
    arrived, ingested_until = rows.arrived(since, moment)
    left = rows.between(from_ - window, moment - window)
    users = np.array(pc.unique(pa.concat_arrays([arrived, left])).sort().to_pylist(), dtype=object)
    events = rows.of_users(users)
    known = [_known(site.home.root / m.path, users) for m in serving]
    oldest = min([int(cutoffs[cutoffs >= 0].min(initial=microseconds(moment))) for cutoffs, _ in known])
    after = datetime.fromtimestamp(oldest // 1_000_000, tz=UTC) - window
    arrays = load_event_arrays(events, workspace, before=moment, after=after)
    places = arrays.user_rows(users)
    cutoffs = np.full(len(users), microseconds(moment), np.int64)
    scores = [history_change(arrays, places, before, cutoffs, read, workspace) for before, read in known]
    return Changes(arrays, users, np.array(scores).reshape(len(serving), len(users)), events, ingested_until)


def _known(folder: Path, users: NDArray[np.object_]) -> tuple[Int64, Int64]:
    """Each user's newest cut-off in a manifest's folder and what it has read; int64 [users], -1 where
    none."""
    cutoffs, read = np.full(len(users), -1, np.int64), np.zeros(len(users), np.int64)
    if not len(users):
        return cutoffs, read
    wanted = pa.array(users, pa.string())
    for path in edition_parts(folder):
        table = pq.read_table(path, columns=[USER_ID, EVENT_TIMESTAMP, N_EVENTS], partitioning=None)
        position = pc.index_in(table[USER_ID].combine_chunks(), value_set=wanted)
        there = np.flatnonzero(np.asarray(pc.is_valid(position)))
        place_of = np.asarray(position.fill_null(-1)).astype(np.int64)[there]
        moments = np.asarray(table[EVENT_TIMESTAMP].cast(pa.int64())).astype(np.int64)[there]
        events = table[N_EVENTS].to_numpy()[there]
        order = np.argsort(moments, kind="stable")  # the newest of a user is written last
        later = moments[order] >= cutoffs[place_of[order]]
        rows = place_of[order][later]
        cutoffs[rows], read[rows] = moments[order][later], events[order][later]
    return cutoffs, read
