"""Noise of an ablation's difference: a paired bootstrap over the test users."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablations_run import Measured
from qanchor.metrics.ranking import tallied_auc
from qanchor.metrics.resampling import Interval
from qanchor.metrics.tally import Tallier

_DRAWS: Final = 500
_TAIL: Final = 0.025


def difference(measured: Measured, base: Measured) -> Interval:
    """Mean difference in AUC over the scenarios of both, with its 95% interval.

    A user's rows of all scenarios are drawn together, and the same for both ablations: the interval covers
    the choice of test users, not the seed of training.
    """
    gaps, draws = [], []
    for name in (name for name in measured.scores if name in base.scores):
        weights = _weights(len(measured.labels[name]))
        for some, sign in ((measured, 1.0), (base, -1.0)):
            tallier = Tallier(some.labels[name], some.scores[name])
            gaps.append(sign * float(tallied_auc(tallier.count())))
            draws.append(sign * tallied_auc(tallier.count(weights)))
    scenarios = len(gaps) // 2
    low, high = np.quantile(np.sum(draws, axis=0) / scenarios, (_TAIL, 1 - _TAIL))
    return Interval(sum(gaps) / scenarios, float(low), float(high))


def _weights(rows: int) -> NDArray[np.int64]:
    """How often each row is drawn, (draws, rows): the same for all scenarios with this number of rows."""
    random = np.random.default_rng(7)
    return random.multinomial(rows, np.full(rows, 1 / rows), size=_DRAWS)
