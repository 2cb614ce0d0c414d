"""Always-valid intervals: an experiment may be watched and stopped at any time."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qanchor.errors import InputError
from qanchor.experiments.effects import Effect
from qanchor.metrics import Interval

# The intervals are asymptotic; with fewer users in an arm they are not reliable.
FEWEST_USERS = 100


@dataclass(frozen=True)
class AlwaysValid:
    """A difference that may be reported at any interim look.

    Args:
        difference: difference with an interval that covers the truth at all looks together.
        p_value: p-value of no difference, valid for any number of looks.
        planned_users: number of users at which the interval is narrowest.
    """

    difference: Interval
    p_value: float
    planned_users: int


def radius(variance: ArrayLike, planned: ArrayLike, significance: float = 0.05) -> NDArray[np.float64]:
    """Half the width of the interval at each look.

    A mixture of likelihood ratios, normal with variance t around no difference: at squared standard error V
    the radius is sqrt(V (V + t) / t * log((V + t) / (V a^2))). It covers the truth at all looks at once with
    probability 1 - a, asymptotically, where the outcomes are not normal. t is the one that makes it
    narrowest at the planned number of users.

    Args:
        variance: squared standard error of the difference at each look, (looks,).
        planned: squared standard error expected at the planned number of users, (looks,) or ().
        significance: a, in (0, 1).

    Source: Robbins, Annals of Mathematical Statistics 41 (1970); Johari, Koomen, Pekelis and Walsh,
        Always Valid Inference, Operations Research 70 (2022); Waudby-Smith, Arbour, Sinha, Kennedy and
        Ramdas, Time-uniform Central Limit Theory and Asymptotic Confidence Sequences, Annals of Statistics
        52 (2024); the choice of t: Howard, Ramdas, McAuliffe and Sekhon, Annals of Statistics 49 (2021).
    """
    error = np.asarray(variance, dtype=np.float64)
    mixed = np.asarray(planned, dtype=np.float64) * _mixture(significance)
    half_width: NDArray[np.float64] = np.sqrt(
        error * (error + mixed) / mixed * np.log((error + mixed) / (error * significance**2))
    )
    return half_width


def _mixture(significance: float) -> float:
    from scipy.special import lambertw

    return float(-lambertw(-(significance**2) / math.e, -1).real - 1)


def always_valid(effect: Effect, planned_users: int, confidence: float = 0.95) -> AlwaysValid:
    """The always-valid interval of an effect.

    Args:
        effect: effect measured so far.
        planned_users: number of users of both arms at which the interval is narrowest; fixed beforehand.
        confidence: confidence over all looks together, in (0, 1).

    Raises:
        InputError: an arm has fewer than FEWEST_USERS users, or no user is planned.
    """
    fewest = min(effect.control.users, effect.treatment.users)
    if fewest < FEWEST_USERS:
        raise InputError(
            f"an arm has {fewest} users, too few for an always-valid interval",
            f"Wait until each arm has {FEWEST_USERS}.",
        )
    if planned_users < 1:
        raise InputError(
            f"{planned_users} planned users", "Give the number that the experiment was planned for."
        )
    difference = effect.difference.value
    if effect.variance == 0:
        return AlwaysValid(effect.difference, effect.p_value, planned_users)
    planned = effect.variance * effect.users / planned_users
    reach = float(radius(effect.variance, planned, 1 - confidence))
    p_value = _p_value(difference, effect.variance, planned * _mixture(1 - confidence))
    return AlwaysValid(Interval(difference, difference - reach, difference + reach), p_value, planned_users)


def _p_value(difference: float, variance: float, mixed: float) -> float:
    """One over the mixture's likelihood ratio, at most 1."""
    spread = variance + mixed
    log_ratio = 0.5 * math.log(variance / spread) + mixed * difference**2 / (2 * variance * spread)
    return math.exp(-max(0.0, log_ratio))
