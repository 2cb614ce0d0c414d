"""The hidden state of users: drifting traits, and regimes that switch from one day to the next."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qanchor.simulation.catalogue import TARGETS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Trait:
    """A Gaussian trait of variance one.

    Args:
        static: share of the variance that never changes; the rest drifts.
        loads: weight of the common factors (youth, wealth) on the static part.
    """

    static: float
    loads: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Switch:
    """One way out of a regime's state: its log rate per day and the effects on it."""

    regime: str
    source: str
    target: str
    base: float
    effects: Mapping[str, float] = field(default_factory=dict)


DRIFT_DAYS = 60.0
FACTORS = ("youth", "wealth")
TRAITS: dict[str, Trait] = {
    "engagement": Trait(0.8, {"youth": 0.2}),
    "volume": Trait(0.88),
    "burst": Trait(1.0),
    "income": Trait(0.95, {"wealth": 0.8, "youth": -0.2}),
    "takeout": Trait(0.88, {"youth": 0.4}),
    "premium": Trait(0.88, {"wealth": 0.5}),
    "bargain": Trait(0.88, {"wealth": -0.3}),
    "music": Trait(0.88, {"youth": 0.4}),
    "eco": Trait(0.88),
    "stress": Trait(0.8, {"wealth": -0.3}),
    "discontent": Trait(0.6),
    "travel": Trait(0.88, {"wealth": 0.3}),
}
REGIMES: dict[str, tuple[str, ...]] = {
    "role": ("honest", "merchant", "ring"),
    "money": ("calm", "slipping", "distressed", "recovering"),
    "concert": ("idle", "curious", "planning", "glow"),
    "activity": ("normal", "fading", "lapsed", "planning", "away"),
    "deals": ("idle", "hunting", "sated"),
    "grove": ("idle", "playing", "weary"),
    "fraud": ("dormant", "warming", "running"),
    "phone": ("old", "new"),
}
ROLE_SHARES = (0.70, 0.14, 0.16)
SWITCHES: tuple[Switch, ...] = (
    Switch("money", "calm", "slipping", -5.3, {"stress": 0.9}),
    Switch("money", "slipping", "distressed", -3.5, {"stress": 0.3}),
    Switch("money", "slipping", "calm", -3.7, {"stress": -0.3}),
    Switch("money", "distressed", "recovering", -4.3),
    Switch("money", "recovering", "calm", -4.1),
    Switch("money", "recovering", "distressed", -5.3, {"stress": 0.3}),
    Switch("concert", "idle", "curious", -4.2, {"music": 0.8}),
    Switch("concert", "curious", "planning", -3.2),
    Switch("concert", "curious", "idle", -3.9),
    Switch("concert", "planning", "glow", -3.9, {"did.concert": 1.5}),
    Switch("concert", "glow", "idle", -3.7),
    Switch("activity", "normal", "fading", -6.0, {"discontent": 1.1, "engagement": -0.3}),
    Switch("activity", "fading", "lapsed", -2.9),
    Switch("activity", "fading", "normal", -3.7, {"discontent": -0.4}),
    Switch("activity", "lapsed", "normal", -4.1),
    Switch("activity", "normal", "planning", -5.1, {"travel": 0.7}),
    Switch("activity", "planning", "away", -2.5),
    Switch("activity", "away", "normal", -2.6),
    Switch("deals", "idle", "hunting", -4.3, {"bargain": 0.7}),
    Switch("deals", "hunting", "sated", -3.8, {"did.redeem": 0.7}),
    Switch("deals", "sated", "idle", -3.7),
    Switch("grove", "idle", "playing", -4.8, {"eco": 0.9}),
    Switch("grove", "playing", "weary", -4.1),
    Switch("grove", "weary", "idle", -3.6),
    Switch("fraud", "dormant", "warming", -34.0, {"role.ring": 30.0}),
    Switch("fraud", "warming", "running", -2.8),
    Switch("fraud", "running", "dormant", -3.9, {"did.claim": 0.7}),
    Switch("phone", "old", "new", -5.5),
    Switch("phone", "new", "old", -2.7),
)

TRAIT_NAMES = tuple(TRAITS)
REGIME_NAMES = tuple(REGIMES)
_ONE_HOT = tuple(f"{name}.{state}" for name, states in REGIMES.items() for state in states)
_CALENDAR = ("weekend", "payweek")
FEATURES: tuple[str, ...] = (*TRAIT_NAMES, *_ONE_HOT, *_CALENDAR)
_DID = tuple(f"did.{name}" for name in TARGETS)
_OFFSETS = np.cumsum([0, *[len(states) for states in REGIMES.values()]])[:-1] + len(TRAITS)


def weights(effects: Mapping[str, float], names: tuple[str, ...]) -> Floats:
    """The effects as a vector over `names`, shape (names,).

    Raises:
        KeyError: an effect names no feature.
    """
    vector = np.zeros(len(names))
    index = {name: i for i, name in enumerate(names)}
    for name, value in effects.items():
        vector[index[name]] = value
    return vector


