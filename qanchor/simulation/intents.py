"""What each user does on one day: how many events of each kind, from the hidden state alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.simulation.kinds import INDEX, KINDS, SLOTS, TARGETS, Kind
from qanchor.simulation.state import FEATURES, Floats, Ints, State, features, next_state, weights

_ACTIVE = {
    "engagement": 0.6,
    "burst": -0.75,
    "weekend": -0.2,
    "discontent": -0.15,
    "activity.fading": -1.3,
    "activity.lapsed": -7.0,
    "activity.away": -2.5,
    "fraud.running": 0.5,
    "role.merchant": 0.4,
}
_ACTIVE_BASE = 0.5
_VOLUME = {"volume": 0.25, "burst": 0.3, "engagement": 0.1}
_LAPSED_OWN = -2.0  # log factor on standing payments of users who left

_ACTIVE_WEIGHTS = weights(_ACTIVE, FEATURES)
_VOLUME_WEIGHTS = weights(_VOLUME, FEATURES)
# How clearly interests show in what users open, read and search for; payments and targets stay as listed.
# Regimes show more sharply than traits: they have weeks to be seen in, traits have months.
TRAIT_SHARPNESS, REGIME_SHARPNESS = 1.8, 2.1
_SHARP_SLOTS = {"mini", "page", "app", "search"}


def _kind_weights(kind: Kind) -> Floats:
    sharp = kind.slot in _SHARP_SLOTS and kind.name not in TARGETS
    scale = np.array([REGIME_SHARPNESS if "." in name else TRAIT_SHARPNESS for name in FEATURES])
    return weights(kind.effects, FEATURES) * (scale if sharp else 1.0)


_KIND_WEIGHTS = np.stack([_kind_weights(kind) for kind in KINDS], axis=1)
_KIND_BASE = np.array([kind.base for kind in KINDS])
_SLOT_WEIGHTS = {name: weights(slot.effects, FEATURES) for name, slot in SLOTS.items()}
_NEEDS_LOGIN = np.array([kind.active_only for kind in KINDS])
_SLOT_OF = np.array([list(SLOTS).index(kind.slot) for kind in KINDS])
TARGET_COLUMNS = np.array([INDEX[name] for name in TARGETS])
ALL_SLOTS = tuple(SLOTS)


@dataclass(frozen=True)
class Day:
    """One day's intentions.

    Args:
        active: who logs in, bool (users,).
        counts: events of each kind, int64 (users, kinds); zero in slots that were not asked for.
    """

    active: NDArray[np.bool_]
    counts: Ints


def _rates(today: Floats, slots: tuple[str, ...]) -> Floats:
    """Mean events per kind on an active day, float64 (users, kinds)."""
    rates = np.zeros((len(today), len(KINDS)))
    for slot in slots:
        columns = np.flatnonzero(ALL_SLOTS.index(slot) == _SLOT_OF)
        part = slice(columns[0], columns[-1] + 1)
        powers = np.exp(today @ _KIND_WEIGHTS[:, part] + _KIND_BASE[part])
        if slot != "own":
            volume = np.exp(today @ (_VOLUME_WEIGHTS + _SLOT_WEIGHTS[slot]))
            powers *= (SLOTS[slot].volume * volume / powers.sum(axis=1))[:, None]
        rates[:, part] = powers
    return rates


def _forced_pages(rates: Floats, active: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Ints, Ints]:
    columns = np.flatnonzero(ALL_SLOTS.index("page") == _SLOT_OF)
    users = np.flatnonzero(active)
    cumulative = np.cumsum(rates[np.ix_(users, columns)], axis=1)
    draw = rng.random(len(users)) * cumulative[:, -1]
    chosen = (cumulative < draw[:, None]).sum(axis=1)
    return users, columns[np.minimum(chosen, len(columns) - 1)]


def step(
    state: State,
    day: int,
    calendar: tuple[int, int],
    rng: np.random.Generator,
    slots: tuple[str, ...] = ALL_SLOTS,
) -> tuple[State, Day]:
    """Live one day: what happens, and the state on the next morning.

    Args:
        state: hidden state at the start of the day.
        day: number of the day in the span.
        calendar: its weekday (Monday 0) and day of the month.
        rng: where chance comes from.
        slots: the slots to draw events for; the state moves on the same whatever is left out,
            as long as the targets' slots are in.
    """
    today = features(state, *calendar)
    here = state.joined <= day
    log_odds = today @ _ACTIVE_WEIGHTS + _ACTIVE_BASE
    active = here & (rng.random(len(state)) < 1.0 / (1.0 + np.exp(-log_odds)))
    rates = _rates(today, slots)
    lapsed = today[:, FEATURES.index("activity.lapsed")] > 0
    rates *= np.where(
        _NEEDS_LOGIN, active[:, None], (here * np.where(lapsed, np.exp(_LAPSED_OWN), 1.0))[:, None]
    )
    counts: Ints = rng.poisson(rates)
    if "page" in slots:
        users, columns = _forced_pages(rates, active, rng)
        counts[users, columns] += 1
    counts[:, INDEX["salary"]] = here & (state.payday == calendar[1]) & ~lapsed
    did = (counts[:, TARGET_COLUMNS] > 0).astype(np.float64)
    return next_state(state, today, did, rng), Day(active, counts)
