"""The age of vectors and scores in service, and the share of users that have one."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.monitoring.checks import Check, at_least, at_most, unknown
from qanchor.names import CREATED, EVENT_TIME, EVENT_TIMESTAMP, USER_ID
from qanchor.registry.tables import EmbeddingManifest
from qanchor.storage.event_log import EventLog
from qanchor.storage.generations import CurrentVectors
from qanchor.times import DAY_SECONDS, TIMESTAMP, as_utc, to_microseconds
from qanchor.workspace import ScenarioSpec


def active_users(log: EventLog, at: datetime, window_days: int) -> pa.Array:
    """The users with an event in the window before a moment, string [users].

    Reads two columns of the files of those days alone, repeated events included: they make nobody more
    active.

    Args:
        log: the event log.
        at: end of the window, UTC; excluded.
        window_days: length of the window, days.
    """
    begin = at - timedelta(days=window_days)
    days = [(begin + timedelta(days=day)).date().isoformat() for day in range(window_days + 1)]
    files = [path for day in days for path in log.files_of(day)]
    with log.open_duckdb() as connection:
        query = (
            f"SELECT DISTINCT {USER_ID} FROM ({log.stored_rows(connection, files)}) "
            f"WHERE {EVENT_TIME} >= $begin AND {EVENT_TIME} < $end AND {USER_ID} IS NOT NULL "
            f"ORDER BY {USER_ID}"
        )
        table = connection.execute(query, {"begin": begin, "end": at}).to_arrow_table()
    return table[USER_ID].combine_chunks()


def embedding_freshness(
    manifest: EmbeddingManifest, current: CurrentVectors, active: pa.Array, spec: ScenarioSpec, at: datetime
) -> list[Check]:
    """Age of the vectors in service, and the share of active users with a fresh one.

    Args:
        manifest: manifest in service.
        current: newest vector of every user.
        active: users with recent events.
        spec: the scenario.
        at: time of the check, UTC.
    """
    limits = spec.monitor
    if not len(current):
        reason = "no vector is in service"
        return [unknown(name, reason) for name in ("embedding_age_days", "embedding_coverage")]
    until = as_utc(manifest.as_of) if manifest.as_of else current.as_of
    age = at_most(
        "embedding_age_days",
        _days(at - until),
        limits.max_embedding_age_days or spec.ttl_days,
        f"as-of time {until:%Y-%m-%d %H:%M}",
    )
    if not len(active):
        return [age, unknown("embedding_coverage", "no user was active within the window")]
    covered = pc.is_in(active, value_set=fresh_users(current, spec, at))
    coverage = at_least(
        "embedding_coverage",
        pc.sum(covered).as_py() / len(active),
        limits.min_embedding_coverage,
        f"of {len(active):,} active users",
    )
    return [age, coverage]


def fresh_users(current: CurrentVectors, spec: ScenarioSpec, at: datetime) -> pa.Array:
    """The users whose vector is no older than the scenario's time to live, string [users]."""
    oldest = to_microseconds(at - timedelta(days=spec.ttl_days))
    return current.users.take(pa.array(np.flatnonzero(current.moments >= oldest)))


def score_freshness(scores: pa.Table, fresh: pa.Array, spec: ScenarioSpec, at: datetime) -> list[Check]:
    """Age of the newest scores, and the share of users with a fresh vector that have a fresh one.

    Args:
        scores: the champion's newest score of every user.
        fresh: users with a fresh vector.
        spec: the scenario.
        at: time of the check, UTC.
    """
    limits = spec.monitor
    if not len(scores):
        reason = "the champion has published no score; run `qanchor-cli head score --publish`"
        return [unknown(name, reason) for name in ("score_age_days", "score_coverage")]
    created: datetime = pc.max(scores[CREATED]).as_py()
    age = at_most(
        "score_age_days",
        _days(at - created),
        limits.max_score_age_days or spec.ttl_days,
        f"last scored on {created:%Y-%m-%d %H:%M}",
    )
    if not len(fresh):
        return [age, unknown("score_coverage", "no user has a fresh vector")]
    oldest = pa.scalar(at - timedelta(days=spec.ttl_days), TIMESTAMP)
    scored = scores.filter(pc.greater_equal(scores[EVENT_TIMESTAMP], oldest))[USER_ID].combine_chunks()
    share = pc.sum(pc.is_in(fresh, value_set=scored)).as_py() / len(fresh)
    note = f"of {len(fresh):,} users with a fresh vector"
    return [age, at_least("score_coverage", share, limits.min_score_coverage, note)]


def _days(age: timedelta) -> float:
    return max(0.0, age.total_seconds() / DAY_SECONDS)
