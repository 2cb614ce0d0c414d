"""Off-policy evaluation: the value of a policy on decisions logged with their probabilities."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qanchor.errors import InputError
from qanchor.metrics import Interval

Floats = NDArray[np.float64]
_FEWEST_EFFECTIVE = 0.1  # share of the rows
_RARE = 0.01  # propensity


@dataclass(frozen=True)
class LoggedDecisions:
    """Logged decisions, one row each.

    Args:
        rewards: reward of the decision, (rows,).
        propensities: probability of the decision under the logging policy, in (0, 1], (rows,).
        targets: probability of the decision under the evaluated policy, in [0, 1], (rows,).
        predicted: reward of the decision predicted by a model, (rows,); None without a model.
        predicted_target: reward of the evaluated policy predicted by a model, (rows,); None without a model.
            The model must not be fitted on the row (fit it on other rows, or cross-fit it).
    """

    rewards: Floats
    propensities: Floats
    targets: Floats
    predicted: Floats | None = None
    predicted_target: Floats | None = None

    def __post_init__(self) -> None:
        named = {
            "rewards": self.rewards,
            "propensities": self.propensities,
            "targets": self.targets,
            "predicted": self.predicted,
            "predicted_target": self.predicted_target,
        }
        for name, values in named.items():
            if values is not None:
                self._check(name, values)
        if (self.predicted is None) != (self.predicted_target is None):
            raise InputError("one of the two predictions is missing", "Give both or neither.")
        _refuse("propensity", self.propensities, (self.propensities > 0) & (self.propensities <= 1), "(0, 1]")
        _refuse("target", self.targets, (self.targets >= 0) & (self.targets <= 1), "[0, 1]")
        if not (self.targets > 0).any():
            raise InputError(
                "the policy takes none of the logged decisions", "Use a log that overlaps with it."
            )

    def _check(self, name: str, values: Floats) -> None:
        if len(values) != len(self.rewards) or len(values) < 2:
            raise InputError(
                f"{len(values)} {name} for {len(self.rewards)} rows",
                "Give one per row, and at least two rows.",
            )
        _refuse(name, values, np.isfinite(values), "the range of finite numbers")


def _refuse(name: str, values: Floats, sound: NDArray[np.bool_], range_text: str) -> None:
    if not sound.all():
        row = int(np.flatnonzero(~sound)[0])
        raise InputError(f"row {row + 1:,}: {name} {values[row]:g} is not in {range_text}", "Fix the log.")


@dataclass(frozen=True)
class OffPolicy:
    """The value of a policy by several estimators, and the reliability of the log.

    Args:
        logged: mean reward of the logging policy, with its interval.
        ips: value by inverse propensity scoring.
        snips: value by self-normalised inverse propensity scoring.
        doubly_robust: value by the doubly robust estimator; None without a model of rewards.
        gain: self-normalised value (doubly robust with a model) minus that of the logging policy.
        effective_rows: number of decisions of the policy itself that would give the same precision.
        rows: number of rows of the log.
        clipped: share of the rows with a clipped weight.
        largest_weight: largest weight before clipping.
        mean_weight: mean weight before clipping; 1 if log and policy overlap and the propensities are right.
        warnings: reasons why the values may be wrong, one sentence each.
    """

    logged: Interval
    ips: Interval
    snips: Interval
    doubly_robust: Interval | None
    gain: Interval
    effective_rows: float
    rows: int
    clipped: float
    largest_weight: float
    mean_weight: float
    warnings: tuple[str, ...]


def evaluate(log: LoggedDecisions, clip: float | None = None, confidence: float = 0.95) -> OffPolicy:
    """The value of a policy on decisions of another one.

    Args:
        log: logged decisions.
        clip: largest weight, above 0; a smaller one lowers the variance and adds bias. None: no clipping.
        confidence: confidence of the intervals, in (0, 1).

    Raises:
        InputError: a value is out of range; the message names the row.

    Source: IPS: Horvitz and Thompson, JASA 47 (1952); self-normalised: Swaminathan and Joachims, NeurIPS
        2015; doubly robust: Dudik, Langford and Li, ICML 2011; clipping: Bottou et al., JMLR 14 (2013);
        effective rows: Kong, Technical Report 348, Chicago (1992).
    """
    if clip is not None and not clip > 0:
        raise InputError(f"weights cannot be clipped at {clip:g}", "Give a number above 0.")
    raw = log.targets / log.propensities
    weights = raw if clip is None else np.minimum(raw, clip)
    value = float(weights @ log.rewards / weights.sum())
    # The influence of each row on the self-normalised mean.
    influence = weights * (log.rewards - value) / weights.mean()
    robust = None
    if log.predicted is not None and log.predicted_target is not None:
        robust = log.predicted_target + weights * (log.rewards - log.predicted)
    best = value + influence if robust is None else robust
    return OffPolicy(
        logged=_mean(log.rewards, confidence),
        ips=_mean(weights * log.rewards, confidence),
        snips=_mean(value + influence, confidence),
        doubly_robust=None if robust is None else _mean(robust, confidence),
        gain=_mean(best - log.rewards, confidence),
        effective_rows=float(weights.sum() ** 2 / (weights @ weights)),
        rows=len(raw),
        clipped=float((raw > weights).mean()),
        largest_weight=float(raw.max()),
        mean_weight=float(raw.mean()),
        warnings=_warnings(log, raw, weights),
    )


def _mean(values: Floats, confidence: float) -> Interval:
    from scipy import stats

    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    reach = float(stats.norm.isf((1 - confidence) / 2)) * error
    return Interval(mean, mean - reach, mean + reach)


def _warnings(log: LoggedDecisions, raw: Floats, weights: Floats) -> tuple[str, ...]:
    warnings = []
    rows, effective = len(raw), float(weights.sum() ** 2 / (weights @ weights))
    if effective < _FEWEST_EFFECTIVE * rows:
        warnings.append(
            f"little overlap: {rows:,} rows are worth {effective:,.0f}; log more decisions of the policy"
        )
    error = float(raw.std(ddof=1)) / math.sqrt(rows)
    if abs(raw.mean() - 1) > 4 * error:
        warnings.append(
            f"the weights average {raw.mean():.3f}, not 1: propensities are wrong, or the policy takes "
            "decisions that were never logged"
        )
    rare = float(((log.propensities < _RARE) & (log.targets > 0)).mean())
    if rare > 0:
        warnings.append(
            f"{rare:.1%} of the rows have a propensity below {_RARE:g} and a large weight: consider clipping"
        )
    clipped = 1 - float(weights.sum() / raw.sum())
    if clipped > 0.05:
        warnings.append(
            f"clipping removes {clipped:.0%} of the weight: the estimates are biased towards the rest"
        )
    return tuple(warnings)


def best_arm_targets(actions: ArrayLike, chosen: ArrayLike) -> Floats:
    """Targets of a deterministic policy: 1 where it takes the logged action, else 0, (rows,)."""
    taken: NDArray[np.bool_] = np.equal(actions, chosen)
    return taken.astype(np.float64)
