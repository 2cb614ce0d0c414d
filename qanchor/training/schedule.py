"""The schedule of a run: how many steps it makes, and the learning rate at each.

A run that has to fill a time is planned by a trial and planned again on the way, because a machine does other
work, too: where it has slowed down, the rest of the schedule is made in fewer steps, and the learning rate
continues from where it was. The plan is kept with the run's state: a resumed run makes the same steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

FEWEST_STEPS: Final = 20
# Shares of the schedule after which the rest is planned again. The first is early: a trial of a few steps
# says little about the next minutes.
# Share of the peak learning rate at the end.
_FLOOR: Final = 0.02
_REPLAN_AT: Final = (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95)


@dataclass(frozen=True)
class Pace:
    """Where in its schedule a run is at each step.

    Args:
        steps: steps of the schedule as it was planned first.
        last: steps of the whole run, as planned now.
        replanned_at: the step at which it was planned last.
        position: how far the schedule was then, in its own steps.
    """

    steps: int
    last: int
    replanned_at: int = 0
    position: float = 0.0

    def at(self, step: int) -> float:
        """The position in the schedule at a step, from 0 to `steps`."""
        if not self.replanned_at:
            return step
        done = (step - self.replanned_at) / (self.last - self.replanned_at)
        return self.position + (self.steps - self.position) * done

    def next_replan(self) -> int:
        """The step before which the rest is planned again; `last` where that is not done any more."""
        due = (share * self.steps for share in _REPLAN_AT)
        for position in (position for position in due if position > self.position):
            for step in range(self.replanned_at + 1, self.last):
                if self.at(step) >= position:
                    return step
        return self.last

    def replanned(self, step: int, last: int) -> "Pace":
        """The rest of the schedule in the steps from `step` to `last`, which is greater."""
        return Pace(self.steps, last, step, self.at(step))

    def to_json(self) -> dict[str, float]:
        """For the state of an unfinished run, under the names of its first format."""
        return {"steps": self.steps, "last": self.last, "turned": self.replanned_at, "place": self.position}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Pace":
        """The pace that `to_json` wrote."""
        return cls(content["steps"], content["last"], content["turned"], content["place"])


def steps_that_fit(seconds: float, trial: Sequence[float]) -> int:
    """Steps that a time suffices for.

    Args:
        seconds: the time.
        trial: seconds of some consecutive steps, their preparation included.
    """
    return max(FEWEST_STEPS, int(seconds / max(median(trial), 1e-6)))


def last_step(step: int, seconds_left: float, seconds_each: float) -> int:
    """How many steps the whole run makes.

    Args:
        step: steps that are made already.
        seconds_left: rest of the time to fill; below 0 where it is over.
        seconds_each: recent seconds per step.
    """
    more = int(seconds_left / max(seconds_each, 1e-6))
    return max(FEWEST_STEPS, step + 1, step + more)


def warm_up_cosine(step: float, steps: int, warm_up: int) -> float:
    """Share of the peak learning rate at a step: a line up, then half a cosine down.

    Args:
        step: from 0 to steps - 1; may be a fraction.
        steps: steps of the whole run.
        warm_up: steps of the line.
    """
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
