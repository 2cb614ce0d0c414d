"""What a treatment does to a metric: the difference of two means, with interval and lift."""

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
        users: how many.
        mean: of them.
        variance: unbiased, of one user's outcome.
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
        control: the control arm.
        treatment: the treatment arm.
        difference: of the means, treatment minus control, with its interval.
        lift: the difference by the control's mean, with its interval; None where that mean is not clearly
            away from 0.
        variance: squared standard error of the difference.
        p_value: two-sided, of no difference.
    """

    control: Moments
    treatment: Moments
    difference: Interval
    lift: Interval | None
    variance: float
    p_value: float

    @property
    def users(self) -> int:
        """Of both arms."""
        return self.control.users + self.treatment.users


def moments(values: ArrayLike) -> Moments:
    """Number, mean and variance of one arm.

    Args:
        values: one user's outcome each, (users,).

    Raises:
        InputError: there are fewer than two, or one is not finite.
    """
    outcomes = np.asarray(values, dtype=np.float64)
    if len(outcomes) < 2:
        raise InputError(f"an arm has {len(outcomes)} users", "Two at least are needed in each arm.")
    if not np.isfinite(outcomes).all():
        raise InputError("an outcome is not finite", "Leave out or fill what was not measured.")
    return Moments(len(outcomes), float(outcomes.mean()), float(outcomes.var(ddof=1)))


def compare(control: Moments, treatment: Moments, confidence: float = 0.95) -> Effect:
    """The difference of two means by Welch's t test; of proportions too, as means of 0 and 1.

    Args:
        control: the control arm.
        treatment: the treatment arm.
        confidence: of the intervals, two-sided, in (0, 1).

    Source: Welch, Biometrika 34 (1947); the lift's interval by the delta method: Deng, Knoblich and Lu,
        KDD 2018.
    """
    from scipy import stats

    variance = control.error + treatment.error
    difference = treatment.mean - control.mean
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

    # The delta method needs a denominator that chance does not bring near 0.
    if abs(control.mean) < 4 * math.sqrt(control.error):
        return None
    ratio = treatment.mean / control.mean
    error = math.sqrt(treatment.error + ratio**2 * control.error) / abs(control.mean)
    reach = float(stats.norm.isf((1 - confidence) / 2)) * error
    return Interval(ratio - 1, ratio - 1 - reach, ratio - 1 + reach)


def ratio_outcomes(above: ArrayLike, below: ArrayLike) -> Floats:
    """A ratio of two sums, such as clicks by visits, as one outcome for each user.

    The mean of the outcomes of all users is the ratio of the sums, and their variance is that of the delta
    method: so users stay the unit, however many visits each has. Pass both arms together, then split.

    Args:
        above: each user's part of the numerator, (users,).
        below: each user's part of the denominator, (users,).

    Raises:
        InputError: the denominators sum to 0.

    Source: Budylin, Drutsa, Katsev and Tsoy, WSDM 2018 (linearisation); Deng, Knoblich and Lu, KDD 2018.
    """
    up, down = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if len(down) == 0 or down.mean() == 0:
        raise InputError("the denominators of a ratio sum to 0", "Take a denominator that users have.")
    ratio = up.mean() / down.mean()
    outcomes: Floats = ratio + (up - ratio * down) / down.mean()
    return outcomes


def holm(p_values: ArrayLike) -> Floats:
    """P values that hold for all metrics of an experiment together, (metrics,).

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    scaled = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(scaled, 1.0)
    return adjusted
