"""What another policy would have brought, from decisions that were logged with their chances."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qanchor.errors import InputError
from qanchor.metrics import Interval

Floats = NDArray[np.float64]
# Below this share of the rows the answer rests on few of them.
_LITTLE = 0.1
_RARE = 0.01


@dataclass(frozen=True)
class LoggedDecisions:
    """Decisions of the past, one row each.

    Args:
        rewards: what came of the decision, (rows,).
        propensities: chance with which it was taken then, in (0, 1], (rows,).
        targets: chance with which the policy in question takes it, in [0, 1], (rows,).
        predicted: reward that a model expects of the decision, (rows,); None without a model.
        predicted_target: reward that it expects of the policy in question, (rows,); None without a model.
            The model must not have seen the row (fit it on others, or cross-fit it).
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
            raise InputError("one of the two predictions is missing", "Give both, or neither.")
        _refuse("propensity", self.propensities, (self.propensities > 0) & (self.propensities <= 1), "(0, 1]")
        _refuse("target", self.targets, (self.targets >= 0) & (self.targets <= 1), "[0, 1]")
        if not (self.targets > 0).any():
            raise InputError(
                "the policy takes none of the logged decisions", "A log without overlap says nothing of it."
            )

    def _check(self, name: str, values: Floats) -> None:
        if len(values) != len(self.rewards) or len(values) < 2:
            raise InputError(
                f"{len(values)} {name} for {len(self.rewards)} rows", "Give one each, two at least."
            )
        _refuse(name, values, np.isfinite(values), "the finite numbers")


def _refuse(name: str, values: Floats, sound: NDArray[np.bool_], range_text: str) -> None:
    if not sound.all():
        row = int(np.flatnonzero(~sound)[0])
        raise InputError(f"row {row + 1:,}: {name} {values[row]:g} is not in {range_text}", "Mend the log.")


@dataclass(frozen=True)
class OffPolicy:
    """The value of a policy, by several estimators, and how far the log carries it.

    Args:
        logged: mean reward of what was done, with its interval.
        ips: inverse propensity.
        snips: the same, self-normalised.
        doubly_robust: with a model of rewards; None without one.
        gain: self-normalised value (doubly robust with a model) less that of what was done.
        effective_rows: of so many rows, taken by the policy itself, the answer would be as sure.
        rows: of the log.
        clipped: share of rows whose weight was cut.
        largest_weight: before any was cut.
        mean_weight: before any was cut; 1 where log and policy overlap and the propensities are true.
        warnings: why the answer may not hold, one sentence each.
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
    """Value a policy on decisions that another one took.

    Args:
        log: the decisions.
        clip: largest weight, above 0; a smaller one is surer and further off. None cuts none.
        confidence: of the intervals, in (0, 1).

    Raises:
        InputError: a value is out of range; the message names the row.

    Source: IPS: Horvitz and Thompson, JASA 47 (1952); self-normalised: Swaminathan and Joachims, NeurIPS
        2015; doubly robust: Dudik, Langford and Li, ICML 2011; clipping: Bottou et al., JMLR 14 (2013);
        effective rows: Kong, Technical Report 348, Chicago (1992).
    """
    if clip is not None and not clip > 0:
        raise InputError(f"weights cannot be cut at {clip:g}", "Give a number above 0.")
    raw = log.targets / log.propensities
    weights = raw if clip is None else np.minimum(raw, clip)
    value = float(weights @ log.rewards / weights.sum())
    # How far each row moves the self-normalised mean.
    pull = weights * (log.rewards - value) / weights.mean()
    robust = None
    if log.predicted is not None and log.predicted_target is not None:
        robust = log.predicted_target + weights * (log.rewards - log.predicted)
    best = value + pull if robust is None else robust
    return OffPolicy(
        logged=_mean(log.rewards, confidence),
        ips=_mean(weights * log.rewards, confidence),
        snips=_mean(value + pull, confidence),
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
    found = []
    rows, effective = len(raw), float(weights.sum() ** 2 / (weights @ weights))
    if effective < _LITTLE * rows:
        found.append(
            f"little overlap: {rows:,} rows are worth {effective:,.0f}; log more of what the policy does"
        )
    error = float(raw.std(ddof=1)) / math.sqrt(rows)
    if abs(raw.mean() - 1) > 4 * error:
        found.append(
            f"the weights average {raw.mean():.3f}, not 1: propensities are wrong, or the policy does what "
            "was never logged"
        )
    rare = float(((log.propensities < _RARE) & (log.targets > 0)).mean())
    if rare > 0:
        found.append(f"{rare:.1%} of the rows had a chance below {_RARE:g} and weigh much: think of clipping")
    lost = 1 - float(weights.sum() / raw.sum())
    if lost > 0.05:
        found.append(f"cutting takes {lost:.0%} of the weight: the estimates lean to what was not cut")
    return tuple(found)


def best_arm_targets(actions: ArrayLike, chosen: ArrayLike) -> Floats:
    """Targets of a policy without chance: 1 where it takes the logged action, else 0, (rows,)."""
    taken: NDArray[np.bool_] = np.equal(actions, chosen)
    return taken.astype(np.float64)
