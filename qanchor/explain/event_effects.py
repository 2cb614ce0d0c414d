"""The effect of each of a user's events on the score: estimated by gradient, measured by deletion.

A booster has no gradient. Its raw score is therefore sampled between the user's vector and other users'
vectors, with the user's aggregates; a linear fit to the samples gives the direction in which the score rises.
Gradient times input along it estimates the effect of each event. Each event is then left out of the history,
the vector, the aggregates and the profile are computed again by the code that computes them for real users,
and the head scores the result.

Effects of single events do not add up: similar events replace each other, and a booster is constant between
its thresholds. The events with the largest joint effect are therefore searched for by leaving out sets of
those that are strongest by effect and by gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.events.activity import activity_table, profile_table
from qanchor.events.history import load_event_arrays
from qanchor.explain.event_sets import EventEffect, JointEffect, candidates, strongest_together
from qanchor.heads.score import LoadedHead
from qanchor.metrics import ROUNDING
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.saliency import event_saliency
from qanchor.model.space import narrowed
from qanchor.names import AS_OF, EVENT_ID, EVENT_TIME, MODALITY, USER_ID, embedding_field
from qanchor.storage.event_log import EventSource
from qanchor.storage.sql import Connection, connect_table
from qanchor.times import TIMESTAMP, to_microseconds
from qanchor.workspace import Workspace

Int64 = NDArray[np.int64]
Floats = NDArray[np.float64]
# Fractions of the way to another user's vector at which the score is sampled.
_STEPS = (0.05, 0.15, 0.3)


@dataclass(frozen=True)
class ExplainOptions:
    """The effort of one explanation.

    Args:
        candidates: number of events in the search for the largest joint effect.
        others: number of other users' vectors towards which the score is sampled.
        ridge: strength of the linear fit's regularisation.
        together: number of events with the largest joint effect to name.
    """

    candidates: int = 24
    others: int = 128
    ridge: float = 1e-2
    together: int = 5


@dataclass(frozen=True)
class Explainer:
    """The parts of an explanation, loaded once for many users.

    Args:
        head: head whose score is explained.
        embedder: embedder of the head's vectors.
        query: query of the head's scenario.
        workspace: schema of the columns.
        others: vectors of other users, (vectors, dim).
        options: effort.
    """

    head: LoadedHead
    embedder: UserEmbedder
    query: Query
    workspace: Workspace
    others: NDArray[np.float32]
    options: ExplainOptions = ExplainOptions()


@dataclass(frozen=True)
class EventEffects:
    """The effects of a user's events on the score.

    Args:
        raw: raw score of the whole history.
        events: events that the vector reads, by measured effect, from the largest rise to the largest fall.
        together: events with the largest joint effect.
    """

    raw: float
    events: tuple[EventEffect, ...]
    together: JointEffect

    @property
    def raised(self) -> tuple[EventEffect, ...]:
        """Events without which the score would be lower, the strongest first."""
        return tuple(event for event in self.events if event.effect > ROUNDING)

    @property
    def lowered(self) -> tuple[EventEffect, ...]:
        """Events without which the score would be higher, the strongest first."""
        return tuple(event for event in reversed(self.events) if event.effect < -ROUNDING)


def event_effects(explainer: Explainer, events: pa.Table, cutoff: datetime) -> EventEffects:
    """The effect of each event on a user's score, and the events with the largest joint effect.

    Args:
        explainer: head, model and query; the head reads vectors.
        events: the user's events before the cut-off, as `read_events` sorts them.
        cutoff: as-of time, UTC.
    """
    whole = [np.empty(0, np.int64)]
    matrix = explainer.head.card.spec.matrix(_features(explainer, events, cutoff, whole))
    direction = score_direction(explainer, matrix[0])
    arrays = load_event_arrays(EditedLog(events, whole), explainer.workspace)
    saliency = event_saliency(
        explainer.embedder.loaded, arrays, 0, to_microseconds(cutoff), explainer.query, direction
    )
    begins = np.concatenate(([0], np.cumsum([len(part.time) for part in arrays.modalities])))
    rows = begins[saliency.modality] + saliency.row

    def measure(left_out: Sequence[Int64]) -> Floats:
        return raw_scores(explainer, events, cutoff, left_out)

    base, *without = measure([*whole, *rows[:, None]]).tolist()
    effects = [
        EventEffect(int(row), float(pull), base - raw)
        for row, pull, raw in zip(rows, saliency.pull, without, strict=True)
    ]
    options = explainer.options
    searched = candidates(effects, max(options.candidates, options.together))
    together = strongest_together(searched, base, measure, options.together)
    return EventEffects(base, tuple(sorted(effects, key=lambda event: -event.effect)), together)


def raw_scores(explainer: Explainer, events: pa.Table, cutoff: datetime, left_out: Sequence[Int64]) -> Floats:
    """The head's raw score of a user with some events left out, (copies,).

    Args:
        explainer: head, model and query.
        events: the user's events before the cut-off.
        cutoff: as-of time, UTC.
        left_out: rows to leave out, for each copy of the history.
    """
    return explainer.head.raw(_features(explainer, events, cutoff, left_out))


def _features(
    explainer: Explainer, events: pa.Table, cutoff: datetime, left_out: Sequence[Int64]
) -> pa.Table:
    """The features of every copy as of the cut-off, named as in a training frame."""
    log, spec = EditedLog(events, left_out), explainer.head.card.spec
    requests = pa.table(
        {USER_ID: pa.array(log.users, pa.string()), AS_OF: pa.array([cutoff] * len(left_out), TIMESTAMP)}
    )
    table = pa.table({USER_ID: requests[USER_ID]})
    if spec.width:
        arrays = load_event_arrays(log, explainer.workspace)
        rows = arrays.user_rows(log.users)
        cutoffs = np.full(len(rows), to_microseconds(cutoff), np.int64)
        whole = explainer.embedder.embed(arrays, rows, cutoffs, [explainer.query])[0]
        vectors = narrowed(whole, spec.width)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        table = table.append_column(embedding_field(spec.scenario), column)
    for compute in (activity_table, profile_table) if spec.numbers or spec.categories else ():
        aggregates = compute(log, explainer.workspace, requests)
        for name in aggregates.column_names:
            if name in spec.numbers or name in spec.categories:
                table = table.append_column(name, aggregates[name])
    return table


def score_direction(explainer: Explainer, row: NDArray[np.float32]) -> Floats:
    """The direction in the embedding space in which a user's raw score rises, by ridge regression.

    Args:
        explainer: head and other users' vectors.
        row: the user's row of the head's matrix, (features,).

    Returns:
        Raw score per unit of the vector, (dim,).
    """
    width = explainer.head.card.width
    vector = row[:width].astype(np.float64)
    towards = explainer.others[: explainer.options.others].astype(np.float64) - vector
    sampled = np.concatenate([vector + step * towards for step in _STEPS])
    sampled /= np.linalg.norm(sampled, axis=1, keepdims=True)
    samples = np.repeat(row[None], len(sampled), axis=0)
    samples[:, :width] = sampled
    raw = explainer.head.boosters.raw(np.concatenate([row[None], samples]))
    steps, rises = sampled - vector, raw[1:] - raw[0]
    gram = steps.T @ steps
    gram[np.diag_indices(width)] += explainer.options.ridge * np.trace(gram) / width
    direction: Floats = np.linalg.solve(gram, steps.T @ rises)
    return direction


def read_events(log: EventSource, workspace: Workspace, users: Sequence[str], before: datetime) -> pa.Table:
    """The events of some users before a moment, in the order of `EventArrays`.

    Args:
        log: the event log.
        workspace: names the modalities.
        users: user ids.
        before: cut-off, with a zone.

    Returns:
        Every column of the log, by user, modality in the order of the workspace, time and event_id.
    """
    with log.connect() as connection:
        connection.register("requested", pa.table({USER_ID: pa.array(list(users), pa.string())}))
        query = (
            f"SELECT * FROM events WHERE {USER_ID} IN (SELECT {USER_ID} FROM requested) "
            f"AND {EVENT_TIME} < $before"
        )
        table = connection.execute(query, {"before": before}).to_arrow_table()
    kind = pc.index_in(table[MODALITY], pa.array(list(workspace.modalities)))
    table = table.append_column("_kind", kind).filter(pc.is_valid(kind))
    order = [(name, "ascending") for name in (USER_ID, "_kind", EVENT_TIME, EVENT_ID)]
    return table.sort_by(order).drop_columns("_kind")


class EditedLog:
    """An event log with copies of one user's history, each as a user with other events left out.

    Args:
        events: the user's events, as `read_events` sorts them.
        left_out: rows to leave out, for each copy.
    """

    def __init__(self, events: pa.Table, left_out: Sequence[Int64]) -> None:
        self._events = events
        self._left_out = left_out
        # Names that sort by number, as EventArrays sorts its users.
        self.users = [f"{number:06d}" for number in range(len(left_out))]

    def connect(self) -> Connection:
        """A DuckDB connection in UTC with the copies as view `events`."""
        return connect_table(self._copies())

    def _copies(self) -> pa.Table:
        rows = np.arange(self._events.num_rows)
        kept = [np.setdiff1d(rows, some, assume_unique=True) for some in self._left_out]
        names = pa.array(np.repeat(self.users, [len(some) for some in kept]).tolist(), pa.string())
        table = self._events.take(pa.array(np.concatenate([rows[:0], *kept])))
        return table.set_column(table.column_names.index(USER_ID), USER_ID, names)
