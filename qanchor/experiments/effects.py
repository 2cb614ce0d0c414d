"""The effect of a treatment on a metric: the difference of two means, with interval and lift."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qanchor.errors import InputError
from qanchor.metrics import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """One arm's outcomes.

    Args:
        users: number of users.
        mean: mean outcome.
        variance: unbiased variance of one user's outcome.
    """

    users: int
    mean: float
    variance: float

    @property
    def error(self) -> float:
        """Squared standard error of the mean."""
        return self.variance / self.users


@dataclass(frozen=True)
class Effect:
    """Treatment against control.

    Args:
        control: control arm.
        treatment: treatment arm.
        difference: difference of the means, treatment minus control, with its interval.
        lift: difference relative to the control's mean, with its interval; None where that mean is too close
            to 0.
        variance: squared standard error of the difference.
        p_value: two-sided p-value of no difference.
    """

    control: Moments
    treatment: Moments
    difference: Interval
    lift: Interval | None
    variance: float
    p_value: float

    @property
    def users(self) -> int:
        """Number of users of both arms."""
        return self.control.users + self.treatment.users


def moments(values: ArrayLike) -> Moments:
    """Number, mean and variance of one arm.

    Args:
        values: outcome of each user, (users,).

    Raises:
        InputError: there are fewer than two, or one is not finite.
    """
    outcomes = np.asarray(values, dtype=np.float64)
    if len(outcomes) < 2:
        raise InputError(f"an arm has {len(outcomes)} users", "Each arm needs at least two.")
    if not np.isfinite(outcomes).all():
        raise InputError("an outcome is not finite", "Remove or fill missing values.")
    variance = 0.0 if _is_rounding(np.ptp(outcomes), outcomes) else float(outcomes.var(ddof=1))
    return Moments(len(outcomes), float(outcomes.mean()), variance)


def _is_rounding(difference: float, values: ArrayLike) -> bool:
    """Whether a difference of values, or of their means, is a rounding error."""
    return bool(abs(difference) <= 1e-12 * np.abs(values).max())


def compare(control: Moments, treatment: Moments, confidence: float = 0.95) -> Effect:
    """The difference of two means by Welch's t test; a proportion is a mean of 0 and 1.

    Args:
        control: control arm.
        treatment: treatment arm.
        confidence: two-sided confidence of the intervals, in (0, 1).

    Source: Welch, Biometrika 34 (1947); the lift's interval by the delta method: Deng, Knoblich and Lu,
        KDD 2018.
    """
    from scipy import stats

    variance = control.error + treatment.error
    difference = treatment.mean - control.mean
    if _is_rounding(difference, [treatment.mean, control.mean]):
        difference = 0.0
    if variance == 0:
        return Effect(
            control,
            treatment,
            Interval(difference, difference, difference),
            None,
            0.0,
            float(difference == 0),
        )
    freedom = variance**2 / sum(arm.error**2 / (arm.users - 1) for arm in (control, treatment))
    reach = float(stats.t.isf((1 - confidence) / 2, freedom)) * math.sqrt(variance)
    p_value = 2 * float(stats.t.sf(abs(difference) / math.sqrt(variance), freedom))
    interval = Interval(difference, difference - reach, difference + reach)
    return Effect(control, treatment, interval, _lift(control, treatment, confidence), variance, p_value)


def _lift(control: Moments, treatment: Moments, confidence: float) -> Interval | None:
    from scipy import stats

    # The delta method needs a denominator that is significantly different from 0.
    if abs(control.mean) < 4 * math.sqrt(control.error):
        return None
    ratio = treatment.mean / control.mean
    error = math.sqrt(treatment.error + ratio**2 * control.error) / abs(control.mean)
    reach = float(stats.norm.isf((1 - confidence) / 2)) * error
    return Interval(ratio - 1, ratio - 1 - reach, ratio - 1 + reach)


def ratio_outcomes(above: ArrayLike, below: ArrayLike) -> Floats:
    """A ratio of two sums, such as clicks per visit, as one outcome for each user.

    The mean of all outcomes is the ratio of the sums, and their variance is that of the delta method: the
    unit is the user, however many visits each has. Pass both arms together, then split.

    Args:
        above: numerator of each user, (users,).
        below: denominator of each user, (users,).

    Raises:
        InputError: the denominators sum to 0.

    Source: Budylin, Drutsa, Katsev and Tsoy, WSDM 2018 (linearisation); Deng, Knoblich and Lu, KDD 2018.
    """
    up, down = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if len(down) == 0 or down.mean() == 0:
        raise InputError("the denominators of a ratio sum to 0", "Choose another denominator.")
    ratio = up.mean() / down.mean()
    outcomes: Floats = ratio + (up - ratio * down) / down.mean()
    return outcomes


def holm(p_values: ArrayLike) -> Floats:
    """P-values corrected for multiple comparisons, (metrics,).

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(scaled, 1.0)
    return adjusted
