"""The analysis of an experiment: sizes of the arms, then every metric with and without CUPED."""

from collections.abc import Iterator, Mapping, Sequence
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
class AnalysisRequest:
    """The columns and arms of an analysis.

    Args:
        metrics: columns, or ABOVE/BELOW for a ratio of two columns.
        covariates: columns known before the experiment, for CUPED.
        arm: column with the arms.
        control: arm that the others are compared with.
        shares: planned shares of the arms; None: equal.
        planned_users: planned users of two arms, for an always-valid interval; None: no such interval.
        confidence: confidence of the intervals, in (0, 1).
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
        metric: name of the metric.
        arm: name of the arm.
        effect: effect without CUPED.
        adjusted: effect with CUPED; None without covariates.
        variance_cut: share of the variance removed by CUPED; 0 without covariates.
        always: always-valid interval of the (adjusted) difference; None where not requested.
        p_value: p-value of the (adjusted) effect, corrected by Holm over all metrics and arms.
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
        """The effect with CUPED, if there is one, otherwise the effect without."""
        return self.adjusted or self.effect


@dataclass(frozen=True)
class Analysis:
    """The result of an analysis.

    Args:
        arms: number of users of each arm, control first.
        ratio: test of the arms' sizes against the planned shares.
        results: effects by metric, then arm.
        notes: remarks on validity, one sentence each.
    """

    arms: dict[str, int]
    ratio: SampleRatio
    results: tuple[MetricResult, ...]
    notes: tuple[str, ...]


def analyse(table: pa.Table, request: AnalysisRequest) -> Analysis:
    """Measure every metric of an experiment.

    Args:
        table: one row for each user, with arm, metrics and covariates; a column user_id must have no repeats.
        request: columns, arms, shares.

    Raises:
        InputError: a column is missing or invalid, a user has two rows, or an arm is unknown or too small.
    """
    if USER_ID in table.column_names:
        refuse_repeats(texts(table, USER_ID))
    names, arms = _arms(texts(table, request.arm), request)
    counts = np.bincount(arms, minlength=len(names))
    shares = request.shares or dict.fromkeys(names, 1.0)
    ratio = sample_ratio(counts.tolist(), [shares[name] for name in names])
    columns = [numbers(table, name, missing=True) for name in request.covariates]
    covariates = np.stack(columns, axis=1) if columns else None
    results = [
        MetricResult(metric, names[arm], effect, adjusted, cut, None, (adjusted or effect).p_value)
        for metric in request.metrics
        for arm, effect, adjusted, cut in _effects(_outcomes(table, metric), covariates, arms, request)
    ]
    p_values = holm([result.p_value for result in results])
    results = [
        replace(result, p_value=float(p_value), always=_always(result.best, request))
        for result, p_value in zip(results, p_values, strict=True)
    ]
    users = {name: int(count) for name, count in zip(names, counts, strict=True)}
    return Analysis(users, ratio, tuple(results), _notes(ratio, results))


def _arms(column: list[str], request: AnalysisRequest) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the arms, control first, and the index of each row's arm."""
    present = sorted(set(column))
    listed = ", ".join(present[:10])
    if request.control not in present:
        raise InputError(f"no row is of arm {request.control!r}", f"The arms are {listed}.")
    planned = set(request.shares or present)
    if planned != set(present) or len(present) < 2:
        raise InputError(
            f"the arms are {listed}; planned are {', '.join(sorted(planned))}",
            "Give each arm of the file, at least two, and no other.",
        )
    names = [request.control, *(name for name in present if name != request.control)]
    index = {name: number for number, name in enumerate(names)}
    return names, np.array([index[name] for name in column], dtype=np.int64)


def _outcomes(table: pa.Table, metric: str) -> Floats:
    above, slash, below = metric.partition("/")
    if slash and metric not in table.column_names:
        return ratio_outcomes(numbers(table, above), numbers(table, below))
    return numbers(table, metric)


def _effects(
    outcomes: Floats, covariates: Floats | None, arms: NDArray[np.int64], request: AnalysisRequest
) -> Iterator[tuple[int, Effect, Effect | None, float]]:
    """Of each treatment arm: index, effect, effect with CUPED, share of the variance removed by CUPED."""
    cuped = adjust(outcomes, covariates, arms) if covariates is not None else None
    for arm in range(1, int(arms.max()) + 1):
        effect = _effect(outcomes, arms, arm, request.confidence)
        adjusted = _effect(cuped.outcomes, arms, arm, request.confidence) if cuped else None
        yield arm, effect, adjusted, cuped.variance_cut if cuped else 0.0


def _always(effect: Effect, request: AnalysisRequest) -> AlwaysValid | None:
    if not request.planned_users:
        return None
    return always_valid(effect, request.planned_users, request.confidence)


def _effect(values: Floats, arms: NDArray[np.int64], arm: int, confidence: float) -> Effect:
    return compare(moments(values[arms == 0]), moments(values[arms == arm]), confidence)


def _notes(ratio: SampleRatio, results: Sequence[MetricResult]) -> tuple[str, ...]:
    notes = []
    if not ratio.is_sound:
        notes.append(
            f"sample ratio mismatch (p = {ratio.p_value:.2g}): users of an arm are missing or counted twice, "
            "and no effect below can be trusted"
        )
    if len(results) > 1:
        notes.append(f"p-values are corrected for {len(results)} comparisons (Holm)")
    return tuple(notes)
