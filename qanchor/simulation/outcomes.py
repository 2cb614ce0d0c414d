"""The label of each scenario, by one rule for futures that happened and for simulated ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.simulation.catalogue import INDEX, KINDS, SPENDING
from qanchor.simulation.config import WorldPlan
from qanchor.simulation.state import Floats, Ints

SCENARIOS = ("fraud", "money", "active", "concert", "login", "forest", "takeout", "brand", "promo", "value")
# Scenario -> the kind of event that makes it positive.
EVENT_OF = {
    "fraud": "claim",
    "money": "late_fee",
    "concert": "concert",
    "forest": "forest",
    "takeout": "takeout",
    "brand": "premium",
    "promo": "redeem",
}
QUIET_DAYS = 14
LOGIN_DAYS = 20
BIG_SPENDER = 4500.0
SPENDING_COLUMNS = np.array([INDEX[name] for name in SPENDING])
TARGET_KINDS = np.array([INDEX[name] for name in EVENT_OF.values()])
_MEDIAN = np.array([KINDS[i].amount[0] for i in SPENDING_COLUMNS])
_DEVIATION = np.array([KINDS[i].amount[1] for i in SPENDING_COLUMNS])


@dataclass(frozen=True)
class Horizon:
    """Counts over one horizon.

    Args:
        events: number of each target event, int64 (users, len(EVENT_OF)).
        logins: number of days with a log-in, int64 (users,).
        last_logins: number of days with a log-in among the last QUIET_DAYS, int64 (users,).
        spent: money spent, float64 (users,).
    """

    events: Ints
    logins: Ints
    last_logins: Ints
    spent: Floats


def outcomes(horizon: Horizon) -> NDArray[np.bool_]:
    """The ten labels, bool (users, SCENARIOS)."""
    labels = dict(zip(EVENT_OF, (horizon.events > 0).T, strict=True))
    labels["active"] = horizon.last_logins == 0
    labels["login"] = horizon.logins > LOGIN_DAYS
    labels["value"] = horizon.spent > BIG_SPENDER
    return np.stack([labels[name] for name in SCENARIOS], axis=1)


def draw_spending(counts: Ints, income: Floats, rng: np.random.Generator) -> Floats:
    """Money spent by users with these numbers of purchases, shape (users,).

    Args:
        counts: purchases of each spending kind, (users, len(SPENDING)).
        income: static part of the income trait, (users,).
        rng: random stream of the draws.
    """
    user, kind = np.nonzero(counts)
    repeats = counts[user, kind]
    user, kind = np.repeat(user, repeats), np.repeat(kind, repeats)
    money = _MEDIAN[kind] * np.exp(_DEVIATION[kind] * rng.standard_normal(len(kind)) + 0.3 * income[user])
    total: Floats = np.bincount(user, weights=money, minlength=len(counts)).astype(np.float64)
    return total


def lived_horizon(
    plan: WorldPlan, day: int, active: NDArray[np.bool_], counts: NDArray[np.int16], spent: Floats
) -> Horizon:
    """The horizon after a cut-off, from simulated days.

    Args:
        plan: plan of the world.
        day: day of the cut-off.
        active: log-ins, (days, users).
        counts: events of each kind, (days, users, kinds).
        spent: money spent, (days, users).
    """
    part = slice(day, day + plan.horizon_days)
    last = slice(day + plan.horizon_days - QUIET_DAYS, day + plan.horizon_days)
    return Horizon(
        counts[part][:, :, TARGET_KINDS].sum(axis=0, dtype=np.int64),
        active[part].sum(axis=0),
        active[last].sum(axis=0),
        spent[part].sum(axis=0),
    )
