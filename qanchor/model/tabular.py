"""Point-in-time aggregates of a user's window: the paper's structured features, worked out from the log.

What an analyst would write by hand (how often, how much, how recently, how regularly), for every modality and
over several spans, read from all events of the window, those beyond `max_events` included.

Source: arXiv 2602.14492, section 3.1 (the tabular modality).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.aggregates import TABULAR, TABULAR_OF_NUMBER, Aggregate, tabular_spans
from qanchor.events.history import EventArrays, HistorySlices
from qanchor.model.config import ModelConfig
from qanchor.model.features import Normaliser, signed_log
from qanchor.model.window import Float64, Int64, Window
from qanchor.times import DAY_US
from qanchor.workspace import ModalitySpec

Float32 = NDArray[np.float32]

_RHYTHM, _PER_NUMBER = 8, 6


def tabular_width(config: ModelConfig) -> int:
    """How many aggregates there are for one user."""
    return sum(_modality_width(spec, config.window_days) for spec in config.modalities.values())


def _modality_width(spec: ModalitySpec, window_days: int) -> int:
    numbers, spans = len(spec.numbers), len(tabular_spans(window_days))
    return spans * (len(TABULAR) + len(TABULAR_OF_NUMBER) * numbers) + _RHYTHM + _PER_NUMBER * numbers


def tabular_features(
    arrays: EventArrays, slices: HistorySlices, normaliser: Normaliser, config: ModelConfig
) -> Float32:
    """The aggregates of each request, logarithms of what has a long tail; not standardised.

    Args:
        arrays: the events.
        slices: what each request may read; events that max_events cut are counted, too.
        normaliser: scales the modalities' numbers.
        config: the model's configuration.

    Returns:
        float32 [requests, tabular_width].
    """
    columns = [
        _modality_columns(_modality_window(arrays, slices, column, normaliser, config), config.window_days)
        for column in range(len(arrays.modalities))
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


@dataclass(frozen=True)
class _ModalityWindow:
    """One modality's events of all requests, with what the aggregates read of them.

    Args:
        window: request and age of each event.
        hour: float64 [events], share of the UTC day.
        text: int64 [events].
        raw: float64 [events, numbers], 0 where missing.
        values: float64 [events, numbers], standardised; 0 where missing.
    """

    window: Window
    hour: Float64
    text: Int64
    raw: Float64
    values: Float64


def _modality_window(
    arrays: EventArrays, slices: HistorySlices, column: int, normaliser: Normaliser, config: ModelConfig
) -> _ModalityWindow:
    events = arrays.modalities[column]
    window, rows = Window.of(events, slices, column)
    raw = events.numbers[rows]
    values = normaliser.apply(events.name, config.modalities[events.name], raw)
    hour = (events.time[rows] % DAY_US) / DAY_US
    text = events.text[rows].astype(np.int64)
    return _ModalityWindow(window, hour, text, np.nan_to_num(raw), np.nan_to_num(values))


def _modality_columns(events: _ModalityWindow, window_days: int) -> Float64:
    """All aggregates of one modality, [requests, features]."""
    window = events.window
    columns: list[Float64] = []
    for days in tabular_spans(window_days):
        # Lines of one order share a moment: the moments count orders.
        columns += [np.log1p(window.of_events(Aggregate(kind, days))) for kind in TABULAR]
        for raw, values in zip(events.raw.T, events.values.T, strict=True):
            total, mean = (
                window.of_number(Aggregate(kind, days), raw if kind == "sum" else values)
                for kind in TABULAR_OF_NUMBER
            )
            columns += [signed_log(total), mean]
    columns += _rhythm_columns(events)
    for values in events.values.T:
        columns += _number_columns(window, values)
    return np.stack(columns, axis=1)


def _rhythm_columns(events: _ModalityWindow) -> list[Float64]:
    """Recency, age of the first event, gaps between moments, due-ness, hour and variety of texts."""
    window = events.window
    every, moment = window.inside(None), window.first_of_moment
    has, oldest, newest = window.ends()
    request, age = window.request[moment], window.age[moment] / DAY_US
    inner = np.flatnonzero(request[1:] == request[:-1])
    gap, owner = age[inner] - age[inner + 1], request[inner]
    gaps = np.maximum(np.bincount(owner, minlength=window.requests), 1)
    known = np.bincount(owner, minlength=window.requests) > 0
    mean = np.bincount(owner, gap, window.requests) / gaps
    spread = np.sqrt(np.maximum(np.bincount(owner, gap**2, window.requests) / gaps - mean**2, 0))
    recency, tenure = np.zeros(window.requests), np.zeros(window.requests)
    recency[has], tenure[has] = window.age[newest] / DAY_US, window.age[oldest] / DAY_US
    texts = np.unique(np.stack([window.request, events.text]), axis=1)[0]
    return [
        np.where(has, np.log1p(recency), _NEVER),
        np.log1p(tenure),
        np.where(known, np.log1p(mean), _NEVER),
        np.log1p(spread),
        np.where(known, np.log1p(_medians(owner, gap, window.requests)), _NEVER),
        # How overdue the next event is: recency against the usual gap.
        np.where(known, np.minimum(recency / (mean + 1), _OVERDUE), np.where(has, _OVERDUE / 2, _OVERDUE)),
        window.sum(events.hour, every) / np.maximum(window.count(every), 1),
        np.log1p(np.bincount(texts, minlength=window.requests)),
    ]


_NEVER = 6.0  # logarithm of a year and a bit, in days
_OVERDUE = 5.0


def _medians(owner: Int64, values: Float64, requests: int) -> Float64:
    """The middle value of each request, 0 without any."""
    order = np.lexsort((values, owner))
    counts = np.bincount(owner, minlength=requests)
    starts = np.cumsum(counts) - counts
    has = counts > 0
    result = np.zeros(requests)
    ranked = values[order]
    low, high = (starts + (counts - 1) // 2)[has], (starts + counts // 2)[has]
    result[has] = (ranked[low] + ranked[high]) / 2
    return result


def _number_columns(window: Window, values: Float64) -> list[Float64]:
    """Newest, oldest, spread, least, most and drift of a standardised number; 0 without events."""
    has, starts, last = window.ends()
    mean = window.of_number(Aggregate("mean"), values)
    square = window.of_number(Aggregate("mean"), values**2)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    newest, oldest, least, most = (np.zeros(window.requests) for _ in range(4))
    if len(values):
        newest[has], oldest[has] = values[last], values[starts]
        least[has], most[has] = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return [newest, oldest, spread, least, most, newest - mean]
