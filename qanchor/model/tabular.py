"""Point-in-time aggregates of a user's window: the paper's structured features, worked out from the log.

What an analyst would write by hand (how often, how much, how lately, how regularly), for every modality
and over several spans, read from all events of the window, those beyond `max_events` included.

Source: arXiv 2602.14492, section 3.1 (the tabular modality).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, HistorySlices
from qanchor.model.config import ModelConfig
from qanchor.model.features import Normaliser, signed_log
from qanchor.workspace import ModalitySpec

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_DAY = 86_400_000_000
_SPANS_DAYS = (7, 14, 30, 60, 90, 180)
_RHYTHM = 8
_PER_SPAN, _PER_SPAN_NUMBER, _PER_NUMBER = 3, 2, 6


def spans_days(window_days: int) -> tuple[int, ...]:
    """The spans before the cut-off that are summed up, ascending; the last one is the window."""
    return (*(days for days in _SPANS_DAYS if days < window_days), window_days)


def tabular_width(config: ModelConfig) -> int:
    """How many aggregates there are for one user."""
    return sum(_modality_width(spec, config.window_days) for spec in config.modalities.values())


def _modality_width(spec: ModalitySpec, window_days: int) -> int:
    numbers, spans = len(spec.numbers), len(spans_days(window_days))
    return spans * (_PER_SPAN + _PER_SPAN_NUMBER * numbers) + _RHYTHM + _PER_NUMBER * numbers


def tabular_features(
    arrays: EventArrays, slices: HistorySlices, normaliser: Normaliser, config: ModelConfig
) -> Float32:
    """The aggregates of each request, logarithms of what has a long tail; not standardised.

    Args:
        arrays: the events.
        slices: what each request may read; the events that max_events cut are counted here.
        normaliser: scales the modalities' numbers.
        config: the model's.

    Returns:
        float32 [requests, tabular_width].
    """
    columns = [
        _modality_columns(_window(arrays, slices, column, normaliser, config), config.window_days)
        for column in range(len(arrays.modalities))
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


@dataclass(frozen=True)
class _Window:
    """One modality's events of all requests, flat, by (request, time).

    Args:
        users: how many requests there are.
        user: int64 [events], ascending.
        age: int64 [events], microseconds from the event to the cut-off.
        hour: float64 [events], share of the UTC day.
        text: int64 [events].
        raw: float64 [events, numbers], NaN where missing.
        values: float64 [events, numbers], standardised; 0 where missing.
    """

    users: int
    user: Int64
    age: Int64
    hour: Float64
    text: Int64
    raw: Float64
    values: Float64


def _window(
    arrays: EventArrays, slices: HistorySlices, column: int, normaliser: Normaliser, config: ModelConfig
) -> _Window:
    events = arrays.modalities[column]
    counts = slices.window_events[:, column]
    user = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = (slices.stop[:, column] - counts)[user] + within
    raw = events.numbers[rows]
    values = normaliser.apply(events.name, config.modalities[events.name], raw)
    time = events.time[rows]
    return _Window(
        len(counts),
        user,
        slices.cutoff[user] - time,
        (time % _DAY) / _DAY,
        events.text[rows].astype(np.int64),
        raw,
        np.nan_to_num(values),
    )


def _modality_columns(window: _Window, window_days: int) -> Float64:
    """All aggregates of one modality, [requests, features]."""
    moment = _fresh(window.user, window.age)
    day = _fresh(window.user, window.age // _DAY)
    columns: list[Float64] = []
    for days in spans_days(window_days):
        columns += _span_columns(window, window.age <= days * _DAY, moment, day)
    columns += _rhythm_columns(window, moment)
    for number in range(window.raw.shape[1]):
        columns += _number_columns(window, window.values[:, number])
    return np.stack(columns, axis=1)


def _fresh(user: Int64, of: Int64) -> NDArray[np.bool_]:
    """Whether an event is its user's first one of a run of equal values."""
    fresh = np.ones(len(user), np.bool_)
    fresh[1:] = (user[1:] != user[:-1]) | (of[1:] != of[:-1])
    return fresh


