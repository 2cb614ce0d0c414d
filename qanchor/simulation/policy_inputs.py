"""What a policy may read of simulated users: events before a moment, and the heads' scores on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.events.activity import activity_table, profile_table
from qanchor.events.history import arrays_from_table
from qanchor.heads.score import LoadedHead
from qanchor.model.space import narrowed
from qanchor.names import AS_OF, EVENT_ID, EVENT_TIME, USER_ID, embedding_field
from qanchor.simulation.state import Floats
from qanchor.storage.sql import Connection, connect_table
from qanchor.times import DAY_US, TIMESTAMP, to_microseconds
from qanchor.workspace import Workspace

if TYPE_CHECKING:
    from qanchor.embedding.shard import Embedder

NEVER_DAYS = 1e6
# Scenarios whose heads the policies read: late fees, leaving users, log-ins.
SCENARIOS = ("money", "active", "login")


@dataclass(frozen=True)
class Scorer:
    """Model and heads that turn events into scores.

    Args:
        heads: heads of SCENARIOS, in their order.
        embedder: the model.
        queries: encoded query of each head's scenario.
        workspace: modalities and columns.
    """

    heads: Sequence[LoadedHead]
    embedder: "Embedder"
    queries: Sequence[Any]
    workspace: Workspace


@dataclass(frozen=True)
class PolicyInputs:
    """Users as a policy sees them at a moment; no event at or after it is read.

    Args:
        features: matrix of the first head: embedding, aggregates, profile; float32 (users, features).
        scores: scores of the heads, in (0, 1), float64 (users, SCENARIOS).
        since_late_fee: days since the last late fee, NEVER_DAYS without one, (users,).
        since_salary: days since the last salary, NEVER_DAYS without one, (users,).
        balance: balance at the newest event that has one, NaN without one, (users,).
    """

    features: NDArray[np.float32]
    scores: Floats
    since_late_fee: Floats
    since_salary: Floats
    balance: Floats


class _EventTable:
    """Events in memory as a source for DuckDB; of a repeated id the first row counts."""

    def __init__(self, events: pa.Table) -> None:
        ids = pa.table({EVENT_ID: events[EVENT_ID], "row": pa.array(np.arange(events.num_rows))})
        first = ids.group_by(EVENT_ID).aggregate([("row", "min")])["row_min"]
        self.table = events.take(first.sort())

    def connect(self) -> Connection:
        """A connection with the view `events`."""
        return connect_table(self.table, threads=1)


def read_inputs(scorer: Scorer, events: pa.Table, users: Sequence[str], moment: datetime) -> PolicyInputs:
    """The inputs of policies at a moment.

    Args:
        scorer: heads and model.
        events: the users' events; those at or after the moment are not read.
        users: user ids.
        moment: moment of the decision, UTC.
    """
    source = _EventTable(events.filter(pc.less(events[EVENT_TIME], pa.scalar(moment, TIMESTAMP))))
    times = pa.array([moment] * len(users), TIMESTAMP)
    requests = pa.table({USER_ID: pa.array(list(users), pa.string()), AS_OF: times})
    return PolicyInputs(*_scores(scorer, source, requests), *_indicators(source, requests))


def _scores(scorer: Scorer, source: _EventTable, requests: pa.Table) -> tuple[NDArray[np.float32], Floats]:
    """The first head's matrix and all heads' scores, by the code that computes every user's features."""
    moment: datetime = requests[AS_OF][0].as_py()
    # A history reaches no further back; sorting and checking older events would take most of the time.
    oldest = pa.scalar(moment - timedelta(days=scorer.workspace.window_days), TIMESTAMP)
    recent = source.table.filter(pc.greater_equal(source.table[EVENT_TIME], oldest))
    arrays = arrays_from_table(recent, scorer.workspace)
    rows = arrays.user_rows(requests[USER_ID].to_pylist())
    cutoffs = np.full(len(rows), to_microseconds(moment), np.int64)
    vectors = scorer.embedder.embed(arrays, rows, cutoffs, scorer.queries)
    features = activity_table(source, scorer.workspace, requests)
    profile = profile_table(source, scorer.workspace, requests)
    for name in scorer.workspace.profile_columns:
        features = features.append_column(name, profile[name])
    tables = []
    for head, whole in zip(scorer.heads, vectors, strict=True):
        vector = narrowed(whole, head.card.width or whole.shape[1])
        column = pa.FixedSizeListArray.from_arrays(pa.array(vector.ravel()), vector.shape[1])
        tables.append(features.append_column(embedding_field(head.card.scenario), column))
    scores = [head.score(table) for head, table in zip(scorer.heads, tables, strict=True)]
    return scorer.heads[0].card.spec.matrix(tables[0]), np.stack(scores, axis=1)


def _indicators(source: _EventTable, requests: pa.Table) -> tuple[Floats, Floats, Floats]:
    """The figures of a rule of thumb: days since a late fee, days since a salary, balance."""
    age = f"epoch_us(r.{AS_OF}) - epoch_us(e.{EVENT_TIME})"
    with source.connect() as connection:
        numbered = requests.append_column("request", pa.array(range(requests.num_rows)))
        connection.register("numbered_requests", numbered)
        connection.execute("CREATE TEMP TABLE requests AS SELECT * FROM numbered_requests")
        result = connection.execute(
            f"""
            SELECT
                min({age}) FILTER (e.merchant LIKE '% Late Fee') AS late_fee,
                min({age}) FILTER (e.direction = 'receives' AND e.category = 'income') AS salary,
                arg_max(e.balance, e.{EVENT_TIME}) FILTER (e.balance IS NOT NULL) AS balance
            FROM requests r LEFT JOIN events e ON e.{USER_ID} = r.{USER_ID} AND e.{EVENT_TIME} < r.{AS_OF}
            GROUP BY r.request ORDER BY r.request
            """
        ).to_arrow_table()
    since = [_days(result[name]) for name in ("late_fee", "salary")]
    balance = result["balance"].cast(pa.float64()).to_numpy()
    return since[0], since[1], balance.astype(np.float64)


def _days(column: pa.ChunkedArray) -> Floats:
    micros = column.cast(pa.float64()).to_numpy()
    return np.where(np.isnan(micros), NEVER_DAYS, micros / DAY_US)
