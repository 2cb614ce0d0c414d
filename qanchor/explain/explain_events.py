"""Which events of a user moved the score most: named by gradient, measured by leaving them out.

A booster has no gradient. Its raw score is therefore sampled around the user's vector, on the way to other
users' vectors and with the user's own aggregates; a plane through the samples gives the direction in which
the score rises. Gradient times input along it says how each event pulls. Each event is then left out of the
history, the vector, the aggregates and the profile are computed again, and the head says what changed.

Effects of single events do not add up: events that tell the same story stand in for each other, and a booster
is flat between its thresholds. So which events move the score most together is searched for by leaving out
sets of those that are the strongest by effect and by gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.events.activity import activity_table, profile_table
from qanchor.events.history import load_event_arrays, microseconds
from qanchor.explain.edited_log import EditedLog, Int64
from qanchor.explain.event_sets import MovedScore, MovedTogether, candidates, strongest_together
from qanchor.heads.score import LoadedHead
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.saliency import event_saliency
from qanchor.model.space import narrowed
from qanchor.names import AS_OF, USER_ID, embedding_field
from qanchor.workspace import Workspace

Floats = NDArray[np.float64]
_STEPS = (0.05, 0.15, 0.3)


@dataclass(frozen=True)
class ExplainOptions:
    """How much work one explanation is.

    Args:
        candidates: events among which those are searched that move the score most together.
        others: vectors on the way to which the score is sampled.
        ridge: pulls the plane through the samples to flat.
        together: events that are named for what they do together.
    """

    candidates: int = 24
    others: int = 128
    ridge: float = 1e-2
    together: int = 5


@dataclass(frozen=True)
class Explainer:
    """What an explanation needs, loaded once for many users.

    Args:
        head: whose score is explained.
        embedder: of the model that the head's vectors come from.
        query: text and soft prompt of the head's scenario.
        workspace: names the columns.
        others: vectors of other users, (vectors, dim).
        options: how much work.
    """

    head: LoadedHead
    embedder: UserEmbedder
    query: Query
    workspace: Workspace
    others: NDArray[np.float32]
    options: ExplainOptions = ExplainOptions()


@dataclass(frozen=True)
class EventExplanation:
    """What moved one user's score.

    Args:
        raw: raw score of the whole history.
        events: those that the vector reads, by measured effect from the largest rise to the largest fall.
        together: those that move the score most together, as many as were asked for.
    """

    raw: float
    events: tuple[MovedScore, ...]
    together: MovedTogether

    @property
    def readable(self) -> Int64:
        """Rows of the events that the vector reads, ascending."""
        return np.sort(np.array([event.row for event in self.events], dtype=np.int64))

    @property
    def raised(self) -> tuple[MovedScore, ...]:
        """Events without which the score would be lower, the strongest first."""
        return tuple(event for event in self.events if event.effect > 0)

    @property
    def lowered(self) -> tuple[MovedScore, ...]:
        """Events without which the score would be higher, the strongest first."""
        return tuple(event for event in reversed(self.events) if event.effect < 0)


def raw_scores(explainer: Explainer, events: pa.Table, cutoff: datetime, left_out: Sequence[Int64]) -> Floats:
    """The head's raw score of a user with some events left out, (copies,).

    Args:
        explainer: head, model and query.
        events: of the user before the cut-off.
        cutoff: UTC.
        left_out: for each copy the rows that it lacks.
    """
    return explainer.head.raw(_features(explainer, events, cutoff, left_out))


def _features(
    explainer: Explainer, events: pa.Table, cutoff: datetime, left_out: Sequence[Int64]
) -> pa.Table:
    """The features of every copy as of the cut-off, named as in a training frame."""
    log, spec = EditedLog(events, left_out), explainer.head.card.spec
    moments = pa.array([cutoff] * len(left_out), pa.timestamp("us", tz="UTC"))
    requests = pa.table({USER_ID: pa.array(log.users, pa.string()), AS_OF: moments})
    table = pa.table({USER_ID: requests[USER_ID]})
    if spec.width:
        arrays = load_event_arrays(log, explainer.workspace)
        rows = arrays.user_rows(log.users)
        cutoffs = np.full(len(rows), microseconds(cutoff), np.int64)
        whole = explainer.embedder.embed(arrays, rows, cutoffs, [explainer.query])[0]
        vectors = narrowed(whole, spec.width)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        table = table.append_column(embedding_field(spec.scenario), column)
    for compute in (activity_table, profile_table) if spec.numbers or spec.categories else ():
        found = compute(log, explainer.workspace, requests)
        for name in found.column_names:
            if name in spec.numbers or name in spec.categories:
                table = table.append_column(name, found[name])
    return table


def explain_events(explainer: Explainer, events: pa.Table, cutoff: datetime) -> EventExplanation:
    """The events that moved a user's score.

    Args:
        explainer: head, model and query; the head reads vectors.
        events: of the user before the cut-off, as `read_events` sorts them.
        cutoff: UTC.
    """
    whole = _features(explainer, events, cutoff, [np.empty(0, np.int64)])
    matrix = explainer.head.card.spec.matrix(whole)
    direction = score_direction(explainer, matrix[0])
    arrays = load_event_arrays(EditedLog(events, [np.empty(0, np.int64)]), explainer.workspace)
    found = event_saliency(
        explainer.embedder.loaded, arrays, (0, microseconds(cutoff)), explainer.query, direction
    )
    begins = np.concatenate(([0], np.cumsum([len(part.time) for part in arrays.modalities])))
    rows = begins[found.modality] + found.place

    def measure(left_out: Sequence[Int64]) -> Floats:
        return raw_scores(explainer, events, cutoff, left_out)

    base, *without = measure([np.empty(0, np.int64), *rows[:, None]]).tolist()
    moved = [
        MovedScore(int(row), float(pull), base - raw)
        for row, pull, raw in zip(rows, found.pull, without, strict=True)
    ]
    options = explainer.options
    searched = candidates(moved, max(options.candidates, options.together))
    together = strongest_together(searched, base, measure, options.together)
    return EventExplanation(base, tuple(sorted(moved, key=lambda event: -event.effect)), together)


def score_direction(explainer: Explainer, row: NDArray[np.float32]) -> Floats:
    """The direction in the embedding space in which a user's raw score rises, by a plane through samples.

    Args:
        explainer: head and other users' vectors.
        row: of the head's matrix, (features,).

    Returns:
        Raw score per unit of the vector, (dim,).
    """
    width = explainer.head.card.width
    here = row[:width].astype(np.float64)
    towards = explainer.others[: explainer.options.others].astype(np.float64) - here
    moved = np.concatenate([here + step * towards for step in _STEPS])
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    samples = np.repeat(row[None], len(moved), axis=0)
    samples[:, :width] = moved
    raw = explainer.head.boosters.raw(np.concatenate([row[None], samples]))
    steps, rises = moved - here, raw[1:] - raw[0]
    gram = steps.T @ steps
    gram[np.diag_indices(width)] += explainer.options.ridge * np.trace(gram) / width
    direction: Floats = np.linalg.solve(gram, steps.T @ rises)
    return direction
