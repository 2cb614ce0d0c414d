"""What decisions by the score come to on the test part: flagging from a threshold, taking the best."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.metrics import SHARES, Interval


@dataclass(frozen=True)
class Confusion:
    """Decisions at the KS threshold, counted on the test part.

    Args:
        threshold: score from which a user is flagged.
        true_positives: flagged, label 1.
        false_positives: flagged, label 0.
        false_negatives: not flagged, label 1.
        true_negatives: not flagged, label 0.
    """

    threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        """Share of label 1 among the flagged."""
        return self.true_positives / max(self.true_positives + self.false_positives, 1)

    @property
    def recall(self) -> float:
        """Share of label 1 that is flagged."""
        return self.true_positives / max(self.true_positives + self.false_negatives, 1)


@dataclass(frozen=True)
class Campaign:
    """What contacting the best-scored share of the test users comes to.

    Args:
        share: of the users.
        users: contacted.
        reached: of them with label 1; a group of equal scores that the boundary cuts counts at its rate.
        gain: share of all label-1 users that is reached.
        lift: times as many as a random list of that length reaches.
    """

    share: float
    users: float
    reached: float
    gain: Interval
    lift: Interval

    @property
    def precision(self) -> float:
        """Share of label 1 among those contacted."""
        return self.reached / self.users


def confusion(truth: NDArray[np.int64], scores: NDArray[np.float64], threshold: float) -> Confusion:
    """Count the decisions of flagging every score from a threshold on."""
    flagged, ones = scores >= threshold, truth == 1
    return Confusion(
        threshold,
        int((flagged & ones).sum()),
        int((flagged & ~ones).sum()),
        int((~flagged & ones).sum()),
        int((~flagged & ~ones).sum()),
    )


def campaigns(figures: Mapping[str, float]) -> tuple[Campaign, ...]:
    """The best 1, 5, 10 and 20% of the users, from a scorer's figures."""
    found = []
    for name, share in SHARES.items():
        gain, lift = (
            Interval(figures[f"{kind}_{name}"], figures[f"{kind}_{name}_low"], figures[f"{kind}_{name}_high"])
            for kind in ("gain", "lift")
        )
        users = share * figures["rows"]
        found.append(Campaign(share, users, gain.value * figures["positives"], gain, lift))
    return tuple(found)
