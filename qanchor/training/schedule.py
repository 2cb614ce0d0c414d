"""How many steps a run makes: as many as were asked for, or as many as fill a time.

A run that has to fill a time is planned by a trial and planned again on the way, because a machine does other
work, too: where it has slowed down, the rest of the schedule is made in fewer steps, and the learning rate
goes on from where it was. What was settled is kept with the run's state, so that a resumed run makes the
same steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

FEWEST_STEPS: Final = 20
# Shares of the schedule after which the rest is planned again. The first is early: a trial of a few steps
# says little about the next minutes.
_TURNS: Final = (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95)


@dataclass(frozen=True)
class Pace:
    """Where in its schedule a run is at each step.

    Args:
        steps: that the schedule was laid out for.
        last: steps of the whole run, as planned now.
        turned: the step at which it was planned last.
        place: how far the schedule was then, in its own steps.
    """

    steps: int
    last: int
    turned: int = 0
    place: float = 0.0

    def at(self, step: int) -> float:
        """The place in the schedule at a step, from 0 to `steps`."""
        if not self.turned:
            return step
        done = (step - self.turned) / (self.last - self.turned)
        return self.place + (self.steps - self.place) * done

    def next_turn(self) -> int:
        """The step before which the rest is planned again; `last` where that is not done any more."""
        due = (share * self.steps for share in _TURNS)
        for place in (place for place in due if place > self.place):
            for step in range(self.turned + 1, self.last):
                if self.at(step) >= place:
                    return step
        return self.last

    def turned_at(self, step: int, last: int) -> "Pace":
        """The rest of the schedule in the steps from here to `last`, which lies after `step`."""
        return Pace(self.steps, last, step, self.at(step))


def steps_that_fit(seconds: float, trial: Sequence[float]) -> int:
    """Steps that a time suffices for.

    Args:
        seconds: there are.
        trial: seconds of some steps, one after the other, what is prepared for them included.
    """
    return max(FEWEST_STEPS, int(seconds / max(median(trial), 1e-6)))


def last_step(step: int, seconds_left: float, seconds_each: float) -> int:
    """How many steps the whole run makes.

    Args:
        step: those that are made.
        seconds_left: of the time to fill; below 0 where it is over.
        seconds_each: of a step, lately.
    """
    more = int(seconds_left / max(seconds_each, 1e-6))
    return max(FEWEST_STEPS, step + 1, step + more)


def warm_up_cosine(step: float, steps: int, warm_up: int, floor: float = 0.02) -> float:
    """Share of the peak learning rate at a step: a line up, then half a cosine down.

    Args:
        step: from 0 to steps - 1; may lie between two.
        steps: of the whole run.
        warm_up: steps of the line.
        floor: the share at the end.
    """
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
