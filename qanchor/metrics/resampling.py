"""Bootstrap intervals of any figure, many resamples counted at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qanchor.metrics.probability import tallied_brier, tallied_calibration_error, tallied_log_loss
from qanchor.metrics.ranking import tallied_auc, tallied_gain, tallied_ks, tallied_pr_auc
from qanchor.metrics.tally import Floats, Int64, Tallier, Tally, check_probabilities

SHARES = {"1": 0.01, "5": 0.05, "10": 0.10, "20": 0.20}
_PROBABILITIES = ("brier", "log_loss", "ece")
# Counts of this many rows are held at once: enough to keep numpy busy, little enough for the caches.
_CELLS = 1_000_000


def _gain(share: float) -> Callable[[Tally], Floats]:
    return lambda counts: tallied_gain(counts, share)


def _lift(share: float) -> Callable[[Tally], Floats]:
    return lambda counts: tallied_gain(counts, share) / share


# Every figure that a tally gives, by the name that cards and reports use.
FIGURES: Mapping[str, Callable[[Tally], Floats]] = {
    "auc": tallied_auc,
    "ks": tallied_ks,
    "pr_auc": tallied_pr_auc,
    **{f"gain_{name}": _gain(share) for name, share in SHARES.items()},
    **{f"lift_{name}": _lift(share) for name, share in SHARES.items()},
    "brier": tallied_brier,
    "log_loss": tallied_log_loss,
    "ece": tallied_calibration_error,
}


@dataclass(frozen=True)
class Interval:
    """A figure with its interval.

    Args:
        value: on all rows.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrap:
    """How to resample.

    Args:
        draws: resamples.
        confidence: two-sided, in (0, 1).
        seed: the same seed gives the same interval.
    """

    draws: int = 500
    confidence: float = 0.95
    seed: int = 7


def bootstrap_intervals(
    names: Sequence[str],
    labels: ArrayLike,
    scores: ArrayLike,
    baseline: ArrayLike | None = None,
    options: Bootstrap | None = None,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals, resampled within each class so that both stay present.

    Args:
        names: of FIGURES.
        labels: 0 or 1.
        scores: of the rows.
        baseline: other scores of the same rows; given, the intervals are of the paired difference of
            scores and baseline, both on the same resamples.
        options: draws, confidence and seed.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a figure needs probabilities and a score is none.
    """
    chosen = options or Bootstrap()
    talliers = [Tallier(labels, scores)] + ([] if baseline is None else [Tallier(labels, baseline)])
    if set(names) & set(_PROBABILITIES):
        for one in talliers:
            check_probabilities(one.scores)
    values = _values(names, talliers, None)
    draws = [_values(names, talliers, weights) for weights in _resamples(talliers[0].labels, chosen)]
    tail = (1 - chosen.confidence) / 2
    found = {}
    for name in names:
        low, high = np.quantile(np.concatenate([draw[name] for draw in draws]), (tail, 1 - tail))
        found[name] = Interval(float(values[name]), float(low), float(high))
    return found


def _values(names: Sequence[str], talliers: Sequence[Tallier], weights: Int64 | None) -> dict[str, Floats]:
    counts = [one.count(weights) for one in talliers]
    values = {name: [FIGURES[name](one) for one in counts] for name in names}
    return {name: found[0] - found[1] if len(found) > 1 else found[0] for name, found in values.items()}


def _resamples(labels: NDArray[np.int64], options: Bootstrap) -> Iterator[Int64]:
    """How often each row is drawn, (draws, rows), some draws at a time."""
    random = np.random.default_rng(options.seed)
    groups = [np.flatnonzero(labels == label) for label in (0, 1)]
    at_once = max(1, _CELLS // len(labels))
    for begin in range(0, options.draws, at_once):
        draws = min(at_once, options.draws - begin)
        rows = [
            np.concatenate([group[random.integers(0, len(group), len(group))] for group in groups])
            for _ in range(draws)
        ]
        flat = np.concatenate(rows) + np.repeat(np.arange(draws) * len(labels), len(labels))
        yield np.bincount(flat, minlength=draws * len(labels)).reshape(draws, len(labels))
