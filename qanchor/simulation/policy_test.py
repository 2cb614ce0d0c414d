"""A policy test: users assigned by hash, one decision for each; estimated effects and the known truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.experiments import (
    Experiment,
    LoggedDecisions,
    OffPolicy,
    assign,
    best_arm_targets,
    evaluate,
)
from qanchor.experiments.analysis import Analysis, AnalysisRequest, analyse
from qanchor.names import USER_ID
from qanchor.simulation.cohort import Responses
from qanchor.simulation.state import Floats, Ints

ARMS = {"control": 0.5, "treatment": 0.5}
FIXED, TREATMENT = "fixed rule", "treatment"
# An arm with fewer users has no variance.
_FEWEST = 2


@dataclass(frozen=True)
class PolicyTest:
    """Policies and the users that they are tested on.

    Args:
        name: name of the experiment; salts the arms.
        users: user ids, (users,).
        responses: the users' responses; the first metric decides.
        choices: action for each user by policy, (users,) each; FIXED and TREATMENT are among the policies.
        covariates: figures known before the test, for CUPED, (users,) each.
    """

    name: str
    users: Sequence[str]
    responses: Responses
    choices: Mapping[str, Ints]
    covariates: Mapping[str, Floats]

    @property
    def metric(self) -> str:
        """The outcome that decides."""
        return next(iter(self.responses.outcomes))

    def value(self, policy: str) -> float:
        """The true mean of the metric if every user got a policy's action.

        Uses the set of futures that the oracle did not choose by.
        """
        return float(self.responses.expected[1][np.arange(len(self.users)), self.choices[policy]].mean())


@dataclass(frozen=True)
class PolicyResult:
    """Estimated and true effects of a policy test.

    Args:
        rows: user_id, arm, action, triggered, outcomes and covariates: a file for `experiment analyse`.
        analysis: analysis of all users.
        triggered: analysis of the users for whom the two policies decide differently; None where an arm has
            fewer than two of them.
        values: true mean of the metric over the users, by policy.
        same: share of the users for whom the two policies decide alike.
    """

    rows: pa.Table
    analysis: Analysis
    triggered: Analysis | None
    values: dict[str, float]
    same: float

    @property
    def note(self) -> str:
        """Why `triggered` is None, in words; else empty."""
        if self.triggered is not None:
            return ""
        different = int(pc.sum(self.rows["triggered"]).as_py())
        if not different:
            return (
                f"The two policies decide alike for all {self.rows.num_rows:,} users: there is no difference "
                "between them; differences between the arms are chance."
            )
        return (
            f"The two policies decide differently for {different:,} of {self.rows.num_rows:,} users: too few "
            "for a comparison, which needs two in each arm."
        )

    @property
    def true_effect(self) -> float:
        """Treatment less fixed rule, over all users."""
        return self.values[TREATMENT] - self.values[FIXED]

    @property
    def true_triggered(self) -> float:
        """Treatment less fixed rule, over the users for whom they decide differently."""
        return self.true_effect / max(1 - self.same, 1e-12)


def run_test(test: PolicyTest) -> PolicyResult:
    """Assign, decide, observe, analyse.

    Args:
        test: users, policies and metric.
    """
    row = np.arange(len(test.users))
    treated = assign(Experiment(test.name, ARMS), test.users) == 1
    fixed, treatment = test.choices[FIXED], test.choices[TREATMENT]
    action = np.where(treated, treatment, fixed)
    columns = {
        USER_ID: pa.array(test.users, pa.string()),
        "arm": pa.array(np.where(treated, "treatment", "control").tolist()),
        "action": pa.array(action),
        "triggered": pa.array(fixed != treatment),
    }
    columns |= {name: pa.array(values[row, action]) for name, values in test.responses.outcomes.items()}
    rows = pa.table(columns | {name: pa.array(values) for name, values in test.covariates.items()})
    request = AnalysisRequest(tuple(test.responses.outcomes), tuple(test.covariates))
    different = np.bincount(treated[fixed != treatment], minlength=2)
    return PolicyResult(
        rows,
        analyse(rows, replace(request, planned_users=len(row))),
        analyse(rows.filter(pc.field("triggered")), request) if different.min() >= _FEWEST else None,
        {name: test.value(name) for name in test.choices},
        float((fixed == treatment).mean()),
    )


def replay_log(
    test: PolicyTest, policy: str, chances: Floats, rng: np.random.Generator, predicted: Floats | None = None
) -> OffPolicy:
    """Value a policy on decisions logged under another one, on the same users.

    Args:
        test: users and policies.
        policy: name of the valued policy.
        chances: probability of each action under the logging policy, (users, actions).
        rng: random stream of the logged actions.
        predicted: a model's expected reward of each action, (users, actions); None: no model.
    """
    row = np.arange(len(test.users))
    action = (
        (rng.random(len(row))[:, None] > chances.cumsum(axis=1)).sum(axis=1).clip(max=chances.shape[1] - 1)
    )
    choice = test.choices[policy]
    log = LoggedDecisions(
        test.responses.outcomes[test.metric][row, action],
        chances[row, action],
        best_arm_targets(action, choice),
        None if predicted is None else predicted[row, action],
        None if predicted is None else predicted[row, choice],
    )
    return evaluate(log)


def soft_rule(granted: Ints) -> Floats:
    """Chances of a rule of two actions that is followed in 80% of the cases, (users, 2)."""
    chance = np.where(granted == 1, 0.8, 1 - 0.8)
    return np.stack([1 - chance, chance], axis=1)
