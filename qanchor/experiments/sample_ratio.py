"""Whether the arms have as many users as they were given: where not, no effect can be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qanchor.errors import InputError

# Strict, because every experiment is checked, often, and most are sound.
STRICT = 0.001


@dataclass(frozen=True)
class SampleRatio:
    """Users found in each arm against those expected.

    Args:
        found: users of each arm.
        expected: the same by the arms' shares.
        p_value: of so large a departure by chance.
        level: below which the arms do not hold.
    """

    found: tuple[int, ...]
    expected: tuple[float, ...]
    p_value: float
    level: float = STRICT

    @property
    def holds(self) -> bool:
        """Whether the arms are as they were meant."""
        return self.p_value >= self.level


def sample_ratio(found: Sequence[int], shares: Sequence[float], level: float = STRICT) -> SampleRatio:
    """Pearson's chi-square test of the arms' sizes.

    Args:
        found: users of each arm.
        shares: of the arms, each above 0; they are taken relative to their sum.
        level: below which the arms do not hold.

    Raises:
        InputError: there are no users, or the numbers of arms differ.

    Source: Fabijan et al., Diagnosing Sample Ratio Mismatch in Online Controlled Experiments, KDD 2019.
    """
    from scipy import stats

    counts, parts = np.asarray(found, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    if len(counts) != len(parts) or len(counts) < 2 or (parts <= 0).any():
        raise InputError(f"{len(counts)} arms were found, {len(parts)} expected", "Give each arm's share.")
    if counts.sum() == 0:
        raise InputError("the experiment has no users", "Look at how arms are written.")
    expected = counts.sum() * parts / parts.sum()
    p_value = float(stats.chisquare(counts, expected).pvalue)
    return SampleRatio(tuple(int(c) for c in counts), tuple(float(e) for e in expected), p_value, level)
