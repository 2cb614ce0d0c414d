"""The learning rate over a run."""

import math


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
