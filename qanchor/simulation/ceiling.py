"""The best AUC that any model could reach: many futures simulated from the hidden state."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.simulation.config import WorldPlan
from qanchor.simulation.life import step
from qanchor.simulation.outcomes import (
    QUIET_DAYS,
    SPENDING_COLUMNS,
    TARGET_KINDS,
    Horizon,
    draw_spending,
    outcomes,
)
from qanchor.simulation.state import TRAIT_NAMES, Floats, State

_SLOTS = ("food", "shop", "leisure", "mini", "daily")


@dataclass(frozen=True)
class Ceiling:
    """How well the hidden state itself would rank users.

    Args:
        expected: AUC of the true probabilities, averaged over possible labels.
        standard_error: standard deviation of the AUC over labels drawn for this many rows.
        realised: AUC of the true probabilities against the labels that happened.
        positive_rate: share of positives among the rows.
        rows: number of rows.
    """

    expected: float
    standard_error: float
    realised: float
    positive_rate: float
    rows: int


def future_frequencies(
    plan: WorldPlan, state: State, paths: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The share of simulated futures in which each scenario comes true.

    Args:
        plan: plan of the world.
        state: hidden state at the test cut-off.
        paths: futures per user.
        rng: random stream of the draws.

    Returns:
        Frequencies float64 (users, SCENARIOS) in [0, 1].
    """
    users = len(state)
    crowd = state.take(np.repeat(np.arange(users), paths))
    size = len(crowd)
    events = np.zeros((size, len(TARGET_KINDS)), dtype=np.int64)
    purchases = np.zeros((size, len(SPENDING_COLUMNS)), dtype=np.int64)
    logins, last = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for day in range(plan.test_day, plan.test_day + plan.horizon_days):
        crowd, today = step(crowd, day, plan.calendar(day), rng, _SLOTS)
        events += today.counts[:, TARGET_KINDS]
        purchases += today.counts[:, SPENDING_COLUMNS]
        logins += today.active
        if day >= plan.test_day + plan.horizon_days - QUIET_DAYS:
            last += today.active
    income = crowd.static[:, TRAIT_NAMES.index("income")]
    horizon = Horizon(events, logins, last, draw_spending(purchases, income, rng))
    frequency: Floats = outcomes(horizon).reshape(users, paths, -1).mean(axis=1)
    return frequency


def expected_auc(ranking: Floats, probability: Floats) -> float:
    """The AUC that a ranking has on average when labels are drawn with these probabilities.

    The mean number of correctly ordered (positive, negative) pairs over the mean number of such pairs,
    `sum_ij p_i (1 - p_j) [s_i > s_j] / sum_ij p_i (1 - p_j)` over i != j, ties of s counting one half.

    Args:
        ranking: scores s, (rows,); higher means likelier.
        probability: probability p of each row, (rows,).
    """
    order = np.argsort(ranking, kind="stable")
    s, p = ranking[order], probability[order]
    q_before = np.concatenate([[0.0], np.cumsum(1.0 - p)])
    first, after = np.searchsorted(s, s, "left"), np.searchsorted(s, s, "right")
    below, tied = q_before[first], q_before[after] - q_before[first] - (1.0 - p)
    pairs = p.sum() * (1.0 - p).sum() - (p * (1.0 - p)).sum()
    return float((p * (below + 0.5 * tied)).sum() / pairs) if pairs > 0 else float("nan")


def ceiling(halves: tuple[Floats, Floats], labels: NDArray[np.bool_]) -> Ceiling:
    """The ceiling of one scenario.

    One half of the futures ranks, the other weighs, in both directions: with one set for both, chance would
    count as signal.

    Args:
        halves: frequencies over two independent sets of futures, each (rows,).
        labels: labels that happened, (rows,).
    """
    a, b = halves
    value = (expected_auc(a, b) + expected_auc(b, a)) / 2
    mean = (a + b) / 2
    realised = expected_auc(mean, labels.astype(np.float64))
    rng = np.random.default_rng(0)
    draws = [expected_auc(mean, (rng.random(len(mean)) < mean).astype(np.float64)) for _ in range(100)]
    return Ceiling(value, float(np.nanstd(draws)), realised, float(labels.mean()), len(labels))
