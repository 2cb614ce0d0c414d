"""Rolling aggregates and the newest profile of users as of a moment, by one DuckDB query each.

An event at the moment itself or later is never read. A window of W days is [as_of - W days, as_of).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from qanchor import names
from qanchor.aggregates import Aggregate, activity_aggregates
from qanchor.storage.event_log import EventSource
from qanchor.storage.sql import Connection, literal, quote
from qanchor.times import DAY_US, TIMESTAMP
from qanchor.workspace import Workspace


def activity_table(log: EventSource, workspace: Workspace, requests: pa.Table) -> pa.Table:
    """Counts, sums and days since the last event, for each request.

    Args:
        log: the event log.
        workspace: names the columns.
        requests: user_id and as_of (UTC where it has no zone); a user may come many times.

    Returns:
        One row for each request in its order: user_id, event_timestamp and created (both as_of), then
        workspace.activity_columns as float64. Counts and sums are 0.0 without events; the days since
        the last event, however long ago, are null for a user who never had one.
    """
    columns = [f"{sql} AS {quote(name)}" for name, sql in _columns(workspace).items()]
    aggregates = [f"{_sql(aggregate)} AS {aggregate.name}" for aggregate in activity_aggregates(True)]
    with _connected(log, requests) as connection:
        features = connection.execute(
            # Requests meet their user's events once, and are counted modality by modality: a row passes the
            # filters of its modality alone. Ages are whole microseconds: arithmetic on times with a zone goes
            # through a calendar, ten times slower.
            f"""
            WITH aged AS (
                SELECT r.request, e.modality, {_amount(workspace)} AS amount,
                    epoch_us(r.as_of) - epoch_us(e.event_time) AS age_us
                FROM requests r JOIN events e ON e.user_id = r.user_id AND e.event_time < r.as_of
            ), counted AS (
                SELECT request, modality, {", ".join(aggregates)}
                FROM aged GROUP BY request, modality
            )
            SELECT {", ".join(columns)} FROM requests r LEFT JOIN counted USING (request)
            GROUP BY r.request ORDER BY r.request
            """
        ).to_arrow_table()
    return _with_keys(requests, features)


def _sql(aggregate: Aggregate) -> str:
    """An aggregate of the events of one request and modality."""
    if aggregate.days is None:
        return f"min(age_us) / {DAY_US}.0"
    inside = f"FILTER (WHERE age_us <= {aggregate.days * DAY_US})"
    return f"(count(*) {inside})::DOUBLE" if aggregate.kind == "count" else f"sum(amount) {inside}"


def _amount(workspace: Workspace) -> str:
    """The amount of an event, in the column that its modality has it in."""
    amounts = " ".join(
        f"WHEN {literal(modality)} THEN e.{quote(spec.amount)}"
        for modality, spec in workspace.modalities.items()
        if spec.amount
    )
    return f"CASE e.modality {amounts} END" if amounts else "NULL::DOUBLE"


def _columns(workspace: Workspace) -> dict[str, str]:
    """The view's columns from the counts of all modalities of one request."""
    sql: dict[str, str] = {}
    for modality, spec in workspace.modalities.items():
        here = f"FILTER (WHERE modality = {literal(modality)})"
        for aggregate in activity_aggregates(has_amount=spec.amount is not None):
            value = f"max({aggregate.name}) {here}"
            sql[aggregate.column(modality)] = value if aggregate.days is None else f"coalesce({value}, 0.0)"
    return sql


def profile_table(log: EventSource, workspace: Workspace, requests: pa.Table) -> pa.Table:
    """The newest profile event before each request.

    Args:
        log: the event log.
        workspace: names the profile's modality and columns.
        requests: user_id and as_of (UTC where it has no zone).

    Returns:
        One row for each request in its order: user_id, event_timestamp and created (both as_of), then
        workspace.profile_columns, null for a user without a profile. Without a profile modality there
        are no more columns than the keys.
    """
    if workspace.profile_modality is None:
        return _with_keys(requests, pa.table({}))
    columns = [
        f"e.{quote(name.removeprefix('prof_'))} AS {quote(name)}" for name in workspace.profile_columns
    ]
    with _connected(log, requests) as connection:
        profiles = connection.execute(
            f"""
            WITH profiles AS (
                SELECT {", ".join(columns)}, r.request
                FROM requests r JOIN events e ON e.user_id = r.user_id AND e.event_time < r.as_of
                WHERE e.modality = {literal(workspace.profile_modality)}
                QUALIFY 1 = row_number() OVER (
                    PARTITION BY r.request ORDER BY e.event_time DESC, e.event_id DESC
                )
            )
            SELECT {", ".join(map(quote, workspace.profile_columns))}
            FROM requests r LEFT JOIN profiles p USING (request)
            ORDER BY r.request
            """
        ).to_arrow_table()
    return _with_keys(requests, profiles)


@contextmanager
def _connected(log: EventSource, requests: pa.Table) -> Iterator[Connection]:
    table = pa.table(
        {
            names.USER_ID: requests[names.USER_ID].cast(pa.string()),
            names.AS_OF: requests[names.AS_OF].cast(TIMESTAMP, safe=False),
            "request": pa.array(range(len(requests)), pa.int64()),
        }
    )
    with log.connect() as connection:
        connection.register("requested", table)
        # Of a registered table DuckDB does not know the size, and chooses joins as if it were tiny.
        connection.execute("CREATE TEMP TABLE requests AS SELECT * FROM requested")
        yield connection


def _with_keys(requests: pa.Table, features: pa.Table) -> pa.Table:
    as_of = requests[names.AS_OF].cast(TIMESTAMP, safe=False)
    keys = {
        names.USER_ID: requests[names.USER_ID].cast(pa.string()),
        names.EVENT_TIMESTAMP: as_of,
        names.CREATED: as_of,
    }
    return pa.table({**keys, **{name: features[name] for name in features.column_names}})
