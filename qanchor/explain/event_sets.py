"""The search for the events with the largest joint effect on a score: sets that grow by one event a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EventEffect:
    """The effect of one event on the raw score.

    Args:
        row: index of the event among the user's events.
        pull: effect estimated by gradient times input.
        effect: measured effect: the raw score with the event less the one without it.
    """

    row: int
    pull: float
    effect: float


@dataclass(frozen=True)
class JointEffect:
    """The effect of a set of events on the raw score.

    Args:
        rows: indices of the events, in the order in which the search added them.
        effect: measured effect: the raw score with the events less the one without them.
    """

    rows: tuple[int, ...]
    effect: float


def candidates(events: Sequence[EventEffect], count: int) -> list[EventEffect]:
    """The events that a search starts from: half the strongest by effect, half by gradient.

    An event without an effect by itself may have one together with others; the gradient shows which.

    Args:
        events: all events, measured.
        count: number of candidates; all events where there are fewer.
    """
    by_effect = sorted(events, key=lambda event: (-abs(event.effect), -abs(event.pull)))
    by_pull = sorted(events, key=lambda event: -abs(event.pull))
    first = by_effect[: count - count // 2]
    rows = {event.row for event in first}
    return [*first, *(event for event in by_pull if event.row not in rows)][:count]


def strongest_together(
    events: Sequence[EventEffect], raw: float, measure: Callable[[Sequence[Int64]], Floats], count: int
) -> JointEffect:
    """The events whose joint deletion changes the score most, by a greedy search in either direction.

    Each step adds the event whose deletion, with those added before, moves the score furthest. Where no event
    moves it, the one with the largest gradient is added: the next step may move it then.

    Args:
        events: candidates with their single effects.
        raw: raw score of the whole history.
        measure: raw scores without each of some sets of rows.
        count: size of the set; all candidates where there are fewer.
    """
    rows = np.array([event.row for event in events], dtype=np.int64)
    pulls = np.array([event.pull for event in events])
    sets = [_GrowingSet(direction, pulls) for direction in (1.0, -1.0)]
    effects = [np.array([event.effect for event in events])] * 2
    for step in range(min(count, len(rows))):
        if step:
            trials = [grown.trials() for grown in sets]
            scores = measure([rows[trial] for some in trials for trial in some])
            effects = np.split(raw - scores, [len(trials[0])])
        for grown, of_trials in zip(sets, effects, strict=True):
            grown.add_strongest(of_trials)
    best = max(sets, key=lambda grown: abs(grown.effect))
    return JointEffect(tuple(rows[best.members].tolist()), best.effect)


class _GrowingSet:
    """A set of candidates that grows in one direction of the score."""

    def __init__(self, direction: float, pulls: Floats) -> None:
        self._direction = direction
        self._pulls = pulls
        self.members: list[int] = []
        self.effect = 0.0

    @property
    def _others(self) -> list[int]:
        return [index for index in range(len(self._pulls)) if index not in self.members]

    def trials(self) -> list[list[int]]:
        """The set with each of the other candidates."""
        return [[*self.members, index] for index in self._others]

    def add_strongest(self, effects: Floats) -> None:
        """Add the candidate that moves the score furthest.

        Args:
            effects: effect of each trial, in their order.
        """
        pulls = self._pulls[self._others]
        best = int(np.lexsort((self._direction * pulls, self._direction * effects))[-1])
        self.members.append(self._others[best])
        self.effect = float(effects[best])
