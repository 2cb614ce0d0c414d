"""What users do: the events of one day, from the hidden state alone, and all days of a block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qanchor.simulation.catalogue import INDEX, KINDS, TARGETS
from qanchor.simulation.config import BLOCK_USERS, WorldPlan
from qanchor.simulation.kind import SLOTS, Kind
from qanchor.simulation.state import (
    FEATURES,
    REGIME_NAMES,
    Floats,
    Ints,
    State,
    draw_state,
    features,
    next_state,
    weights,
)

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
_LAPSED_DAILY = -2.0  # log factor on standing payments of users who left

_ACTIVE_WEIGHTS = weights(_ACTIVE, FEATURES)
_VOLUME_WEIGHTS = weights(_VOLUME, FEATURES)
# How clearly interests show in what users open, read and search for; payments and targets stay as listed.
# Regimes are sharper than traits: they last weeks, traits last months.
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
    """One day's acts.

    Args:
        active: whether each user logs in, bool (users,).
        counts: events of each kind, int64 (users, kinds); zero in slots that were not requested.
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
        if slot != "daily":
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
    """Simulate one day.

    Args:
        state: hidden state at the start of the day.
        day: number of the day in the span.
        calendar: the day's weekday (Monday 0) and day of the month.
        rng: random stream of the draws.
        slots: slots to draw events for; the state moves the same way as long as those of the targets are in.

    Returns:
        The state on the next morning, and what happened.
    """
    today = features(state, *calendar)
    joined = state.joined <= day
    log_odds = today @ _ACTIVE_WEIGHTS + _ACTIVE_BASE
    active = joined & (rng.random(len(state)) < 1.0 / (1.0 + np.exp(-log_odds)))
    rates = _rates(today, slots)
    lapsed = today[:, FEATURES.index("activity.lapsed")] > 0
    rates *= np.where(
        _NEEDS_LOGIN, active[:, None], (joined * np.where(lapsed, np.exp(_LAPSED_DAILY), 1.0))[:, None]
    )
    counts: Ints = rng.poisson(rates)
    if "page" in slots:
        users, columns = _forced_pages(rates, active, rng)
        counts[users, columns] += 1
    counts[:, INDEX["salary"]] = joined & (state.payday == calendar[1]) & ~lapsed
    did = (counts[:, TARGET_COLUMNS] > 0).astype(np.float64)
    return next_state(state, today, did, rng), Day(active, counts)


@dataclass(frozen=True)
class Life:
    """What a block of users did, and the hidden state behind it.

    Args:
        active: log-ins, bool (days, users).
        counts: events of each kind, int16 (days, users, kinds).
        balance: log of the account's typical balance, float64 (days, users).
        test_state: hidden state at the start of the test cut-off's day.
        first: state on the first day, for what never changes.
        split: 0 train, 1 valid, 2 test, int64 (users,).
        states: hidden state at the start of each requested day.
    """

    active: NDArray[np.bool_]
    counts: NDArray[np.int16]
    balance: Floats
    test_state: State
    first: State
    split: Ints
    states: Mapping[int, State] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.active.shape[1])


def block_rng(plan: WorldPlan, block: int, purpose: int) -> np.random.Generator:
    """The random stream of one block for one purpose (0 life, 1 events, 2 ceilings, 3 answers)."""
    return np.random.default_rng([plan.seed, block, purpose])


def _balance(state: State) -> Floats:
    money = state.regimes[:, REGIME_NAMES.index("money")]
    strain = np.array([0.0, -0.5, -1.0, -0.5])[money]
    level: Floats = 7.0 + 0.6 * state.trait("income") - 0.25 * state.trait("stress") + strain
    return level


def live(plan: WorldPlan, block: int, keep: Sequence[int] = ()) -> Life:
    """Simulate one block; always a full one, so that a user does not depend on the size of the world.

    Args:
        plan: plan of the world.
        block: number of the block, from 0.
        keep: days whose hidden states are returned as well.
    """
    rng = block_rng(plan, block, 0)
    state = first = draw_state(rng, BLOCK_USERS, plan.days)
    draw = rng.random(BLOCK_USERS)
    split = np.where(draw < plan.test_share, 2, np.where(draw < plan.test_share + plan.valid_share, 1, 0))
    active, counts, balance = [], [], []
    test_state = state
    states = {}
    for day in range(plan.days):
        if day == plan.test_day:
            test_state = state
        if day in keep:
            states[day] = state
        balance.append(_balance(state))
        state, today = step(state, day, plan.calendar(day), rng)
        active.append(today.active)
        counts.append(today.counts.astype(np.int16))
    return Life(np.stack(active), np.stack(counts), np.stack(balance), test_state, first, split, states)
