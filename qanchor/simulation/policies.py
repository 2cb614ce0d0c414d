"""Who is called when, and who is granted a credit line: by rule, by score, by chance, by the truth.

Rules and scores see `Visible` alone. Only the oracle, a policy that nobody could have, sees answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.experiments import places
from qanchor.heads.fit import FitOptions, FitRows, FitTask, FittedHead, fit_head
from qanchor.simulation.cohort import WEEK_DAYS, Cohort
from qanchor.simulation.state import Floats, Ints
from qanchor.simulation.visible import SCENARIOS, Visible

LATE_DAYS = 30
LONG_SINCE_SALARY_DAYS = 23
_PAY_PERIOD_DAYS = 365 / 12
_FADED_DAYS = 400.0
_VALID_SHARE = 0.25
_SEEN = (*(f"score_{name}" for name in SCENARIOS), "since_late_fee", "balance", "to_payday")


def drawn(users: Sequence[str], actions: int, salt: str) -> Ints:
    """One of the actions for each user, by a hash that nothing else uses, (users,)."""
    return np.minimum((places(users, salt) * actions).astype(np.int64), actions - 1)


def rotation(users: Sequence[str], weeks: int) -> Ints:
    """The fixed rule for calls: the customer base is gone through once, a part each week, (users,)."""
    return drawn(users, weeks, "rotation")


def before_payday(seen: Visible, weeks: int) -> Ints:
    """A sharper rule for calls: the first week in which the last salary is long ago, else the last one."""
    since = seen.since_salary[:, None] + WEEK_DAYS * np.arange(weeks)
    due = since % _PAY_PERIOD_DAYS > LONG_SINCE_SALARY_DAYS
    due[:, -1] = True
    return np.asarray(due.argmax(axis=1), dtype=np.int64)


def matrix(seen: Visible, week: int = 0) -> NDArray[np.float32]:
    """What response heads read, (users, _SEEN): scores, signs, and days to pay day from a week on.

    Pay day is expected a month after the last salary; it is missing where there was none in two months.
    """
    days = seen.since_salary + WEEK_DAYS * week
    to_payday = np.where(seen.since_salary < 2 * _PAY_PERIOD_DAYS, -days % _PAY_PERIOD_DAYS, np.nan)
    columns = (seen.scores, np.minimum(seen.since_late_fee, _FADED_DAYS), seen.balance, to_payday)
    return np.column_stack(columns).astype(np.float32)


def _fit(
    features: NDArray[np.float32], names: tuple[str, ...], happened: NDArray[np.generic], pilot: Cohort
) -> FittedHead:
    chosen = places(pilot.users, "pilot-valid") < _VALID_SHARE
    labels = happened.astype(np.int64)
    train, valid = (FitRows(features[part], labels[part]) for part in (~chosen, chosen))
    return fit_head(FitTask(train, valid, names), FitOptions(class_weight="none", seeds=5))


@dataclass(frozen=True)
class CallPolicy:
    """Calls each user in the week in which a drawdown is likeliest.

    Args:
        head: chance of a drawdown after a call, from scores, signs and the week.
        weeks: to choose from.
    """

    head: FittedHead
    weeks: int

    def choose(self, seen: Visible) -> Ints:
        """The week of each user's call, (users,)."""
        return np.asarray(self.predict(seen).argmax(axis=1), dtype=np.int64)

    def predict(self, seen: Visible) -> Floats:
        """Chance of a drawdown for a call in each week, (users, weeks)."""
        rows = [self.head.predict(_with_week(seen, week)) for week in range(self.weeks)]
        return np.stack(rows, axis=1)


def _with_week(seen: Visible, week: int) -> NDArray[np.float32]:
    features = matrix(seen, week)
    return np.column_stack([features, np.full(len(features), week, dtype=np.float32)])


def fit_calls(pilot: Cohort, weeks: int) -> CallPolicy:
    """Learn from a pilot in which every user was called in a random week.

    Args:
        pilot: users, what was visible, and what came of the one call of each.
        weeks: to choose from.
    """
    called, row = drawn(pilot.users, weeks, "pilot"), np.arange(len(pilot))
    features = np.stack([_with_week(pilot.seen, week) for week in range(weeks)])[called, row]
    happened = pilot.calls.outcomes["drawdown"][row, called]
    return CallPolicy(_fit(features, (*_SEEN, "week"), happened, pilot), weeks)


@dataclass(frozen=True)
class LinePolicy:
    """Declines those who are likeliest to be charged a late fee.

    Args:
        head: chance of a late fee, from the scenario's embedding, aggregates, scores and signs.
        bar: chance from which a line is declined; as many pass it as the fixed rule declines.
    """

    head: FittedHead
    bar: float

    def choose(self, seen: Visible) -> Ints:
        """1 where a line is granted, else 0, (users,)."""
        return (self.predict(seen) <= self.bar).astype(np.int64)

    def predict(self, seen: Visible) -> Floats:
        """Chance of a late fee, (users,)."""
        return self.head.predict(_wide(seen))


def _wide(seen: Visible) -> NDArray[np.float32]:
    return np.column_stack([seen.features, matrix(seen)])


def fit_lines(pilot: Cohort) -> LinePolicy:
    """Learn from earlier users whose late fees are known by now; late fees show whatever was decided.

    The bar is set on the pilot, so that in the test a user's line depends on nobody else's.

    Args:
        pilot: users, what was visible, and who was charged a late fee.
    """
    features = _wide(pilot.seen)
    names = (*(f"feature_{number}" for number in range(pilot.seen.features.shape[1])), *_SEEN)
    head = _fit(features, names, pilot.late, pilot)
    bar = float(np.quantile(head.predict(features), 1 - late_rule(pilot.seen).mean()))
    return LinePolicy(head, bar)


def late_rule(seen: Visible) -> NDArray[np.bool_]:
    """The fixed rule for credit lines: declined is who had a late fee in the last 30 days, (users,)."""
    return np.asarray(seen.since_late_fee <= LATE_DAYS)


def best_weeks(cohort: Cohort) -> Ints:
    """The oracle's calls: each user's best week, (users,)."""
    return np.asarray(cohort.calls.expected[0].argmax(axis=1), dtype=np.int64)


def best_lines(cohort: Cohort, declined: int) -> Ints:
    """The oracle's lines: declined are those who cost most by one set of futures, (users,)."""
    granted = np.ones(len(cohort), dtype=np.int64)
    granted[np.argsort(cohort.lines.expected[0][:, 1], kind="stable")[:declined]] = 0
    return granted
