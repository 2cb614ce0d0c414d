"""The assignment of users to arms by a salted hash, which needs no storage to be repeated."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.errors import InputError
from qanchor.events.labels import hash_share


@dataclass(frozen=True)
class Experiment:
    """An experiment's name, arms and part of a layer.

    Users of a layer are spread over [0, 1) by a hash salted with the layer's name; experiments on disjoint
    parts of one layer share no user. A second hash, salted with the experiment's name, gives the arm: arms
    are therefore independent of layers and of other experiments.

    Args:
        name: salt of the arms; the same name always gives the same arms.
        arms: share of each arm, in their order on [0, 1); they sum to 1.
        layer: salt of the layer; empty: a layer of this experiment alone.
        begin: begin of the experiment's part of the layer, in [0, 1).
        end: end of the part, exclusive, in (begin, 1].
    """

    name: str
    arms: Mapping[str, float]
    layer: str = ""
    begin: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("an experiment needs a name", "The name is the salt of the assignment.")
        if len(self.arms) < 2:
            raise InputError(f"{self.name} has {len(self.arms)} arm", "Give two arms or more.")
        for arm, share in self.arms.items():
            if not arm or not 0 < share < 1:
                raise InputError(
                    f"arm {arm!r} of {self.name} has a share of {share:g}", "Give one in (0, 1)."
                )
        total = math.fsum(self.arms.values())
        if abs(total - 1) > 1e-9:
            raise InputError(f"the shares of {self.name} sum to {total:g}", "Give shares that sum to 1.")
        if not 0 <= self.begin < self.end <= 1:
            raise InputError(
                f"{self.name} takes [{self.begin:g}, {self.end:g}) of its layer", "Give a part of [0, 1)."
            )


def positions(users: Sequence[str], salt: str) -> NDArray[np.float64]:
    """Each user's position in [0, 1) under a salt, (users,): uniform, and the same in every process."""
    # The separator occurs in no name: "ab" + "c" and "a" + "bc" differ.
    return np.array([hash_share(f"{salt}\x1f{user}") for user in users], dtype=np.float64)


def assign(experiment: Experiment, users: Sequence[str]) -> NDArray[np.int64]:
    """The arm of each user.

    Args:
        experiment: name, arms, layer.
        users: user ids.

    Returns:
        Index into the arms, -1 for users outside the experiment's part of the layer, (users,).
    """
    edges = np.cumsum(list(experiment.arms.values()))[:-1]
    arms = np.searchsorted(edges, positions(users, f"arm\x1f{experiment.name}"), side="right")
    if (experiment.begin, experiment.end) == (0.0, 1.0):
        return arms.astype(np.int64)
    layer = positions(users, f"layer\x1f{experiment.layer or experiment.name}")
    taking_part = (layer >= experiment.begin) & (layer < experiment.end)
    return np.where(taking_part, arms, -1).astype(np.int64)
