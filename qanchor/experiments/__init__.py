"""Experiments: planning, assignment, effects, CUPED, always-valid intervals, off-policy evaluation."""

from qanchor.experiments.assignment import Experiment, assign, positions
from qanchor.experiments.cuped import Adjusted, adjust
from qanchor.experiments.effects import Effect, Moments, compare, holm, moments, ratio_outcomes
from qanchor.experiments.off_policy import LoggedDecisions, OffPolicy, best_arm_targets, evaluate
from qanchor.experiments.planning import (
    Design,
    SampleSize,
    detectable_difference,
    plan_means,
    plan_proportions,
)
from qanchor.experiments.sample_ratio import STRICT, SampleRatio, sample_ratio
from qanchor.experiments.sequential import FEWEST_USERS, AlwaysValid, always_valid, radius

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
    "plan_means",
    "plan_proportions",
    "positions",
    "radius",
    "ratio_outcomes",
    "sample_ratio",
]
