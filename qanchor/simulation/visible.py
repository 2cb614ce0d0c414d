"""What a policy may see of simulated users: events before a moment, and what the models make of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.events.activity import activity_table, profile_table
from qanchor.events.history import arrays_from_table, microseconds
from qanchor.heads.score import LoadedHead
from qanchor.model.nested import narrowed
from qanchor.names import AS_OF, EVENT_ID, EVENT_TIME, USER_ID, embedding_field
from qanchor.simulation.state import Floats
from qanchor.workspace import Workspace

if TYPE_CHECKING:
    import duckdb

    from qanchor.embedding.shard import Embedder

NEVER_DAYS = 1e6
# Scenarios whose heads the policies read: who falls behind, who leaves, who logs in.
SCENARIOS = ("money", "active", "login")


@dataclass(frozen=True)
class Reader:
    """What turns events into scores.

    Args:
        heads: of SCENARIOS, in their order.
        embedder: the model.
        queries: query of each head's scenario.
        workspace: modalities and columns.
    """

    heads: Sequence[LoadedHead]
    embedder: "Embedder"
    queries: Sequence[Any]
    workspace: Workspace


@dataclass(frozen=True)
class Visible:
    """Users as a policy sees them at a moment; nothing at or after it plays a part.

    Args:
        features: the matrix of the first head: embedding, aggregates, profile; float32 (users, features).
        scores: of the heads, in (0, 1), float64 (users, SCENARIOS).
        since_late_fee: days since the last late fee, NEVER_DAYS where there was none, (users,).
        since_salary: the same for salaries, (users,).
        balance: the account's at the newest event that shows it, NaN where none does, (users,).
    """

    features: NDArray[np.float32]
    scores: Floats
    since_late_fee: Floats
    since_salary: Floats
    balance: Floats


class _Memory:
    """Events in memory as a source for DuckDB; of a repeated id one row counts."""

    def __init__(self, events: pa.Table) -> None:
        ids = pa.table({EVENT_ID: events[EVENT_ID], "row": pa.array(np.arange(events.num_rows))})
        first = ids.group_by(EVENT_ID).aggregate([("row", "min")])["row_min"]
        self._events = events.take(first.sort())

    @property
    def table(self) -> pa.Table:
        """The events, each once."""
        return self._events

    def connect(self) -> "duckdb.DuckDBPyConnection":
        """A connection in UTC with the view `events`."""
        import duckdb

        connection = duckdb.connect(config={"threads": 1})
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("given", self._events)
        connection.execute("CREATE TEMP VIEW events AS SELECT * FROM given")
        return connection


def look(reader: Reader, events: pa.Table, users: Sequence[str], moment: datetime) -> Visible:
    """Users as they may be seen at a moment.

    Args:
        reader: heads and model.
        events: the users' events; those at or after the moment are not read.
        users: ids.
        moment: UTC.
    """
    before = pa.scalar(moment, pa.timestamp("us", tz="UTC"))
    memory = _Memory(events.filter(pc.less(events[EVENT_TIME], before)))
    times = pa.array([moment] * len(users), pa.timestamp("us", tz="UTC"))
    requests = pa.table({USER_ID: pa.array(list(users), pa.string()), AS_OF: times})
    return Visible(*_scores(reader, memory, requests), *_signs(memory, requests))


def _scores(reader: Reader, memory: _Memory, requests: pa.Table) -> tuple[NDArray[np.float32], Floats]:
    """The first head's matrix and all heads' scores, by the code that computes features for everybody."""
    moment: datetime = requests[AS_OF][0].as_py()
    # A history reaches no further back; sorting and checking what lies before it would take most of the time.
    oldest = pa.scalar(moment - timedelta(days=reader.workspace.window_days), pa.timestamp("us", tz="UTC"))
    recent = memory.table.filter(pc.greater_equal(memory.table[EVENT_TIME], oldest))
    arrays = arrays_from_table(recent, reader.workspace)
    rows = arrays.user_rows(requests[USER_ID].to_pylist())
    cutoffs = np.full(len(rows), microseconds(moment), np.int64)
    vectors = reader.embedder.embed(arrays, rows, cutoffs, reader.queries)
    features = activity_table(memory, reader.workspace, requests)
    profile = profile_table(memory, reader.workspace, requests)
    for name in reader.workspace.profile_columns:
        features = features.append_column(name, profile[name])
    tables = []
    for head, whole in zip(reader.heads, vectors, strict=True):
        found = narrowed(whole, head.card.width or whole.shape[1])
        column = pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), found.shape[1])
        tables.append(features.append_column(embedding_field(head.card.scenario), column))
    scores = [head.score(table) for head, table in zip(reader.heads, tables, strict=True)]
    return reader.heads[0].card.spec.matrix(tables[0]), np.stack(scores, axis=1)


def _signs(memory: _Memory, requests: pa.Table) -> tuple[Floats, Floats, Floats]:
    """What a rule of thumb goes by: days since a late fee, days since a salary, balance."""
    age = f"epoch_us(r.{AS_OF}) - epoch_us(e.{EVENT_TIME})"
    with memory.connect() as connection:
        wanted = requests.append_column("request", pa.array(range(requests.num_rows)))
        connection.register("given_requests", wanted)
        connection.execute("CREATE TEMP TABLE requests AS SELECT * FROM given_requests")
        found = connection.execute(
            f"""
            SELECT
                min({age}) FILTER (e.merchant LIKE '% Late Fee') AS late_fee,
                min({age}) FILTER (e.direction = 'receives' AND e.category = 'income') AS salary,
                arg_max(e.balance, e.{EVENT_TIME}) FILTER (e.balance IS NOT NULL) AS balance
            FROM requests r LEFT JOIN events e ON e.{USER_ID} = r.{USER_ID} AND e.{EVENT_TIME} < r.{AS_OF}
            GROUP BY r.request ORDER BY r.request
            """
        ).to_arrow_table()
    since = [_days(found[name]) for name in ("late_fee", "salary")]
    balance = found["balance"].cast(pa.float64()).to_numpy()
    return since[0], since[1], balance.astype(np.float64)


def _days(column: pa.ChunkedArray) -> Floats:
    micros = column.cast(pa.float64()).to_numpy()
    return np.where(np.isnan(micros), NEVER_DAYS, micros / 86_400_000_000)
