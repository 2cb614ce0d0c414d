"""Users and cut-offs that pairs are about: visible events, past cut-offs, and how far each may look ahead."""

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.errors import NotReady
from qanchor.events.history import EventArrays, ModalityEvents
from qanchor.times import DAY_US
from qanchor.training.useru.answers import rank_within
from qanchor.training.useru.spans import Points
from qanchor.workspace import Workspace


def visible_events(arrays: EventArrays, until: int, exclude_users: AbstractSet[str]) -> EventArrays:
    """The arrays as if the log ended at `until` and never had the excluded users.

    Users and texts without an event before `until` are left out as well, and texts are sorted, so that
    no later event can change a row number, a word or a random draw.

    Args:
        arrays: all events.
        until: end of the visible events, exclusive, microseconds UTC.
        exclude_users: user ids to leave out.
    """
    kept_user = ~np.isin(arrays.users, np.array(sorted(exclude_users), dtype=object))
    keep = [(e.time < until) & np.repeat(kept_user, np.diff(e.offsets)) for e in arrays.modalities]
    counts = [
        np.add.reduceat(np.append(mask, False), e.offsets[:-1]) * (np.diff(e.offsets) > 0)
        for mask, e in zip(keep, arrays.modalities, strict=True)
    ]
    has_events = np.sum(counts, axis=0) > 0 if counts else np.zeros(len(arrays.users), bool)
    used = sorted(
        {
            int(i)
            for e, mask in zip(arrays.modalities, keep, strict=True)
            for i in np.unique(e.text[mask]).tolist()
        },
        key=lambda i: arrays.texts[i],
    )
    renumber = np.full(len(arrays.texts), -1, np.int32)
    renumber[used] = np.arange(len(used), dtype=np.int32)
    modalities = tuple(
        _restricted(e, mask, count[has_events].astype(np.int64), renumber)
        for e, mask, count in zip(arrays.modalities, keep, counts, strict=True)
    )
    return EventArrays(arrays.users[has_events], tuple(arrays.texts[i] for i in used), modalities)


def _restricted(
    events: ModalityEvents, mask: NDArray[np.bool_], counts: NDArray[np.int64], renumber: NDArray[np.int32]
) -> ModalityEvents:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    text = renumber[events.text[mask]]
    return ModalityEvents(events.name, offsets, events.time[mask], text, events.numbers[mask])


@dataclass(frozen=True)
class PointPlan:
    """Limits of the cut-offs.

    Args:
        until: end of the visible events, microseconds UTC; no span reaches past it.
        shortest_days: days between the last cut-off and `until`, at least.
        step_days: days between a user's cut-offs.
        most_per_user: number of cut-offs per user, drawn at random; None: all.
    """

    until: int
    shortest_days: int
    step_days: int
    most_per_user: int | None = None


def first_day(visible: EventArrays, until: int) -> int:
    """The midnight before the first event, microseconds UTC.

    Raises:
        NotReady: the events before `until` span less than two days; load more, or choose a later `until`.
    """
    starts = [int(e.time.min()) for e in visible.modalities if len(e.time)]
    if not starts or until - min(starts) < 2 * DAY_US:
        raise NotReady(
            "the events before the pre-training end span less than two days",
            "Load more events, or give a later --until.",
        )
    return min(starts) // DAY_US * DAY_US


def fitting_horizons(horizons: Collection[int], workspace: Workspace, span_days: int) -> tuple[int, ...]:
    """Horizons, with those of the scenarios, that leave as many days to look back on; ascending."""
    candidates = {*horizons, *(spec.horizon_days for spec in workspace.scenarios.values())}
    fitting = tuple(sorted(days for days in candidates if days <= span_days // 2))
    return fitting or (max(1, span_days // 2),)


def choose_points(visible: EventArrays, first: int, plan: PointPlan, rng: np.random.Generator) -> Points:
    """Cut-offs at midnight, from a random day per user, where the user has a past; in random order.

    Args:
        visible: visible events; only each user's first moment is read.
        first: result of `first_day`.
        plan: limits of the cut-offs.
        rng: random stream of the users' days and of the order.
    """
    last = (plan.until - plan.shortest_days * DAY_US) // DAY_US * DAY_US
    steps = max(1, (last - first) // (plan.step_days * DAY_US))
    users = len(visible.users)
    shift = rng.integers(0, plan.step_days, users)
    rows = np.repeat(np.arange(users), steps)
    back = np.tile(np.arange(steps), users) * plan.step_days + shift[rows]
    cutoffs = last - back * DAY_US
    first_event = np.full(users, plan.until, np.int64)
    for events in visible.modalities:
        has = np.diff(events.offsets) > 0
        first_event[has] = np.minimum(first_event[has], events.time[events.offsets[:-1][has]])
    kept = rng.permutation(np.flatnonzero((cutoffs > first) & (cutoffs > first_event[rows])))
    if plan.most_per_user is not None:
        order = kept[np.argsort(rows[kept], kind="stable")]
        kept = kept[np.isin(kept, order[rank_within(rows[order]) < plan.most_per_user])]
    return Points(rows[kept].astype(np.int64), cutoffs[kept].astype(np.int64))


def held_last(
    points: Points, users: int, share: float, cell: int, rng: np.random.Generator
) -> tuple[Points, int]:
    """The points with those of held-out users last, and the number of training points: whole cells.

    Args:
        points: points of all users.
        users: number of users.
        share: share of the users who are held out.
        cell: points in a cell.
        rng: random stream of the held-out users.
    """
    held = (rng.random(users) < share)[points.rows]
    training, checking = np.flatnonzero(~held), np.flatnonzero(held)
    if len(training) >= cell:
        training = training[: len(training) // cell * cell]
    return points.take(np.concatenate([training, checking])), len(training)
