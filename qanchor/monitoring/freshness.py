"""How old vectors and scores in service are, and how many users have one."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.monitoring.checks import Check, at_least, at_most, unknown
from qanchor.monitoring.published import MOMENT_OF
from qanchor.names import CREATED, EVENT_TIME, USER_ID
from qanchor.registry.tables import EmbeddingManifest
from qanchor.storage.event_log import EventLog
from qanchor.storage.generations import CurrentVectors
from qanchor.times import TIMESTAMP
from qanchor.workspace import ScenarioSpec

_DAY_SECONDS = 86_400


def active_users(log: EventLog, at: datetime, window_days: int) -> pa.Array:
    """The users with an event in the window before a moment, string [users].

    Reads two columns of the files of those days alone, and looks for no repeats: an event that stands there
    twice makes nobody more active.

    Args:
        log: the event log.
        at: end of the window, UTC; excluded.
        window_days: its length.
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
        found = connection.execute(query, {"begin": begin, "end": at}).to_arrow_table()
    return found[USER_ID].combine_chunks()


def embedding_freshness(
    manifest: EmbeddingManifest,
    current: CurrentVectors,
    active: pa.Array,
    asked: tuple[ScenarioSpec, datetime],
) -> list[Check]:
    """Age of the vectors in service, and the share of active users with a fresh one.

    Args:
        manifest: that serves.
        current: its newest vector of every user.
        active: users with recent events.
        asked: the scenario, and the moment that it is judged at.
    """
    (spec, at), limits = asked, asked[0].monitor
    if not len(current):
        reason = "no vector is in service"
        return [unknown(name, reason) for name in ("embedding_age_days", "embedding_coverage")]
    until = manifest.as_of.replace(tzinfo=UTC) if manifest.as_of else current.as_of
    age = at_most(
        "embedding_age_days",
        _days(at - until),
        limits.max_embedding_age_days or spec.ttl_days,
        f"users are known up to {until:%Y-%m-%d %H:%M}",
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
    """The users whose vector may still be served, string [users]."""
    oldest = int((at - timedelta(days=spec.ttl_days)).timestamp() * 1e6)
    return current.users.take(pa.array(np.flatnonzero(current.moments >= oldest)))


def score_freshness(scores: pa.Table, fresh: pa.Array, asked: tuple[ScenarioSpec, datetime]) -> list[Check]:
    """Age of the newest scores, and the share of users with a fresh vector that have a fresh one.

    Args:
        scores: the champion's newest of every user.
        fresh: users with a fresh vector.
        asked: the scenario, and the moment that it is judged at.
    """
    (spec, at), limits = asked, asked[0].monitor
    if not len(scores):
        reason = "the champion has published no score; `qanchor-cli head score --publish` does"
        return [unknown(name, reason) for name in ("score_age_days", "score_coverage")]
    made: datetime = pc.max(scores[CREATED]).as_py()
    age = at_most(
        "score_age_days",
        _days(at - made),
        limits.max_score_age_days or spec.ttl_days,
        f"scored last on {made:%Y-%m-%d %H:%M}",
    )
    if not len(fresh):
        return [age, unknown("score_coverage", "no user has a fresh vector")]
    oldest = pa.scalar(at - timedelta(days=spec.ttl_days), TIMESTAMP)
    scored = scores.filter(pc.greater_equal(scores[MOMENT_OF], oldest))[USER_ID].combine_chunks()
    share = pc.sum(pc.is_in(fresh, value_set=scored)).as_py() / len(fresh)
    note = f"of {len(fresh):,} users with a fresh vector"
    return [age, at_least("score_coverage", share, limits.min_score_coverage, note)]


def _days(age: timedelta) -> float:
    return max(0.0, age.total_seconds() / _DAY_SECONDS)
