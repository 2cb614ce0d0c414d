"""Users for policy tests: fresh ones of the same world, what may be seen of them, and their answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.names import USER_ID
from qanchor.progress import Progress
from qanchor.simulation.config import BLOCK_USERS, WorldPlan
from qanchor.simulation.emission import emit
from qanchor.simulation.kinds import INDEX
from qanchor.simulation.life import block_rng, live
from qanchor.simulation.responses import LOSS, MARGIN, call_chances, draw_amounts, late_fees, use_chances
from qanchor.simulation.state import Floats, State
from qanchor.simulation.visible import Reader, Visible, look

# Worlds on disk have at most a million users: nobody here has trained a model, whatever the seed.
FIRST_BLOCK = 1_000_000 // BLOCK_USERS
# Users whose answers train a policy are of blocks of their own.
PILOT_BLOCK = 2 * FIRST_BLOCK
WEEKS, WEEK_DAYS = 4, 7
_ANSWERS = 3


@dataclass(frozen=True)
class Answers:
    """How users answer each action of a test; each answers one, the others are what would have been.

    Args:
        outcomes: by metric, what happens after each action, float64 (users, actions).
        expected: mean of the first metric, by two independent sets of futures, each (users, actions).
    """

    outcomes: dict[str, Floats]
    expected: tuple[Floats, Floats]


@dataclass(frozen=True)
class Cohort:
    """Users of policy tests.

    Args:
        users: ids, (users,).
        seen: what a policy may see when it decides.
        calls: answers to a call in each of WEEKS: `drawdown` on the cash reserve, and its `amount`.
        lines: answers to a declined (0) and a granted (1) credit line: `profit`.
        late: whether a late fee is charged in the horizon, bool (users,): events that everybody sees later.
    """

    users: list[str]
    seen: Visible
    calls: Answers
    lines: Answers
    late: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class CohortPlan:
    """Which users, and when.

    Args:
        world: seed and dates.
        users: how many are lived; those who have not joined by the day are left out.
        first_block: of the users.
        day: on which it is decided about them.
        futures: imagined for each user, where an expectation is no formula.
    """

    world: WorldPlan
    users: int
    first_block: int
    day: int
    futures: int = 20


def make_cohort(plan: CohortPlan, reader: Reader, progress: Progress) -> Cohort:
    """Live the users up to the day, look at them, and find out how they would answer.

    Args:
        plan: which users, and when.
        reader: heads and model.
        progress: told about every block.
    """
    progress.start("users", plan.users)
    parts: list[Cohort] = []
    for part in _blocks(plan, reader):
        parts.append(part)
        progress.advance(min(BLOCK_USERS, plan.users - BLOCK_USERS * (len(parts) - 1)))
    return join_cohorts(parts)


def join_cohorts(parts: Sequence[Cohort]) -> Cohort:
    """The users of several cohorts, in order."""
    columns = [field.name for field in fields(Visible)]
    return Cohort(
        [user for part in parts for user in part.users],
        Visible(*(np.concatenate([getattr(part.seen, name) for part in parts]) for name in columns)),
        _joined([part.calls for part in parts]),
        _joined([part.lines for part in parts]),
        np.concatenate([part.late for part in parts]),
    )


def _joined(parts: Sequence[Answers]) -> Answers:
    outcomes = {name: np.concatenate([part.outcomes[name] for part in parts]) for name in parts[0].outcomes}
    halves = [np.concatenate([part.expected[half] for part in parts]) for half in range(2)]
    return Answers(outcomes, (halves[0], halves[1]))


def _blocks(plan: CohortPlan, reader: Reader) -> Iterator[Cohort]:
    days = [plan.day + WEEK_DAYS * week for week in range(WEEKS)]
    for number in range(-(-plan.users // BLOCK_USERS)):
        block, wanted = plan.first_block + number, min(BLOCK_USERS, plan.users - number * BLOCK_USERS)
        life = live(plan.world, block, days)
        events, _ = emit(plan.world, life, block * BLOCK_USERS, wanted, block_rng(plan.world, block, 1))
        rows = np.flatnonzero(life.first.joined[:wanted] <= plan.day)
        users = [f"u{block * BLOCK_USERS + row:07d}" for row in rows]
        here = pc.is_in(events[USER_ID], pa.array(users, pa.string()))
        seen = look(reader, events.filter(here), users, plan.world.moment(plan.day))
        late = life.counts[plan.day : plan.day + plan.world.horizon_days, :, INDEX["late_fee"]][:, rows]
        states, rng = [life.states[day].take(rows) for day in days], block_rng(plan.world, block, _ANSWERS)
        happened = late.sum(axis=0) > 0
        calls = _answers_to_calls(plan, days, states, rng)
        yield Cohort(users, seen, calls, _answers_to_lines(plan, states[0], happened, rng), happened)


def _answers_to_calls(
    plan: CohortPlan, days: Sequence[int], states: Sequence[State], rng: np.random.Generator
) -> Answers:
    """Whoever is called in a week may draw on the reserve for it, or unasked in another one."""
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
    return Answers({"drawdown": drawn, "amount": amount}, (expected, expected))


def _answers_to_lines(
    plan: CohortPlan, state: State, late: NDArray[np.bool_], rng: np.random.Generator
) -> Answers:
    """A line brings its margin while used on time, a loss when used and late, nothing where declined."""
    chance = use_chances(state, plan.world.calendar(plan.day))
    brought = np.where(late, LOSS, MARGIN) * (rng.random(len(state)) < chance)
    halves = []
    for _ in range(2):
        paths = plan.futures // 2
        crowd = state.take(np.repeat(np.arange(len(state)), paths))
        often = (late_fees(plan.world, crowd, plan.day, rng) > 0).reshape(len(state), paths).mean(axis=1)
        halves.append(_by_action(chance * (MARGIN + (LOSS - MARGIN) * often)))
    return Answers({"profit": _by_action(brought)}, (halves[0], halves[1]))


def _by_action(granted: Floats) -> Floats:
    """What a granted line brings beside the nothing of a declined one, (users, 2)."""
    return np.stack([np.zeros(len(granted)), granted], axis=1)