def _span_columns(
    window: _Window, inside: NDArray[np.bool_], moment: NDArray[np.bool_], day: NDArray[np.bool_]
) -> list[Float64]:
    """Events, moments and days of a span; sum and mean of each number."""
    count = _sums(window, inside)
    # Lines of one order share a moment: orders are counted beside lines.
    columns = [
        np.log1p(count),
        np.log1p(_sums(window, inside & moment)),
        np.log1p(_sums(window, inside & day)),
    ]
    for number in range(window.raw.shape[1]):
        total = _sums(window, inside, np.nan_to_num(window.raw[:, number]))
        mean = _sums(window, inside, window.values[:, number]) / np.maximum(count, 1)
        columns += [signed_log(total), mean]
    return columns


def _rhythm_columns(window: _Window, moment: NDArray[np.bool_]) -> list[Float64]:
    """Recency, age of the first event, gaps between moments, due-ness, hour and variety of texts."""
    count = _sums(window, np.ones(len(window.user), np.bool_))
    has = count > 0
    ends = np.cumsum(count).astype(np.int64)
    first, last = (ends - count)[has].astype(np.int64), ends[has] - 1
    user, age = window.user[moment], window.age[moment] / _DAY
    inner = np.flatnonzero(user[1:] == user[:-1])
    gap, owner = age[inner] - age[inner + 1], user[inner]
    gaps = np.maximum(np.bincount(owner, minlength=window.users), 1)
    known = np.bincount(owner, minlength=window.users) > 0
    mean = np.bincount(owner, gap, window.users) / gaps
    spread = np.sqrt(np.maximum(np.bincount(owner, gap**2, window.users) / gaps - mean**2, 0))
    recency, tenure = np.zeros(window.users), np.zeros(window.users)
    recency[has], tenure[has] = window.age[last] / _DAY, window.age[first] / _DAY
    texts = np.unique(np.stack([window.user, window.text]), axis=1)[0]
    return [
        np.where(has, np.log1p(recency), _NEVER),
        np.log1p(tenure),
        np.where(known, np.log1p(mean), _NEVER),
        np.log1p(spread),
        np.where(known, np.log1p(_medians(owner, gap, window.users)), _NEVER),
        # How overdue the next event is: recency against the usual gap.
        np.where(known, np.minimum(recency / (mean + 1), _OVERDUE), np.where(has, _OVERDUE / 2, _OVERDUE)),
        _sums(window, np.ones(len(window.user), np.bool_), window.hour) / np.maximum(count, 1),
        np.log1p(np.bincount(texts, minlength=window.users)),
    ]


_NEVER = 6.0  # logarithm of a year and a bit, in days
_OVERDUE = 5.0


def _medians(owner: Int64, values: Float64, users: int) -> Float64:
    """The middle value of each user, 0 without any."""
    order = np.lexsort((values, owner))
    counts = np.bincount(owner, minlength=users)
    starts = np.cumsum(counts) - counts
    has = counts > 0
    result = np.zeros(users)
    ranked = values[order]
    low, high = (starts + (counts - 1) // 2)[has], (starts + counts // 2)[has]
    result[has] = (ranked[low] + ranked[high]) / 2
    return result


def _number_columns(window: _Window, values: Float64) -> list[Float64]:
    """Newest, oldest, spread, least, most and drift of a standardised number; 0 without events."""
    every = np.ones(len(values), np.bool_)
    count = _sums(window, every)
    has = count > 0
    ends = np.cumsum(count).astype(np.int64)
    starts, last = (ends - count)[has].astype(np.int64), ends[has] - 1
    mean = _sums(window, every, values) / np.maximum(count, 1)
    spread = np.sqrt(np.maximum(_sums(window, every, values**2) / np.maximum(count, 1) - mean**2, 0))
    columns = [np.zeros(window.users) for _ in range(4)]
    if len(values):
        columns[0][has], columns[1][has] = values[last], values[starts]
        columns[2][has], columns[3][has] = (
            np.minimum.reduceat(values, starts),
            np.maximum.reduceat(values, starts),
        )
    return [columns[0], columns[1], spread, columns[2], columns[3], columns[0] - mean]


def _sums(window: _Window, of: NDArray[np.bool_], weights: Float64 | None = None) -> Float64:
    chosen = None if weights is None else weights[of]
    return np.bincount(window.user[of], chosen, window.users).astype(np.float64)
