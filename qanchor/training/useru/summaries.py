"""A span in standardised numbers that a linear readout of the embedding can predict."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.model.features import signed_log
from qanchor.training.useru.spans import Span

Floats = NDArray[np.float64]

_TERMS = 64
_AT_LEAST = (1, 2, 3, 5, 9, 17)
_QUANTILES = (0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class SummaryShares:
    """Weight of each group of numbers, independent of the group's size; 0 leaves a group out.

    Groups are weighed, not numbers, because the number of events is one among hundreds of numbers.

    Args:
        topics: square roots of the counts of topics.
        counts: square roots of the counts of modalities.
        days: square root of the number of days with an event.
        amounts: logarithms of the modalities' sums.
        numbers: logarithms of the means of their other numbers, which say what a user buys, not how much.
        levels: whether counts and amounts (and other numbers, if they have a weight) reach thresholds, as
            labels do; and the days to the nearest event.
        terms: square roots of the counts of the most common words.
    """

    topics: float = 0.75
    counts: float = 0.1
    days: float = 0.05
    amounts: float = 0.05
    numbers: float = 0.05
    levels: float = 0.0
    terms: float = 0.0


def summarise(span: Span, topic_counts: NDArray[np.int64], shares: SummaryShares) -> NDArray[np.float32]:
    """The span's numbers, standardised over the points and weighted by group; 0 for a missing number.

    Args:
        span: counts of the span's events.
        topic_counts: int64 [points, topics], events about each topic.
        shares: weights of the groups.

    Returns:
        float32 [points, numbers].
    """
    amounts = [values[:, summed] for values, summed in zip(span.numbers, span.amounts, strict=True)]
    others = [values[:, ~summed] for values, summed in zip(span.numbers, span.amounts, strict=True)]
    groups: tuple[Floats, ...] = (
        np.sqrt(topic_counts),
        np.sqrt(span.counts),
        np.sqrt(span.active_days)[:, None],
        signed_log(np.concatenate(amounts, axis=1)),
        signed_log(np.concatenate(others, axis=1)),
        _levels(span, [*amounts, *(others if shares.numbers else ())])
        if shares.levels
        else np.empty((len(span.counts), 0)),
        np.sqrt(span.terms[:, :_TERMS].toarray()) if shares.terms else np.empty((len(span.counts), 0)),
    )
    used = [(group, share) for group, share in zip(groups, astuple(shares), strict=True) if share]
    width = sum(group.shape[1] for group, _ in used)
    weighted = [
        standardised(group) * np.sqrt(share * width / max(1, group.shape[1])) for group, share in used
    ]
    return np.concatenate(weighted, axis=1).astype(np.float32)


def _levels(span: Span, sizes: Sequence[Floats]) -> Floats:
    columns = [np.log1p(np.minimum(span.nearest, abs(span.days)))]
    columns += [(span.counts >= least).astype(np.float64) for least in _AT_LEAST]
    for values in sizes:
        for column in values.T:
            present = column[np.isfinite(column)]
            cuts = np.quantile(present, _QUANTILES) if len(present) else np.full(len(_QUANTILES), np.inf)
            # Without events there is no sum: it reaches no threshold.
            columns.append((np.nan_to_num(column, nan=-np.inf)[:, None] >= cuts).astype(np.float64))
    return np.concatenate(columns, axis=1)


def standardised(values: Floats) -> Floats:
    """Columns of mean 0 and standard deviation 1, clipped at 5; 0 for NaN."""
    missing = np.isnan(values)
    present = np.maximum((~missing).sum(axis=0), 1)
    centred = np.where(missing, 0.0, values)
    centred = np.where(missing, 0.0, centred - centred.sum(axis=0) / present)
    spread = np.sqrt((centred**2).sum(axis=0) / present)
    result: Floats = (centred / np.where(spread > 1e-6, spread, 1.0)).clip(-5, 5)
    return result
