"""A whole experiment from its rows: the arms' sizes, then every metric with and without CUPED."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.errors import InputError
from qanchor.experiments.cuped import adjust
from qanchor.experiments.effects import Effect, compare, holm, moments, ratio_outcomes
from qanchor.experiments.sample_ratio import SampleRatio, sample_ratio
from qanchor.experiments.sequential import AlwaysValid, always_valid
from qanchor.experiments.tables import numbers, refuse_repeats, texts
from qanchor.names import USER_ID

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Question:
    """What is asked of an experiment's rows.

    Args:
        metrics: columns, or ABOVE/BELOW for a ratio of two columns.
        covariates: columns of before the experiment, for CUPED.
        arm: the column with the arms.
        control: the arm that others are compared with.
        shares: of the arms as they were meant; None: equal.
        planned_users: of two arms; given, there is an interval that holds at every look.
        confidence: of the intervals, in (0, 1).
    """

    metrics: Sequence[str]
    covariates: Sequence[str] = ()
    arm: str = "arm"
    control: str = "control"
    shares: Mapping[str, float] | None = None
    planned_users: int | None = None
    confidence: float = 0.95


@dataclass(frozen=True)
class MetricResult:
    """One metric of one arm against control.

    Args:
        metric: its name.
        arm: the arm.
        effect: without CUPED.
        adjusted: with CUPED; None without covariates.
        variance_cut: share of the variance that CUPED took; 0 without.
        always: the (adjusted) difference as it may be reported at any look; None where not asked for.
        p_value: of the (adjusted) effect, by Holm over all metrics and arms.
    """

    metric: str
    arm: str
    effect: Effect
    adjusted: Effect | None
    variance_cut: float
    always: AlwaysValid | None
    p_value: float

    @property
    def best(self) -> Effect:
        """The effect that counts: with CUPED where there is one."""
        return self.adjusted or self.effect


@dataclass(frozen=True)
class Analysis:
    """An experiment's answer.

    Args:
        arms: users of each arm, control first.
        ratio: whether the arms are as large as they were meant.
        results: by metric, then arm.
        notes: what is worth knowing, one sentence each.
    """

    arms: dict[str, int]
    ratio: SampleRatio
    results: tuple[MetricResult, ...]
    notes: tuple[str, ...]


def analyse(table: pa.Table, question: Question) -> Analysis:
    """Measure every metric of an experiment.

    Args:
        table: one row for each user, with arm, metrics and covariates; user_id is checked where there is one.
        question: columns, arms, shares.

    Raises:
        InputError: a column is missing or broken, a user stands twice, or an arm is unknown or too small.
    """
    if USER_ID in table.column_names:
        refuse_repeats(texts(table, USER_ID))
    names, place = _arms(texts(table, question.arm), question)
    counts = np.bincount(place, minlength=len(names))
    shares = question.shares or dict.fromkeys(names, 1.0)
    ratio = sample_ratio(counts.tolist(), [shares[name] for name in names])
    covariates = [numbers(table, name, missing=True) for name in question.covariates]
    known = np.stack(covariates, axis=1) if covariates else None
    found = [
        result
        for metric in question.metrics
        for result in _metric(metric, _outcomes(table, metric), known, (names, place), question)
    ]
    adjusted = holm([result.p_value for result in found])
    results = [replace(r, p_value=float(p)) for r, p in zip(found, adjusted, strict=True)]
    arms = {name: int(count) for name, count in zip(names, counts, strict=True)}
    return Analysis(arms, ratio, tuple(results), _notes(ratio, results))


def _arms(column: list[str], question: Question) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the arms, control first, and each row's place among them."""
    found = sorted(set(column))
    if question.control not in found:
        raise InputError(f"no row is of arm {question.control!r}", f"Arms found: {', '.join(found[:10])}.")
    meant = set(question.shares or found)
    if meant != set(found) or len(found) < 2:
        raise InputError(
            f"arms found: {', '.join(found[:10])}; arms expected: {', '.join(sorted(meant))}",
            "Give each arm that there is, two at least, and no other.",
        )
    names = [question.control, *(name for name in found if name != question.control)]
    index = {name: number for number, name in enumerate(names)}
    return names, np.array([index[name] for name in column], dtype=np.int64)


def _outcomes(table: pa.Table, metric: str) -> Floats:
    above, slash, below = metric.partition("/")
    if slash and metric not in table.column_names:
        return ratio_outcomes(numbers(table, above), numbers(table, below))
    return numbers(table, metric)


def _metric(
    metric: str,
    outcomes: Floats,
    known: Floats | None,
    arms: tuple[list[str], NDArray[np.int64]],
    question: Question,
) -> list[MetricResult]:
    names, place = arms
    cut = adjust(outcomes, known, place) if known is not None else None
    results = []
    for number, name in enumerate(names[1:], 1):
        effect = _effect(outcomes, place, number, question.confidence)
        adjusted = _effect(cut.outcomes, place, number, question.confidence) if cut else None
        best = adjusted or effect
        always = (
            always_valid(best, question.planned_users, question.confidence)
            if question.planned_users
            else None
        )
        results.append(
            MetricResult(
                metric, name, effect, adjusted, cut.variance_cut if cut else 0.0, always, best.p_value
            )
        )
    return results


def _effect(values: Floats, place: NDArray[np.int64], number: int, confidence: float) -> Effect:
    return compare(moments(values[place == 0]), moments(values[place == number]), confidence)


def _notes(ratio: SampleRatio, results: Sequence[MetricResult]) -> tuple[str, ...]:
    notes = []
    if not ratio.holds:
        notes.append(
            f"the arms are not as large as they were meant (p = {ratio.p_value:.2g}): users are lost or "
            "counted twice in one of them, and no effect below can be trusted"
        )
    if len(results) > 1:
        notes.append(f"p values hold for all {len(results)} comparisons together (Holm)")
    return tuple(notes)
