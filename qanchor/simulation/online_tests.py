"""The paper's two online tests, run offline on fresh users of the simulated world.

Source: arXiv 2602.14492, section on online results: contact timing for a cash-reserve outreach, and
delinquency scoring.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qanchor.embedding.spaces import active_spaces, load_embedder
from qanchor.errors import FingerprintMismatch
from qanchor.experiments import OffPolicy
from qanchor.heads.score import load_head
from qanchor.metrics import Bootstrap, Interval, bootstrap_intervals
from qanchor.registry.overview import read_overview
from qanchor.simulation import policies
from qanchor.simulation.cohort import WEEKS, Cohort
from qanchor.simulation.config import WorldPlan
from qanchor.simulation.policy_inputs import SCENARIOS, PolicyInputs, Scorer
from qanchor.simulation.policy_test import (
    FIXED,
    TREATMENT,
    PolicyResult,
    PolicyTest,
    replay_log,
    run_test,
    soft_rule,
)
from qanchor.simulation.state import Floats
from qanchor.site import Site
from qanchor.times import as_utc

# The pilot's outcomes are known by the day of the tests.
PILOT_DAY, TEST_DAY = 180, 210


@dataclass(frozen=True)
class OnlineTest:
    """One test with its offline estimates.

    Args:
        test: users, policies and metric.
        result: estimated and true effects.
        replay: off-policy value of the treatment, from another policy's decisions and a reward model.
        ranking: KS and AUC of the head less those of the rule, on the same users; empty for calls.
    """

    test: PolicyTest
    result: PolicyResult
    replay: OffPolicy
    ranking: Mapping[str, Interval]


def open_scorer(site: Site) -> Scorer:
    """The champion heads of SCENARIOS with the model that computes their vectors.

    Args:
        site: home and registry of the heads, workspace of the simulated world, device of the model.

    Raises:
        UnknownScenario: scenarios.yaml lacks one of them; use the workspace of the simulated world.
        NotReady: one has no head yet; run `qanchor-cli head train`.
        FingerprintMismatch: a head reads another embedding space than the model's; train it again.
    """
    heads = [load_head(site, name) for name in SCENARIOS]
    spaces = active_spaces(site, SCENARIOS)
    for name, head, space in zip(SCENARIOS, heads, spaces, strict=True):
        if head.card.width and head.card.fingerprint != space.fingerprint:
            raise FingerprintMismatch(
                f"the head of {name} reads vectors of {head.card.fingerprint[:12]}, the model in service "
                f"writes {space.fingerprint[:12]}",
                f"Run `qanchor-cli backfill --scenario {name}`, then train the head again.",
            )
    embedder, queries = load_embedder(site, spaces)
    return Scorer(heads, embedder, queries, site.workspace)


def open_world(site: Site, seed: int) -> WorldPlan:
    """The world of new users, on the weekdays of the world that the model in service was trained on.

    Args:
        site: registry of the model.
        seed: seed of the new users.
    """
    world, model = WorldPlan(users=1, seed=seed), read_overview(site.engine, site.workspace).model
    if model is None:
        return world
    # The model reads weekdays, and the world of a demo is moved to end yesterday.
    days = (as_utc(model.trained_until) - world.moment(world.valid_day)).days
    return replace(world, shift_days=days % 7)


def calls_test(pilot: Cohort, cohort: Cohort) -> OnlineTest:
    """Contact timing: each user is called once in four weeks, in the week that the policy chooses.

    Args:
        pilot: earlier users, each called in a random week.
        cohort: users of the test.
    """
    policy = policies.fit_calls(pilot, WEEKS)
    choices = {
        FIXED: policies.rotation(cohort.users, WEEKS),
        TREATMENT: policy.choose(cohort.inputs),
        "random": policies.hash_actions(cohort.users, WEEKS, "random"),
        "before pay day": policies.before_payday(cohort.inputs, WEEKS),
        "oracle": policies.best_weeks(cohort),
    }
    test = PolicyTest("cash-reserve-calls", cohort.users, cohort.calls, choices, _covariates(cohort.inputs))
    even = np.full((len(cohort), WEEKS), 1 / WEEKS)
    replay = replay_log(test, TREATMENT, even, np.random.default_rng(0), policy.predict(cohort.inputs))
    return OnlineTest(test, run_test(test), replay, {})


def lines_test(pilot: Cohort, cohort: Cohort) -> OnlineTest:
    """Delinquency scoring: who is granted a credit line; the fixed rule sets the number of lines.

    Args:
        pilot: earlier users whose late fees are known.
        cohort: users of the test.
    """
    policy = policies.fit_lines(pilot)
    rule = policies.late_rule(cohort.inputs)
    fixed = 1 - rule.astype(np.int64)
    declined = policies.hash_actions(cohort.users, 1000, "random") < 1000 * rule.mean()
    choices = {
        FIXED: fixed,
        TREATMENT: policy.choose(cohort.inputs),
        "random": 1 - declined.astype(np.int64),
        "oracle": policies.best_lines(cohort, int(rule.sum())),
    }
    test = PolicyTest("credit-lines", cohort.users, cohort.lines, choices, _covariates(cohort.inputs))
    chance = policy.predict(cohort.inputs)
    predicted = np.stack(
        [np.zeros(len(cohort)), _expected_profit(pilot, policy.predict(pilot.inputs), chance)], axis=1
    )
    replay = replay_log(test, TREATMENT, soft_rule(fixed), np.random.default_rng(0), predicted)
    ranking = _ranking(cohort.late, chance, -cohort.inputs.since_late_fee)
    return OnlineTest(test, run_test(test), replay, ranking)


def _expected_profit(pilot: Cohort, pilot_chance: Floats, chance: Floats) -> Floats:
    """Expected profit of a granted line: a linear fit of the pilot's profits on the chance of a late fee."""
    slope, base = np.polyfit(pilot_chance, pilot.lines.outcomes["profit"][:, 1], 1)
    profit: Floats = base + slope * chance
    return profit


def _ranking(late: NDArray[np.bool_], head: Floats, rule: Floats) -> dict[str, Interval]:
    names = ("ks", "auc")
    return bootstrap_intervals(names, late.astype(np.int64), head, rule, Bootstrap(draws=300))


def _covariates(inputs: PolicyInputs) -> dict[str, Floats]:
    """Figures known before the test, for CUPED."""
    scores = {f"score_{name}": inputs.scores[:, column] for column, name in enumerate(SCENARIOS)}
    return scores | {"late_lately": np.exp(-inputs.since_late_fee / policies.LATE_DAYS)}
