"""When each user is called, and who is granted a credit line: by rule, by score, at random, by the truth.

Rules and scores read `PolicyInputs` alone. Only the oracle, a policy that nobody could have, reads answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.experiments import positions
from qanchor.heads.fit import FitOptions, FitRows, FitTask, FittedHead, fit_head
from qanchor.simulation.cohort import WEEK_DAYS, Cohort
from qanchor.simulation.policy_inputs import SCENARIOS, PolicyInputs
from qanchor.simulation.state import Floats, Ints

LATE_DAYS = 30
LONG_SINCE_SALARY_DAYS = 23
_PAY_PERIOD_DAYS = 365 / 12
_FADED_DAYS = 400.0
_VALID_SHARE = 0.25
_FEATURES = (*(f"score_{name}" for name in SCENARIOS), "since_late_fee", "balance", "to_payday")


def hash_actions(users: Sequence[str], actions: int, salt: str) -> Ints:
    """One action for each user, by a hash with a salt of its purpose, (users,)."""
    return np.minimum((positions(users, salt) * actions).astype(np.int64), actions - 1)


def rotation(users: Sequence[str], weeks: int) -> Ints:
    """The fixed rule for calls: an equal part of the customer base each week, (users,)."""
    return hash_actions(users, weeks, "rotation")


def before_payday(inputs: PolicyInputs, weeks: int) -> Ints:
    """A sharper rule for calls: the first week in which the last salary is long ago, else the last week."""
    since = inputs.since_salary[:, None] + WEEK_DAYS * np.arange(weeks)
    due = since % _PAY_PERIOD_DAYS > LONG_SINCE_SALARY_DAYS
    due[:, -1] = True
    return np.asarray(due.argmax(axis=1), dtype=np.int64)


def head_features(inputs: PolicyInputs, week: int = 0) -> NDArray[np.float32]:
    """The response heads' features, (users, _FEATURES): scores, indicators, days from a week to pay day.

    Pay day is expected a month after the last salary; it is missing without a salary in two months.
    """
    days = inputs.since_salary + WEEK_DAYS * week
    to_payday = np.where(inputs.since_salary < 2 * _PAY_PERIOD_DAYS, -days % _PAY_PERIOD_DAYS, np.nan)
    columns = (inputs.scores, np.minimum(inputs.since_late_fee, _FADED_DAYS), inputs.balance, to_payday)
    return np.column_stack(columns).astype(np.float32)


def _fit(
    features: NDArray[np.float32], names: tuple[str, ...], outcomes: NDArray[np.generic], pilot: Cohort
) -> FittedHead:
    valid_part = positions(pilot.users, "pilot-valid") < _VALID_SHARE
    labels = outcomes.astype(np.int64)
    train, valid = (FitRows(features[part], labels[part]) for part in (~valid_part, valid_part))
    return fit_head(FitTask(train, valid, names), FitOptions(class_weight="none", seeds=5))


@dataclass(frozen=True)
class CallPolicy:
    """Calls each user in the week in which a drawdown is likeliest.

    Args:
        head: head of the chance of a drawdown after a call, on scores, indicators and the week.
        weeks: number of weeks to choose from.
    """

    head: FittedHead
    weeks: int

    def choose(self, inputs: PolicyInputs) -> Ints:
        """The week of each user's call, (users,)."""
        return np.asarray(self.predict(inputs).argmax(axis=1), dtype=np.int64)

    def predict(self, inputs: PolicyInputs) -> Floats:
        """Chance of a drawdown for a call in each week, (users, weeks)."""
        rows = [self.head.predict(_with_week(inputs, week)) for week in range(self.weeks)]
        return np.stack(rows, axis=1)


def _with_week(inputs: PolicyInputs, week: int) -> NDArray[np.float32]:
    features = head_features(inputs, week)
    return np.column_stack([features, np.full(len(features), week, dtype=np.float32)])


def fit_calls(pilot: Cohort, weeks: int) -> CallPolicy:
    """Learn from a pilot in which every user was called in a random week.

    Args:
        pilot: users with their inputs and the outcome of one call each.
        weeks: number of weeks to choose from.
    """
    week, row = hash_actions(pilot.users, weeks, "pilot"), np.arange(len(pilot))
    features = np.stack([_with_week(pilot.inputs, week) for week in range(weeks)])[week, row]
    outcomes = pilot.calls.outcomes["drawdown"][row, week]
    return CallPolicy(_fit(features, (*_FEATURES, "week"), outcomes, pilot), weeks)


@dataclass(frozen=True)
class LinePolicy:
    """Declines the users who are likeliest to be charged a late fee.

    Args:
        head: head of the chance of a late fee, on the embedding, aggregates, scores and indicators.
        bar: chance above which a line is declined; set so that it declines as many users as the fixed rule.
    """

    head: FittedHead
    bar: float

    def choose(self, inputs: PolicyInputs) -> Ints:
        """1 where a line is granted, else 0, (users,)."""
        return (self.predict(inputs) <= self.bar).astype(np.int64)

    def predict(self, inputs: PolicyInputs) -> Floats:
        """Chance of a late fee, (users,)."""
        return self.head.predict(_wide(inputs))


def _wide(inputs: PolicyInputs) -> NDArray[np.float32]:
    return np.column_stack([inputs.features, head_features(inputs)])


def fit_lines(pilot: Cohort) -> LinePolicy:
    """Learn from earlier users whose late fees are known by now, whatever was decided.

    The bar is set on the pilot, so that in the test a user's line does not depend on other users.

    Args:
        pilot: users with their inputs and whether a late fee was charged.
    """
    features = _wide(pilot.inputs)
    names = (*(f"feature_{number}" for number in range(pilot.inputs.features.shape[1])), *_FEATURES)
    head = _fit(features, names, pilot.late, pilot)
    bar = float(np.quantile(head.predict(features), 1 - late_rule(pilot.inputs).mean()))
    return LinePolicy(head, bar)


def late_rule(inputs: PolicyInputs) -> NDArray[np.bool_]:
    """The fixed rule for credit lines: declined after a late fee in the last 30 days, bool (users,)."""
    return np.asarray(inputs.since_late_fee <= LATE_DAYS)


def best_weeks(cohort: Cohort) -> Ints:
    """The oracle's calls: each user's best week, (users,)."""
    return np.asarray(cohort.calls.expected[0].argmax(axis=1), dtype=np.int64)


def best_lines(cohort: Cohort, declined: int) -> Ints:
    """The oracle's lines: it declines the users who cost most by one set of futures, (users,)."""
    granted = np.ones(len(cohort), dtype=np.int64)
    granted[np.argsort(cohort.lines.expected[0][:, 1], kind="stable")[:declined]] = 0
    return granted
