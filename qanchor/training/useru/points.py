"""Whom and when pairs are about: users at past cut-offs, and how far each may look."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from qanchor.errors import NotReady
from qanchor.events.history import EventArrays
from qanchor.training.useru.answers import rank_within
from qanchor.training.useru.spans import DAY, Points
from qanchor.workspace import Workspace


@dataclass(frozen=True)
class PointPlan:
    """Where cut-offs may lie.

    Args:
        until: microseconds UTC; every point can look ahead some days and stays before it.
        shortest_days: what each point can look ahead at least.
        step_days: days between a user's cut-offs.
        most_per_user: cut-offs of a user that are kept, by chance; None: all.
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
    if not starts or until - min(starts) < 2 * DAY:
        raise NotReady(
            "the events before the pre-training end span less than two days",
            "Load more events, or give a later --until.",
        )
    return min(starts) // DAY * DAY


def fitting_horizons(wanted: Collection[int], workspace: Workspace, span_days: int) -> tuple[int, ...]:
    """Horizons, the scenarios' among them, that leave at least as many days to look back on, ascending."""
    asked = {*wanted, *(spec.horizon_days for spec in workspace.scenarios.values())}
    fitting = tuple(sorted(days for days in asked if days <= span_days // 2))
    return fitting or (max(1, span_days // 2),)


def choose_points(visible: EventArrays, first: int, plan: PointPlan, rng: np.random.Generator) -> Points:
    """Cut-offs at midnight from a day of each user's own, where the user has a past, in random order.

    Args:
        visible: the events; nothing of them but each user's first moment is read.
        first: from `first_day`.
        plan: where cut-offs may lie.
        rng: of the users' own days and of the order.
    """
    last = (plan.until - plan.shortest_days * DAY) // DAY * DAY
    steps = max(1, (last - first) // (plan.step_days * DAY))
    users = len(visible.users)
    shift = rng.integers(0, plan.step_days, users)
    rows = np.repeat(np.arange(users), steps)
    back = np.tile(np.arange(steps), users) * plan.step_days + shift[rows]
    cutoffs = last - back * DAY
    seen = np.full(users, plan.until, np.int64)
    for events in visible.modalities:
        has = np.diff(events.offsets) > 0
        seen[has] = np.minimum(seen[has], events.time[events.offsets[:-1][has]])
    kept = rng.permutation(np.flatnonzero((cutoffs > first) & (cutoffs > seen[rows])))
    if plan.most_per_user is not None:
        order = kept[np.argsort(rows[kept], kind="stable")]
        kept = kept[np.isin(kept, order[rank_within(rows[order]) < plan.most_per_user])]
    return Points(rows[kept].astype(np.int64), cutoffs[kept].astype(np.int64))


def held_last(
    points: Points, users: int, share: float, cell: int, rng: np.random.Generator
) -> tuple[Points, int]:
    """The points with those of held-out users at the end, and how many are for training: whole cells.

    Args:
        points: of all users.
        users: how many there are.
        share: of the users who are held out.
        cell: points in a cell.
        rng: draws the users.
    """
    held = (rng.random(users) < share)[points.rows]
    training, checking = np.flatnonzero(~held), np.flatnonzero(held)
    if len(training) >= cell:
        training = training[: len(training) // cell * cell]
    return points.take(np.concatenate([training, checking])), len(training)
