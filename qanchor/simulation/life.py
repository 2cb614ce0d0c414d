"""One block of users lived through the whole span, from a random stream of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qanchor.simulation.config import BLOCK_USERS, WorldPlan
from qanchor.simulation.intents import step
from qanchor.simulation.state import REGIME_NAMES, Floats, Ints, State, draw_state


@dataclass(frozen=True)
class Life:
    """What a block of users did, and the hidden state behind it.

    Args:
        active: log-ins, bool (days, users).
        counts: events of each kind, int16 (days, users, kinds).
        balance: log of the account's typical balance, float64 (days, users).
        test_state: hidden state at the start of the test cut-off's day.
        first: the state on the first day, for what never changes.
        split: 0 train, 1 valid, 2 test, int64 (users,).
        states: hidden state at the start of the days that were asked for.
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
    """The random stream of one block for one purpose (0 life, 1 events, 2 ceilings)."""
    return np.random.default_rng([plan.seed, block, purpose])


def _balance(state: State) -> Floats:
    money = state.regimes[:, REGIME_NAMES.index("money")]
    strain = np.array([0.0, -0.5, -1.0, -0.5])[money]
    level: Floats = 7.0 + 0.6 * state.trait("income") - 0.25 * state.trait("stress") + strain
    return level


def live(plan: WorldPlan, block: int, keep: Sequence[int] = ()) -> Life:
    """Simulate one block; always a full one, so that a user does not depend on the size of the world.

    Args:
        plan: the world.
        block: which block, from 0.
        keep: days whose hidden states are kept besides.
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