_SWITCH_WEIGHTS = np.stack([weights(s.effects, (*FEATURES, *_DID)) for s in SWITCHES], axis=1)
_SWITCH_BASE = np.array([s.base for s in SWITCHES])
_SWITCH_REGIME = np.array([REGIME_NAMES.index(s.regime) for s in SWITCHES])
_SWITCH_SOURCE = np.array([REGIMES[s.regime].index(s.source) for s in SWITCHES])
_SWITCH_TARGET = np.array([REGIMES[s.regime].index(s.target) for s in SWITCHES])


@dataclass(frozen=True)
class State:
    """The hidden state that decides users' futures, at the start of a day.

    Args:
        static: constant part of each trait, float64 (users, traits).
        drift: drifting part of each trait, float64 (users, traits).
        regimes: state of each regime, int64 (users, regimes).
        joined: first day on which the user can act, int64 (users,); -1: before the first day.
        payday: day of the month on which a salary arrives, 0 for none, int64 (users,).
    """

    static: Floats
    drift: Floats
    regimes: Ints
    joined: Ints
    payday: Ints

    def __len__(self) -> int:
        return len(self.joined)

    def take(self, rows: Ints) -> "State":
        """The state of some users, repeated where a row is repeated."""
        return State(
            self.static[rows], self.drift[rows], self.regimes[rows], self.joined[rows], self.payday[rows]
        )

    def trait(self, name: str) -> Floats:
        """One trait's value now, shape (users,)."""
        column = TRAIT_NAMES.index(name)
        total: Floats = self.static[:, column] + self.drift[:, column]
        return total


def features(state: State, weekday: int, month_day: int) -> Floats:
    """The features that drive a day, float64 (users, FEATURES)."""
    matrix = np.zeros((len(state), len(FEATURES)))
    matrix[:, : len(TRAITS)] = state.static + state.drift
    rows = np.arange(len(state))
    for regime, offset in enumerate(_OFFSETS):
        matrix[rows, offset + state.regimes[:, regime]] = 1.0
    matrix[:, -2] = weekday >= 5
    matrix[:, -1] = (state.payday > 0) & ((month_day - state.payday) % 30 < 5)
    return matrix


def draw_state(rng: np.random.Generator, users: int, days: int) -> State:
    """The state of new users before the first day.

    Args:
        rng: random stream of the draws.
        users: number of users.
        days: length of the span; some users join inside it.
    """
    factors = {name: rng.standard_normal(users) for name in FACTORS}
    traits = rng.standard_normal((users, len(TRAITS)))
    share = np.array([trait.static for trait in TRAITS.values()])
    for column, trait in enumerate(TRAITS.values()):
        rest = 1.0 - sum(load**2 for load in trait.loads.values())
        traits[:, column] *= np.sqrt(rest)
        for name, load in trait.loads.items():
            traits[:, column] += load * factors[name]
    static = traits * np.sqrt(share)
    drift = rng.standard_normal((users, len(TRAITS))) * np.sqrt(1.0 - share)
    regimes = np.zeros((users, len(REGIMES)), dtype=np.int64)
    regimes[:, 0] = np.searchsorted(np.cumsum(ROLE_SHARES)[:-1], rng.random(users), side="right")
    joined = np.where(rng.random(users) < 0.1, rng.integers(0, days, users), -1)
    payday = np.where(rng.random(users) < 0.75, rng.integers(1, 29, users), 0)
    state = State(static, drift, regimes, joined, payday)
    nothing = np.zeros((users, len(TARGETS)))
    for day in range(90):  # regimes settle before the first day
        state = next_state(state, features(state, day % 7, day % 30 + 1), nothing, rng)
    return state


def next_state(state: State, today: Floats, did: Floats, rng: np.random.Generator) -> State:
    """The state at the start of the next day.

    Args:
        state: state at the start of today.
        today: features of today, (users, FEATURES).
        did: whether each target event happened today, 0 or 1, (users, TARGETS).
        rng: random stream of the draws.
    """
    share = np.array([trait.static for trait in TRAITS.values()])
    keep = np.exp(-1.0 / DRIFT_DAYS)
    noise = rng.standard_normal(state.drift.shape) * np.sqrt((1.0 - share) * (1.0 - keep**2))
    log_rate = np.concatenate([today, did], axis=1) @ _SWITCH_WEIGHTS + _SWITCH_BASE
    happens = rng.random(log_rate.shape) < -np.expm1(-np.exp(np.minimum(log_rate, 3.0)))
    regimes = state.regimes.copy()
    for i in range(len(SWITCHES)):
        column = _SWITCH_REGIME[i]
        moved = happens[:, i] & (state.regimes[:, column] == _SWITCH_SOURCE[i])
        regimes[moved, column] = _SWITCH_TARGET[i]
    return State(state.static, state.drift * keep + noise, regimes, state.joined, state.payday)
