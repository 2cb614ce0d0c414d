"""Who gets which arm: by a salted hash, so that nothing has to be stored to know it again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.errors import InputError
from qanchor.events.labels import hash_share


@dataclass(frozen=True)
class Experiment:
    """An experiment's name, arms and place.

    Users of a layer are spread over [0, 1) by the layer's own hash; experiments with parts of one layer that
    do not overlap share no user. A second hash, salted by the experiment's name, gives the arm: so arms are
    independent of layers and of every other experiment.

    Args:
        name: salts the arms; the same name gives the same arms for ever.
        arms: share of each arm, in the order in which they lie on [0, 1); they sum to 1.
        layer: salts the layer; empty: a layer of its own.
        begin: first place of the layer that takes part, in [0, 1).
        end: first place after it, in (begin, 1].
    """

    name: str
    arms: Mapping[str, float]
    layer: str = ""
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("an experiment needs a name", "Its name salts the assignment.")
        if len(self.arms) < 2:
            raise InputError(f"{self.name} has {len(self.arms)} arm", "Give two arms or more.")
        for arm, share in self.arms.items():
            if not arm or not 0 < share < 1:
                raise InputError(
                    f"arm {arm!r} of {self.name} has a share of {share:g}", "Give one in (0, 1)."
                )
        total = math.fsum(self.arms.values())
        if abs(total - 1) > 1e-9:
            raise InputError(f"the shares of {self.name} sum to {total:g}", "Let them sum to 1.")
        if not 0 <= self.begin < self.end <= 1:
            raise InputError(
                f"{self.name} takes [{self.begin:g}, {self.end:g}) of its layer", "Give a part of [0, 1)."
            )


def places(users: Sequence[str], salt: str) -> NDArray[np.float64]:
    """Each user's place in [0, 1) under a salt, (users,): uniform, and the same in every process."""
    # The separator is no character of a name: "ab" + "c" and "a" + "bc" differ.
    return np.array([hash_share(f"{salt}\x1f{user}") for user in users], dtype=np.float64)


def assign(experiment: Experiment, users: Sequence[str]) -> NDArray[np.int64]:
    """The arm of each user.

    Args:
        experiment: name, arms, layer.
        users: ids.

    Returns:
        Index into the arms, -1 for users whom the experiment leaves out, (users,).
    """
    edges = np.cumsum(list(experiment.arms.values()))[:-1]
    arms = np.searchsorted(edges, places(users, f"arm\x1f{experiment.name}"), side="right")
    if (experiment.begin, experiment.end) == (0.0, 1.0):
        return arms.astype(np.int64)
    layer = places(users, f"layer\x1f{experiment.layer or experiment.name}")
    taking_part = (layer >= experiment.begin) & (layer < experiment.end)
    return np.where(taking_part, arms, -1).astype(np.int64)
