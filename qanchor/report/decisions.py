"""Decisions by score on the test part: flagging above a threshold, contacting the highest scores."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.metrics import SHARES, Interval


@dataclass(frozen=True)
class Confusion:
    """Confusion matrix of flagging every score from a threshold on.

    Args:
        threshold: lowest flagged score.
        true_positives: flagged rows with label 1.
        false_positives: flagged rows with label 0.
        false_negatives: other rows with label 1.
        true_negatives: other rows with label 0.
    """

    threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        """Share of label 1 among the flagged rows."""
        return self.true_positives / max(self.true_positives + self.false_positives, 1)

    @property
    def recall(self) -> float:
        """Share of the rows with label 1 that is flagged."""
        return self.true_positives / max(self.true_positives + self.false_negatives, 1)


@dataclass(frozen=True)
class Campaign:
    """The result of contacting the test users with the highest scores.

    Args:
        share: contacted share of the users.
        users: number of users contacted.
        reached: number of positives among them; equal scores that the boundary cuts count at their rate.
        gain: share of all positives that is reached.
        lift: rate of positives relative to all users.
    """

    share: float
    users: float
    reached: float
    gain: Interval
    lift: Interval

    @property
    def precision(self) -> float:
        """Share of positives among the users contacted."""
        return self.reached / self.users


def confusion(truth: NDArray[np.int64], scores: NDArray[np.float64], threshold: float) -> Confusion:
    """Count the rows with a score from a threshold on, and the others, by label."""
    flagged, positive = scores >= threshold, truth == 1
    return Confusion(
        threshold,
        int((flagged & positive).sum()),
        int((flagged & ~positive).sum()),
        int((~flagged & positive).sum()),
        int((~flagged & ~positive).sum()),
    )


def campaigns(figures: Mapping[str, float]) -> tuple[Campaign, ...]:
    """Campaigns to the top 1, 5, 10 and 20% of the users, from a scorer's metrics."""
    result = []
    for name, share in SHARES.items():
        gain, lift = (
            Interval(figures[f"{kind}_{name}"], figures[f"{kind}_{name}_low"], figures[f"{kind}_{name}_high"])
            for kind in ("gain", "lift")
        )
        users = share * figures["rows"]
        result.append(Campaign(share, users, gain.value * figures["positives"], gain, lift))
    return tuple(result)
