"""One figure of a scenario in service, held against its limit; and what chance alone may do to it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qanchor.metrics.drift import SMALLEST_SHARE

State = Literal["ok", "alarm", "unknown"]
Floats = NDArray[np.float64]
# Alarms that chance alone may raise: one in a thousand looks at a figure that has not moved.
SURE = 0.999


@dataclass(frozen=True)
class Check:
    """One figure and its judgement.

    Args:
        name: of the figure, lower_snake_case; a label of its Prometheus gauges.
        value: what was measured; None where there is nothing to measure.
        limit: what it is held against; None for a figure without an alarm.
        state: `unknown` where nothing could be measured or judged.
        at_least: the limit is a lower one.
        note: rows behind the figure, or why there is none.
    """

    name: str
    value: float | None
    limit: float | None
    state: State
    at_least: bool = False
    note: str = ""

    def __str__(self) -> str:
        value = "unknown" if self.value is None else f"{self.value:.4g}"
        if self.limit is None:
            return f"{self.name} is {value}"
        sign = "at least" if self.at_least else "at most"
        return f"{self.name} is {value}, must be {sign} {self.limit:.4g}"


def at_most(name: str, value: float, limit: float, note: str = "", chance: float = 0.0) -> Check:
    """A figure with an upper limit.

    Args:
        name: of the figure.
        value: measured.
        limit: the highest that is fine.
        note: for the reader.
        chance: what the figure reaches by chance alone; up to there it raises no alarm.
    """
    state: State = "alarm" if value > max(limit, chance) else "ok"
    if limit < value <= chance:
        note = f"{note}; so few rows reach {chance:.3g} by chance"
    return Check(name, float(value), limit, state, note=note)


def at_least(name: str, value: float, limit: float, note: str = "") -> Check:
    """A figure with a lower limit."""
    state: State = "alarm" if value < limit else "ok"
    return Check(name, float(value), limit, state, at_least=True, note=note)


def figure(name: str, value: float, note: str = "") -> Check:
    """A figure without an alarm."""
    return Check(name, float(value), None, "ok", note=note)


def unknown(name: str, reason: str) -> Check:
    """A figure that cannot be measured, and why."""
    return Check(name, None, None, "unknown", note=reason)


def psi_by_chance(expected: int, actual: int, bins: int = 10, draws: int = 20_000) -> float:
    """The PSI that two samples of one distribution exceed once in a thousand times.

    The shares of a distribution between the quantiles of a sample are Dirichlet distributed, the counts of
    the other sample multinomial. The customary chi-square is far too low where bins come out empty.

    Args:
        expected: rows of the reference.
        actual: rows that are compared with it.
        bins: of the index.
        draws: of pairs of samples.
    """
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.full(bins, expected / bins), draws)
    floored = np.maximum(random.multinomial(actual, shares) / actual, SMALLEST_SHARE)
    found = floored / floored.sum(axis=1, keepdims=True)
    moved = ((found - 1 / bins) * np.log(found * bins)).sum(axis=1)
    return float(np.quantile(moved, SURE))


def calibration_error(labels: NDArray[np.int64], scores: Floats, bins: int = 10) -> float:
    """`qanchor.metrics.expected_calibration_error`, of one class too: a month may well hold no label 1.

    Args:
        labels: 0 or 1, (rows,).
        scores: probabilities, (rows,).
        bins: of equal width.
    """
    surplus = np.bincount(_bin(scores, bins), weights=scores - labels)
    return float(np.abs(surplus).sum() / len(scores))


def _bin(scores: Floats, bins: int) -> NDArray[np.int64]:
    return np.minimum((scores * bins).astype(np.int64), bins - 1)


def calibration_error_by_chance(scores: Floats, bins: int = 10, draws: int = 4000, seed: int = 0) -> float:
    """The calibration error that honest scores exceed once in a thousand times, by drawing their labels.

    Each bin's surplus of labels is drawn from a normal distribution of its own variance.

    Args:
        scores: probabilities, (rows,).
        bins: of equal width.
        draws: label sets.
        seed: of the draws.
    """
    variance = np.bincount(_bin(scores, bins), weights=scores * (1 - scores), minlength=bins)
    surplus = np.random.default_rng(seed).normal(size=(draws, bins)) * np.sqrt(variance)
    return float(np.quantile(np.abs(surplus).sum(axis=1) / len(scores), SURE))
