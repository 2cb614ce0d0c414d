"""Experiments: planning, assignment, effects, CUPED, looks at any time, and policies valued on logs."""

from qanchor.evaluation.ab_test.assignment import Experiment, assign, places
from qanchor.evaluation.ab_test.cuped import Adjusted, adjust
from qanchor.evaluation.ab_test.effects import Effect, Moments, compare, holm, moments, ratio_outcomes
from qanchor.evaluation.ab_test.off_policy import LoggedDecisions, OffPolicy, best_arm_targets, evaluate
from qanchor.evaluation.ab_test.planning import (
    Design,
    SampleSize,
    detectable_difference,
    plan_means,
    plan_proportions,
)
from qanchor.evaluation.ab_test.sample_ratio import STRICT, SampleRatio, sample_ratio
from qanchor.evaluation.ab_test.sequential import FEWEST_USERS, AlwaysValid, always_valid, radius

__all__ = [
    "FEWEST_USERS",
    "STRICT",
    "Adjusted",
    "AlwaysValid",
    "Design",
    "Effect",
    "Experiment",
    "LoggedDecisions",
    "Moments",
    "OffPolicy",
    "SampleRatio",
    "SampleSize",
    "adjust",
    "always_valid",
    "assign",
    "best_arm_targets",
    "compare",
    "detectable_difference",
    "evaluate",
    "holm",
    "moments",
    "places",
    "plan_means",
    "plan_proportions",
    "radius",
    "ratio_outcomes",
    "sample_ratio",
]
