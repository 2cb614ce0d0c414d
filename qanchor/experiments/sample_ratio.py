"""The sample ratio test: with a mismatch of the arms' sizes no effect can be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qanchor.errors import InputError

# Strict, because every experiment is checked, often repeatedly, and most are sound.
STRICT = 0.001


@dataclass(frozen=True)
class SampleRatio:
    """Observed and expected users of each arm.

    Args:
        found: observed number of users of each arm.
        expected: number expected by the planned shares.
        p_value: probability of a deviation at least as large by chance.
        level: smallest p-value without a mismatch.
    """

    found: tuple[int, ...]
    expected: tuple[float, ...]
    p_value: float
    level: float = STRICT

    @property
    def is_sound(self) -> bool:
        """Whether the sizes agree with the planned shares."""
        return self.p_value >= self.level


def sample_ratio(users: Sequence[int], shares: Sequence[float]) -> SampleRatio:
    """Pearson's chi-square test of the arms' sizes.

    Args:
        users: number of users of each arm.
        shares: planned shares of the arms, each above 0, relative to their sum.

    Raises:
        InputError: there are no users, or the numbers of arms differ.

    Source: Fabijan et al., Diagnosing Sample Ratio Mismatch in Online Controlled Experiments, KDD 2019.
    """
    from scipy import stats

    counts, parts = np.asarray(users, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    if len(counts) != len(parts) or len(counts) < 2 or (parts <= 0).any():
        raise InputError(f"{len(counts)} arms have users, {len(parts)} are planned", "Give each arm's share.")
    if counts.sum() == 0:
        raise InputError("the experiment has no users", "Check the spelling of the arms.")
    expected = counts.sum() * parts / parts.sum()
    p_value = float(stats.chisquare(counts, expected).pvalue)
    return SampleRatio(tuple(int(c) for c in counts), tuple(float(e) for e in expected), p_value)
