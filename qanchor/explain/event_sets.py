"""Which events move a score most together: sets of them are left out, one larger than the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MovedScore:
    """What one event did.

    Args:
        row: of the user's events.
        pull: estimated by gradient times input, raw score.
        effect: measured: raw score with the event less the one without it.
    """

    row: int
    pull: float
    effect: float


@dataclass(frozen=True)
class MovedTogether:
    """What a set of events did.

    Args:
        rows: of the user's events, in the order in which they were found.
        effect: measured: raw score with the events less the one without them; 0 where no set moved it.
    """

    rows: tuple[int, ...]
    effect: float


def candidates(events: Sequence[MovedScore], count: int) -> list[MovedScore]:
    """The events that a search begins with: half the strongest by effect, half those by gradient.

    An event without an effect of its own may have one beside others, and the gradient knows which.

    Args:
        events: every event, measured.
        count: how many; all where there are fewer.
    """
    by_effect = sorted(events, key=lambda event: (-abs(event.effect), -abs(event.pull)))
    by_pull = sorted(events, key=lambda event: -abs(event.pull))
    first = by_effect[: count - count // 2]
    rows = {event.row for event in first}
    return [*first, *(event for event in by_pull if event.row not in rows)][:count]


def strongest_together(
    events: Sequence[MovedScore], raw: float, measure: Callable[[Sequence[Int64]], Floats], count: int
) -> MovedTogether:
    """The events whose loss moves the score furthest, found one by one on either side.

    At each step the event joins whose loss moves the score furthest beside those found before. Where none
    moves it, the one that pulls hardest joins: the next one may move it then.

    Args:
        events: the candidates, with their single effects.
        raw: score of the whole history.
        measure: scores without each of some sets of rows.
        count: events to name; all candidates where there are fewer.
    """
    rows = np.array([event.row for event in events], dtype=np.int64)
    pulls = np.array([event.pull for event in events])
    grown = [_Grown(side, pulls) for side in (1.0, -1.0)]
    effects = [np.array([event.effect for event in events])] * 2
    for step in range(min(count, len(rows))):
        if step:
            trials = [one.trials() for one in grown]
            scores = measure([rows[trial] for side in trials for trial in side])
            effects = np.split(raw - scores, [len(trials[0])])
        for one, found in zip(grown, effects, strict=True):
            one.take(found)
    best = max(grown, key=lambda one: abs(one.effect))
    return MovedTogether(tuple(rows[best.members].tolist()), best.effect)


class _Grown:
    """A set of candidates that grows towards one side."""

    def __init__(self, side: float, pulls: Floats) -> None:
        self._side = side
        self._pulls = pulls
        self.members: list[int] = []
        self.effect = 0.0

    @property
    def _open(self) -> list[int]:
        return [place for place in range(len(self._pulls)) if place not in self.members]

    def trials(self) -> list[list[int]]:
        """The set with each of the other candidates."""
        return [[*self.members, place] for place in self._open]

    def take(self, effects: Floats) -> None:
        """Let the candidate join that moves the score furthest.

        Args:
            effects: of the trials, in their order.
        """
        pulls = self._pulls[self._open]
        best = int(np.lexsort((self._side * pulls, self._side * effects))[-1])
        self.members.append(self._open[best])
        self.effect = float(effects[best])
