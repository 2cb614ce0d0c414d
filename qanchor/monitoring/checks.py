"""One check of a scenario in service: a value, its limit, and the value that noise alone reaches."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qanchor.metrics.drift import SMALLEST_SHARE

State = Literal["ok", "alarm", "unknown"]
Floats = NDArray[np.float64]
# A value that has not changed raises a false alarm in one of a thousand health checks.
CONFIDENCE = 0.999
_BINS = 10  # of the indexes and the calibration curves


@dataclass(frozen=True)
class Check:
    """A value with its limit.

    Args:
        name: name of the check, lower_snake_case; a label of its Prometheus gauges.
        value: measured value; None where there is nothing to measure.
        limit: largest or smallest value without an alarm; None for a value that raises none.
        state: `unknown` where nothing could be measured or judged.
        at_least: whether the limit is a lower one.
        note: rows behind the value, or the reason why there is none.
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
    """A check with an upper limit.

    Args:
        name: name of the check.
        value: measured value.
        limit: largest value without an alarm.
        note: explanation for the reader.
        chance: value that noise alone reaches; up to it there is no alarm.
    """
    state: State = "alarm" if value > max(limit, chance) else "ok"
    if limit < value <= chance:
        note = f"{note}; with this many rows {chance:.3g} is reached by chance"
    return Check(name, float(value), limit, state, note=note)


def at_least(name: str, value: float, limit: float, note: str = "") -> Check:
    """A check with a lower limit."""
    state: State = "alarm" if value < limit else "ok"
    return Check(name, float(value), limit, state, at_least=True, note=note)


def figure(name: str, value: float, note: str = "") -> Check:
    """A value that raises no alarm."""
    return Check(name, float(value), None, "ok", note=note)


def unknown(name: str, reason: str) -> Check:
    """A check that cannot be measured, and why."""
    return Check(name, None, None, "unknown", note=reason)


def psi_by_chance(expected: int, actual: int) -> float:
    """The PSI that two samples of one distribution exceed with probability .001.

    The shares of a distribution between the quantiles of a sample are Dirichlet distributed, the counts of
    the other sample multinomial. The customary chi-square is far too low where bins are empty.

    Args:
        expected: number of rows of the reference.
        actual: number of rows that are compared with it.
    """
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.full(_BINS, expected / _BINS), 20_000)
    floored = np.maximum(random.multinomial(actual, shares) / actual, SMALLEST_SHARE)
    drawn = floored / floored.sum(axis=1, keepdims=True)
    values = ((drawn - 1 / _BINS) * np.log(drawn * _BINS)).sum(axis=1)
    return float(np.quantile(values, CONFIDENCE))


def calibration_error(labels: NDArray[np.int64], scores: Floats) -> float:
    """`qanchor.metrics.expected_calibration_error`, also of rows of one class: a month may have no label 1.

    Args:
        labels: 0 or 1, (rows,).
        scores: probabilities, (rows,).
    """
    surplus = np.bincount(_bin(scores), weights=scores - labels)
    return float(np.abs(surplus).sum() / len(scores))


def _bin(scores: Floats) -> NDArray[np.int64]:
    return np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)


def calibration_error_by_chance(scores: Floats, draws: int = 4000) -> float:
    """The calibration error that calibrated scores exceed with probability .001, by drawing their labels.

    Each bin's surplus of labels is drawn from a normal distribution with the bin's variance.

    Args:
        scores: probabilities, (rows,).
        draws: number of simulated label sets.
    """
    variance = np.bincount(_bin(scores), weights=scores * (1 - scores), minlength=_BINS)
    surplus = np.random.default_rng(0).normal(size=(draws, _BINS)) * np.sqrt(variance)
    return float(np.quantile(np.abs(surplus).sum(axis=1) / len(scores), CONFIDENCE))
