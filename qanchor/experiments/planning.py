"""The number of users that an experiment needs, or the difference that it can detect."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qanchor.errors import InputError

_MOST_USERS = 1e12
_NODES = 48


@dataclass(frozen=True)
class Design:
    """Significance, power and allocation of an experiment.

    Args:
        significance: two-sided probability of a false positive, in (0, 0.5).
        power: probability of detecting a true effect, in (significance, 1).
        treated_share: share of the users with the treatment, in (0, 1).
        correlation: correlation of the outcome with the covariate of CUPED, in (-1, 1); 0 without one.
    """

    significance: float = 0.05
    power: float = 0.8
    treated_share: float = 0.5
    correlation: float = 0.0

    def __post_init__(self) -> None:
        _within("significance", self.significance, 0.0, 0.5)
        _within("power", self.power, self.significance, 1.0)
        _within("treated share", self.treated_share, 0.0, 1.0)
        _within("correlation", self.correlation, -1.0, 1.0)

    @property
    def variance_left(self) -> float:
        """Share of the outcome's variance that CUPED leaves, in (0, 1]."""
        return 1.0 - self.correlation**2


@dataclass(frozen=True)
class SampleSize:
    """Users of an experiment.

    Args:
        control: number of users without the treatment.
        treatment: number of users with it.
        effect: absolute difference of the means to detect.
    """

    control: int
    treatment: int
    effect: float

    @property
    def total(self) -> int:
        """Number of users of both arms."""
        return self.control + self.treatment


def plan_means(effect: float, deviation: float, design: Design | None = None) -> SampleSize:
    """Users needed to detect a difference of two means, by the power of the two-sided t test.

    Args:
        effect: smallest absolute difference to detect; not 0.
        deviation: standard deviation of the outcome, above 0.
        design: significance, power, allocation, CUPED.

    Raises:
        InputError: an argument is out of range, or so small that no number of users suffices.

    Source: Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2; CUPED's factor:
        Deng, Xu, Kohavi and Walker, WSDM 2013.
    """
    chosen = design or Design()
    _positive("deviation", deviation)
    return _smallest(effect, chosen, lambda users: _power_of_means(users, effect, deviation, chosen))


def plan_proportions(base: float, effect: float, design: Design | None = None) -> SampleSize:
    """Users needed to detect a difference of two proportions, by the two-sided z test.

    Args:
        base: proportion without the treatment, in (0, 1).
        effect: smallest absolute difference to detect; not 0, `base + effect` in (0, 1).
        design: significance, power, allocation, CUPED.

    Raises:
        InputError: an argument is out of range, or so small that no number of users suffices.

    Source: Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions (2003), chapter 4, without
        the correction for continuity.
    """
    chosen = design or Design()
    _within("base rate", base, 0.0, 1.0)
    _within("rate with the treatment", base + effect, 0.0, 1.0)
    return _smallest(effect, chosen, lambda users: _power_of_proportions(users, base, effect, chosen))


def detectable_difference(users: int, deviation: float, design: Design | None = None) -> float:
    """The smallest difference of two means that some users detect with the design's power.

    Args:
        users: number of users of both arms, at least 4.
        deviation: standard deviation of the outcome, above 0; of a proportion p, sqrt(p (1 - p)).
        design: significance, power, allocation, CUPED.

    Raises:
        InputError: an argument is out of range.
    """
    from scipy.optimize import brentq

    chosen = design or Design()
    _positive("deviation", deviation)
    if users < 4:
        raise InputError(f"{users} users are too few for an experiment", "Give at least 4.")
    unit = deviation * _spread(users, chosen)

    def surplus(effect: float) -> float:
        return _power_of_means(users, effect, deviation, chosen) - chosen.power

    return float(brentq(surplus, 1e-9 * unit, 200 * unit, xtol=1e-12 * unit))


def _spread(users: float, design: Design) -> float:
    """Standard error of the difference of the means of outcomes with variance 1."""
    treated = users * design.treated_share
    return math.sqrt(design.variance_left * (1 / treated + 1 / (users - treated)))


def _power_of_means(users: float, effect: float, deviation: float, design: Design) -> float:
    """The probability that a shifted t statistic leaves its interval, over the estimated deviation.

    scipy's non-central t and F give NaN for large shifts.
    """
    from scipy import stats

    shift, freedom = abs(effect) / (deviation * _spread(users, design)), users - 2
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    estimated = np.sqrt(stats.chi2.ppf((nodes + 1) / 2, freedom) / freedom)
    reach = stats.t.isf(design.significance / 2, freedom) * estimated
    outside = stats.norm.cdf(shift - reach) + stats.norm.cdf(-shift - reach)
    return float(weights @ outside / 2)


def _power_of_proportions(users: float, base: float, effect: float, design: Design) -> float:
    """Without an effect the arms share a variance, with an effect each arm has its own."""
    from scipy import stats

    share, other = design.treated_share, base + effect
    pooled = (1 - share) * base + share * other
    null_variance = pooled * (1 - pooled) * (1 / share + 1 / (1 - share))
    variance = other * (1 - other) / share + base * (1 - base) / (1 - share)
    reach = stats.norm.isf(design.significance / 2) * math.sqrt(null_variance)
    shift = abs(effect) * math.sqrt(users / design.variance_left)
    return float(stats.norm.cdf((shift - reach) / math.sqrt(variance)))


def _smallest(effect: float, design: Design, power: Callable[[float], float]) -> SampleSize:
    """The smallest whole numbers of users that reach the power."""
    from scipy.optimize import brentq

    if effect == 0 or not math.isfinite(effect):
        raise InputError(f"an effect of {effect:g} cannot be detected", "Give the smallest effect to detect.")
    most = 8.0
    while power(most) < design.power:
        most *= 4
        if most > _MOST_USERS:
            raise InputError(
                f"an effect of {effect:g} needs more than {_MOST_USERS:.0e} users", "Give a larger one."
            )
    total = 4.0
    if power(total) < design.power:
        total = float(brentq(lambda users: power(users) - design.power, total, most))
    share = design.treated_share
    # A solution a hair above a whole number is that number.
    treated, control = (math.ceil(total * part - 1e-6) for part in (share, 1 - share))
    return SampleSize(max(control, 2), max(treated, 2), effect)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise InputError(f"the {name} {value:g} is not between {low:g} and {high:g}", "Give one that is.")


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"the {name} {value:g} is not above 0", "Give one that is.")
