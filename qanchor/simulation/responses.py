"""How users respond to calls and credit lines: part of the world, from the hidden state alone.

The numbers were set before any policy was tried; docs/experiments.md lists them. Nothing here changes a world
on disk.
"""

from dataclasses import dataclass

import numpy as np

from qanchor.simulation.catalogue import INDEX
from qanchor.simulation.config import WorldPlan
from qanchor.simulation.life import step
from qanchor.simulation.state import FEATURES, Floats, Ints, State, features, weights

# Log-odds of drawing on the cash reserve in the week after a call that was answered.
NEED_BASE = -2.2
NEED = {
    "stress": 0.5,
    "income": -0.2,
    "money.slipping": 1.3,
    "money.distressed": 1.0,
    "money.recovering": 0.2,
    "activity.planning": 0.6,
    "payweek": -0.8,
}
BEFORE_PAYDAY, BEFORE_PAYDAY_DAYS = 0.7, 7
# A week without an answered call: users who need cash draw on the reserve anyway, much less often.
UNASKED = -2.5
# Log-odds of answering a call.
ANSWER_BASE = 0.4
ANSWER = {
    "engagement": 0.4,
    "discontent": -0.3,
    "activity.fading": -0.6,
    "activity.lapsed": -2.5,
    "activity.away": -1.0,
}
# Money drawn, given that any is: median, log-deviation, weight of income on its log.
DRAWN_MEDIAN, DRAWN_DEVIATION, DRAWN_INCOME = 1500.0, 0.6, 0.3
# Log-odds of using a credit line in the month after it was granted: users who need cash use it more.
USE_BASE = 0.6
USE = {"engagement": 0.3, "stress": 0.3, "income": -0.2, "money.slipping": 0.8, "money.distressed": 0.8}
# Profit of a credit line that is used: without a late fee, and with one.
MARGIN, LOSS = 1.0, -3.0

_NEED, _ANSWER, _USE = (weights(effects, FEATURES) for effects in (NEED, ANSWER, USE))


@dataclass(frozen=True)
class CallChances:
    """Chances that a user draws on the reserve within a week.

    Args:
        called: chance with a call on the week's first day, float64 (users,).
        unasked: chance without a call, float64 (users,).
    """

    called: Floats
    unasked: Floats


def call_chances(state: State, calendar: tuple[int, int]) -> CallChances:
    """Chances of drawing on the reserve in the week from a day on.

    Args:
        state: hidden state at the start of the day.
        calendar: the day's weekday (Monday 0) and day of the month.
    """
    today = features(state, *calendar)
    to_payday = (state.payday - calendar[1]) % 30
    close = (state.payday > 0) & (to_payday >= 1) & (to_payday <= BEFORE_PAYDAY_DAYS)
    need = today @ _NEED + NEED_BASE + BEFORE_PAYDAY * close
    answered = _chance(today @ _ANSWER + ANSWER_BASE)
    unasked = _chance(need + UNASKED)
    return CallChances(answered * _chance(need) + (1 - answered) * unasked, unasked)


def draw_amounts(state: State, rng: np.random.Generator) -> Floats:
    """Money that each user would draw, float64 (users,)."""
    noise = DRAWN_DEVIATION * rng.standard_normal(len(state))
    amounts: Floats = DRAWN_MEDIAN * np.exp(noise + DRAWN_INCOME * state.trait("income"))
    return amounts


def use_chances(state: State, calendar: tuple[int, int]) -> Floats:
    """Chance that a credit line is used in the month after it was granted, (users,).

    Args:
        state: hidden state at the start of the day.
        calendar: the day's weekday (Monday 0) and day of the month.
    """
    return _chance(features(state, *calendar) @ _USE + USE_BASE)


def late_fees(plan: WorldPlan, state: State, day: int, rng: np.random.Generator) -> Ints:
    """Late fees charged in the horizon from a day on, by the process of the world, int64 (users,).

    Args:
        plan: plan of the world.
        state: hidden state at the start of the day.
        day: day of the decision.
        rng: random stream of the draws.
    """
    crowd, fees = state, np.zeros(len(state), dtype=np.int64)
    for today in range(day, day + plan.horizon_days):
        crowd, happened = step(crowd, today, plan.calendar(today), rng, ("daily",))
        fees += happened.counts[:, INDEX["late_fee"]]
    return fees


def _chance(log_odds: Floats) -> Floats:
    chances: Floats = 1.0 / (1.0 + np.exp(-log_odds))
    return chances
