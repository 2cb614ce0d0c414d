"""Users for policy tests: fresh users of the same world, the policies' inputs, and the users' responses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.names import USER_ID
from qanchor.progress import Progress
from qanchor.simulation.catalogue import INDEX
from qanchor.simulation.config import BLOCK_USERS, WorldPlan
from qanchor.simulation.emission import emit
from qanchor.simulation.life import block_rng, live
from qanchor.simulation.policy_inputs import PolicyInputs, Scorer, read_inputs
from qanchor.simulation.responses import LOSS, MARGIN, call_chances, draw_amounts, late_fees, use_chances
from qanchor.simulation.state import Floats, State

# Worlds on disk have at most a million users: no model was trained on these users, whatever the seed.
FIRST_BLOCK = 1_000_000 // BLOCK_USERS
# Users whose responses train a policy come from other blocks.
PILOT_BLOCK = 2 * FIRST_BLOCK
WEEKS, WEEK_DAYS = 4, 7
_RESPONSES = 3  # purpose of the random stream


@dataclass(frozen=True)
class Responses:
    """Users' responses to each action of a test; one action happens, the other outcomes are counterfactual.

    Args:
        outcomes: outcome of each action by metric, float64 (users, actions).
        expected: mean of the first metric, by two independent sets of futures, each (users, actions).
    """

    outcomes: dict[str, Floats]
    expected: tuple[Floats, Floats]


@dataclass(frozen=True)
class Cohort:
    """Users of policy tests.

    Args:
        users: user ids, (users,).
        inputs: what a policy may read when it decides.
        calls: responses to a call in each of WEEKS: `drawdown` on the cash reserve, and its `amount`.
        lines: responses to a declined (0) and a granted (1) credit line: `profit`.
        late: whether a late fee is charged in the horizon, bool (users,); known only after the decision.
    """

    users: list[str]
    inputs: PolicyInputs
    calls: Responses
    lines: Responses
    late: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class CohortPlan:
    """Users and day of a cohort.

    Args:
        world: seed and dates of the world.
        users: number of simulated users; those who have not joined by the day are left out.
        first_block: number of the users' first block.
        day: day of the decision.
        futures: simulated futures per user, where an expectation has no formula.
    """

    world: WorldPlan
    users: int
    first_block: int
    day: int
    futures: int = 20


def make_cohort(plan: CohortPlan, scorer: Scorer, progress: Progress) -> Cohort:
    """Simulate the users up to the day, with their inputs and their responses.

    Args:
        plan: users and day.
        scorer: heads and model.
        progress: bar that advances with every block.
    """
    progress.start("users", plan.users)
    parts: list[Cohort] = []
    for part in _blocks(plan, scorer):
        parts.append(part)
        progress.advance(min(BLOCK_USERS, plan.users - BLOCK_USERS * (len(parts) - 1)))
    return join_cohorts(parts)


def join_cohorts(parts: Sequence[Cohort]) -> Cohort:
    """The users of several cohorts, in order."""
    columns = [field.name for field in fields(PolicyInputs)]
    return Cohort(
        [user for part in parts for user in part.users],
        PolicyInputs(*(np.concatenate([getattr(part.inputs, name) for part in parts]) for name in columns)),
        _joined([part.calls for part in parts]),
        _joined([part.lines for part in parts]),
        np.concatenate([part.late for part in parts]),
    )


def _joined(parts: Sequence[Responses]) -> Responses:
    outcomes = {name: np.concatenate([part.outcomes[name] for part in parts]) for name in parts[0].outcomes}
    halves = [np.concatenate([part.expected[half] for part in parts]) for half in range(2)]
    return Responses(outcomes, (halves[0], halves[1]))


def _blocks(plan: CohortPlan, scorer: Scorer) -> Iterator[Cohort]:
    days = [plan.day + WEEK_DAYS * week for week in range(WEEKS)]
    for number in range(-(-plan.users // BLOCK_USERS)):
        block, users = plan.first_block + number, min(BLOCK_USERS, plan.users - number * BLOCK_USERS)
        life = live(plan.world, block, days)
        events, _ = emit(plan.world, life, block * BLOCK_USERS, users, block_rng(plan.world, block, 1))
        rows = np.flatnonzero(life.first.joined[:users] <= plan.day)
        ids = [f"u{block * BLOCK_USERS + row:07d}" for row in rows]
        events = events.filter(pc.is_in(events[USER_ID], pa.array(ids, pa.string())))
        inputs = read_inputs(scorer, events, ids, plan.world.moment(plan.day))
        late = life.counts[plan.day : plan.day + plan.world.horizon_days, :, INDEX["late_fee"]][:, rows]
        states, rng = [life.states[day].take(rows) for day in days], block_rng(plan.world, block, _RESPONSES)
        charged = late.sum(axis=0) > 0
        calls = _responses_to_calls(plan, days, states, rng)
        yield Cohort(ids, inputs, calls, _responses_to_lines(plan, states[0], charged, rng), charged)


def _responses_to_calls(
    plan: CohortPlan, days: Sequence[int], states: Sequence[State], rng: np.random.Generator
) -> Responses:
    """A user who is called in a week may draw on the reserve in it, or without a call in another week."""
    chances = [call_chances(s, plan.world.calendar(day)) for s, day in zip(states, days, strict=True)]
    called = np.stack([chance.called for chance in chances], axis=1)
    unasked = np.stack([chance.unasked for chance in chances], axis=1)
    happens = rng.random((2, *called.shape)) < np.stack([called, unasked])
    drawn, expected = np.empty_like(called), np.empty_like(called)
    for week in range(len(days)):
        others = np.delete(np.arange(len(days)), week)
        drawn[:, week] = happens[0][:, week] | happens[1][:, others].any(axis=1)
        expected[:, week] = 1 - (1 - called[:, week]) * (1 - unasked[:, others]).prod(axis=1)
    amount = drawn * draw_amounts(states[0], rng)[:, None]
    return Responses({"drawdown": drawn, "amount": amount}, (expected, expected))


def _responses_to_lines(
    plan: CohortPlan, state: State, late: NDArray[np.bool_], rng: np.random.Generator
) -> Responses:
    """A used line brings its margin, with a late fee a loss; a declined line brings nothing."""
    chance = use_chances(state, plan.world.calendar(plan.day))
    profit = np.where(late, LOSS, MARGIN) * (rng.random(len(state)) < chance)
    halves = []
    for _ in range(2):
        paths = plan.futures // 2
        crowd = state.take(np.repeat(np.arange(len(state)), paths))
        late_share = (late_fees(plan.world, crowd, plan.day, rng) > 0).reshape(len(state), paths).mean(axis=1)
        halves.append(_by_action(chance * (MARGIN + (LOSS - MARGIN) * late_share)))
    return Responses({"profit": _by_action(profit)}, (halves[0], halves[1]))


def _by_action(granted: Floats) -> Floats:
    """The profit of a declined line, zero, and of a granted one, (users, 2)."""
    return np.stack([np.zeros(len(granted)), granted], axis=1)
