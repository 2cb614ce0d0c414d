"""AUC and KS by fold, their means over tasks, and paired bootstrap intervals over users, not rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality_data import FOLDS, DataSet, Task
from qanchor.metrics.ranking import tallied_auc, tallied_ks
from qanchor.metrics.resampling import Interval
from qanchor.metrics.tally import Tallier

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Scores of every task, by name.
Scores = Mapping[str, Floats]
_AT_ONCE = 50
_TAIL = 0.025


@dataclass(frozen=True)
class Figures:
    """AUC and KS, each a mean over five folds.

    Args:
        auc: area under the ROC curve, in [0, 1].
        ks: Kolmogorov-Smirnov statistic, in [0, 1].
    """

    auc: float
    ks: float


def figures_of(task: Task, scores: Floats) -> Figures:
    """Means over the folds of one task."""
    auc, ks = _by_draw(task, scores, np.ones((1, len(scores)), np.int64))
    return Figures(float(auc[0]), float(ks[0]))


@dataclass(frozen=True)
class Gain:
    """Difference of scores from other scores of the same rows, on the mean over tasks.

    Args:
        auc: difference in AUC with its 95% interval.
        ks: difference in KS with its 95% interval.
    """

    auc: Interval
    ks: Interval


class Resampler:
    """Draws users of each data set, the same ones for all of its tasks and for both sides of a comparison.

    Args:
        data: data sets; their tasks have equal weight.
        draws: number of resamples.
        seed: seed of the draws.
    """

    def __init__(self, data: Sequence[DataSet], draws: int = 1_000, seed: int = 7) -> None:
        self._data = data
        self._draws = draws
        self._seed = seed
        self._kept: dict[int, NDArray[np.float64]] = {}

    def gain(self, scores: Scores, baseline: Scores) -> Gain:
        """The mean difference over all tasks.

        Args:
            scores: scores by task.
            baseline: baseline scores by task.
        """
        tasks = [task for one in self._data for task in one.tasks.values()]
        values = [
            (figures_of(task, scores[task.name]), figures_of(task, baseline[task.name])) for task in tasks
        ]
        point = np.array([[a.auc - b.auc, a.ks - b.ks] for a, b in values]).mean(axis=0)
        drawn = np.mean(
            [
                self._drawn(one, task, scores[task.name]) - self._drawn(one, task, baseline[task.name])
                for one in self._data
                for task in one.tasks.values()
            ],
            axis=0,
        )  # [draws, auc and ks]
        low, high = np.quantile(drawn, (_TAIL, 1 - _TAIL), axis=0)
        auc, ks = (Interval(float(point[i]), float(low[i]), float(high[i])) for i in range(2))
        return Gain(auc, ks)

    def _drawn(self, data: DataSet, task: Task, scores: Floats) -> NDArray[np.float64]:
        """AUC and KS of every resample, [draws, 2]; cached, because many comparisons share a side."""
        key = hash((data.name, task.name, scores.tobytes()))
        if key not in self._kept:
            # All tasks of a data set have the same draws of its users.
            random = np.random.default_rng([self._seed, len(data.arrays.users)])
            resampled = []
            for begin in range(0, self._draws, _AT_ONCE):
                people = _weights(random, min(_AT_ONCE, self._draws - begin), len(data.arrays.users))
                resampled.append(np.stack(_by_draw(task, scores, people[:, task.rows]), axis=1))
            self._kept[key] = np.concatenate(resampled)
        return self._kept[key]


def _weights(random: np.random.Generator, draws: int, people: int) -> Ints:
    """How often each user is drawn, int64 [draws, users]."""
    chosen = random.integers(0, people, (draws, people)) + np.arange(draws)[:, None] * people
    return np.bincount(chosen.ravel(), minlength=draws * people).reshape(draws, people)


def _by_draw(task: Task, scores: Floats, weights: Ints) -> tuple[Floats, Floats]:
    """Mean AUC and mean KS over the folds, [draws] each."""
    auc, ks = np.zeros(len(weights)), np.zeros(len(weights))
    for fold in range(FOLDS):
        rows = np.flatnonzero(task.folds == fold)
        counts = Tallier(task.labels[rows], scores[rows]).count(weights[:, rows])
        auc += tallied_auc(counts) / FOLDS
        ks += tallied_ks(counts) / FOLDS
    return auc, ks
