"""Bootstrap intervals of any figure, many resamples counted at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qanchor.metrics.probability import tallied_brier, tallied_calibration_error, tallied_log_loss
from qanchor.metrics.ranking import tallied_auc, tallied_gain, tallied_ks, tallied_lift, tallied_pr_auc
from qanchor.metrics.tally import Floats, Int64, Tallier, Tally, check_probabilities

SHARES = {"1": 0.01, "5": 0.05, "10": 0.10, "20": 0.20}
# A difference of shares, areas or logarithms below this is a rounding error.
ROUNDING: Final = 1e-9
_PROBABILITIES = ("brier", "log_loss", "ece")
# Counts held at once: enough to keep numpy busy, few enough for the caches.
_CELLS = 1_000_000


# Every figure that a tally gives, by the name that cards and reports use.
FIGURES: Final[Mapping[str, Callable[[Tally], Floats]]] = {
    "auc": tallied_auc,
    "ks": tallied_ks,
    "pr_auc": tallied_pr_auc,
    "gain_1": partial(tallied_gain, share=0.01),
    "gain_5": partial(tallied_gain, share=0.05),
    "gain_10": partial(tallied_gain, share=0.10),
    "gain_20": partial(tallied_gain, share=0.20),
    "lift_1": partial(tallied_lift, share=0.01),
    "lift_5": partial(tallied_lift, share=0.05),
    "lift_10": partial(tallied_lift, share=0.10),
    "lift_20": partial(tallied_lift, share=0.20),
    "brier": tallied_brier,
    "log_loss": tallied_log_loss,
    "ece": tallied_calibration_error,
}


@dataclass(frozen=True)
class Interval:
    """A figure with its interval.

    Args:
        value: value on all rows.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 where a difference is above 0, -1 where it is below; 0 where the interval includes 0.

        An end that differs from 0 by rounding alone counts as 0: its sign is that of the BLAS kernel.
        """
        return int(self.low > ROUNDING) - int(self.high < -ROUNDING)


@dataclass(frozen=True)
class Bootstrap:
    """Options of resampling.

    Args:
        draws: number of resamples.
        confidence: two-sided confidence, in (0, 1).
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
        names: keys of FIGURES.
        labels: 0 or 1.
        scores: scores of the rows.
        baseline: other scores of the same rows; with them, the intervals are of the paired difference of
            scores and baseline, both on the same resamples.
        options: draws, confidence and seed.

    Raises:
        LabelsInvalid: only one class is present.
        InputError: a figure needs probabilities and a score is outside [0, 1].
    """
    chosen = options or Bootstrap()
    talliers = [Tallier(labels, scores)] + ([] if baseline is None else [Tallier(labels, baseline)])
    if set(names) & set(_PROBABILITIES):
        for tallier in talliers:
            check_probabilities(tallier.scores)
    values = _values(names, talliers, None)
    draws = [_values(names, talliers, weights) for weights in _resamples(talliers[0].labels, chosen)]
    tail = (1 - chosen.confidence) / 2
    intervals = {}
    for name in names:
        low, high = np.quantile(np.concatenate([draw[name] for draw in draws]), (tail, 1 - tail))
        intervals[name] = Interval(float(values[name]), float(low), float(high))
    return intervals


def _values(names: Sequence[str], talliers: Sequence[Tallier], weights: Int64 | None) -> dict[str, Floats]:
    counts = [tallier.count(weights) for tallier in talliers]
    values = {name: [FIGURES[name](each) for each in counts] for name in names}
    return {name: each[0] - each[1] if len(each) > 1 else each[0] for name, each in values.items()}


def _resamples(labels: NDArray[np.int64], options: Bootstrap) -> Iterator[Int64]:
    """Number of times that each row is drawn, (draws, rows), some draws at a time."""
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
