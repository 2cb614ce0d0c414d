"""Numeric features: amounts, ages, gaps and rhythm of events, and aggregates of a modality."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qanchor.aggregates import SUMMARY, SUMMARY_OF_NUMBER, Aggregate
from qanchor.errors import CheckpointInvalid
from qanchor.events.history import EventArrays
from qanchor.model.window import Window
from qanchor.times import DAY_US, HOUR_US
from qanchor.workspace import ModalitySpec

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_CLIP = 8.0
_FULL_DAYS = 30
TIME_FEATURES = 8
AGE_COLUMN = -7  # of event_features: the age as a share of the window


def event_feature_width(spec: ModalitySpec) -> int:
    """Numbers of one event: each field and whether it is missing, then the time features."""
    return 2 * len(spec.numbers) + TIME_FEATURES


def summary_feature_width(spec: ModalitySpec) -> int:
    """Numbers of one modality token."""
    return 2 + len(SUMMARY) + len(SUMMARY_OF_NUMBER) * len(spec.numbers)


@dataclass(frozen=True)
class Normaliser:
    """Mean and spread of every transformed number of every modality.

    Args:
        means: per modality float64 [numbers].
        spreads: per modality float64 [numbers], above zero.
    """

    means: Mapping[str, Float64]
    spreads: Mapping[str, Float64]

    @classmethod
    def fit(cls, arrays: EventArrays, modalities: Mapping[str, ModalitySpec]) -> "Normaliser":
        """Statistics over all events of the arrays: pass only what training may see."""
        means, spreads = {}, {}
        for events in arrays.modalities:
            values = _transformed(events.numbers, modalities[events.name])
            known = np.isfinite(values)
            count = np.maximum(known.sum(axis=0), 1)
            mean = np.where(known, values, 0.0).sum(axis=0) / count
            variance = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0) / count
            means[events.name] = mean
            spreads[events.name] = np.where(variance > 1e-12, np.sqrt(variance), 1.0)
        return cls(means, spreads)

    def apply(self, modality: str, spec: ModalitySpec, raw: Float64) -> Float64:
        """Standardised numbers, NaN where missing, cut at eight spreads.

        Args:
            modality: name of the modality.
            spec: definition of the modality, with the transforms.
            raw: float64 [events, numbers].
        """
        scaled = (_transformed(raw, spec) - self.means[modality]) / self.spreads[modality]
        return np.clip(scaled, -_CLIP, _CLIP)

    def to_json(self) -> dict[str, Any]:
        """Plain lists by modality."""
        return {
            name: {"mean": self.means[name].tolist(), "spread": self.spreads[name].tolist()}
            for name in self.means
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Normaliser":
        """The normaliser that `to_json` wrote.

        Raises:
            CheckpointInvalid: a statistic is missing; train or copy the model again.
        """
        try:
            return cls(
                {name: np.array(item["mean"], np.float64) for name, item in content.items()},
                {name: np.array(item["spread"], np.float64) for name, item in content.items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointInvalid(
                f"the normaliser lacks {error}", "Train or copy the model again."
            ) from error


def event_features(values: Float64, age: Int64, gap: Int64, time: Int64, window_days: int) -> Float32:
    """The numbers of each event, which join its text.

    Args:
        values: float64 [events, numbers], standardised, NaN where missing.
        age: int64 [events], microseconds from the event to the cut-off.
        gap: int64 [events], microseconds since the modality's previous event; -1: it is the first.
        time: int64 [events], microseconds UTC.
        window_days: length of the window in days.

    Returns:
        float32 [events, 2 * numbers + TIME_FEATURES].
    """
    hour = (time % DAY_US) * (2 * np.pi / DAY_US)
    weekday = (time % (7 * DAY_US)) * (2 * np.pi / (7 * DAY_US))
    missing = np.isnan(values)
    columns = [
        np.where(missing, 0.0, values),
        missing,
        np.log1p(age / HOUR_US) / 5,
        age / (window_days * DAY_US),
        np.log1p(np.maximum(gap, 0) / HOUR_US) / 5,
        gap < 0,
        np.sin(hour),
        np.cos(hour),
        np.sin(weekday),
        np.cos(weekday),
    ]
    return np.concatenate([c if c.ndim == 2 else c[:, None] for c in columns], axis=1, dtype=np.float32)


def summary_features(values: Float64, raw: Float64, age: Int64, user: Int64, window_events: Int64) -> Float32:
    """The numbers of each modality token; the mean over its events cannot tell one event from a hundred.

    Args:
        values: float64 [events, numbers], standardised, NaN where missing.
        raw: float64 [events, numbers].
        age: int64 [events], microseconds from the event to the cut-off, the oldest event of a user first.
        user: int64 [events], row of the user in the batch, ascending.
        window_events: int64 [batch], events inside the window before max_events cut them.

    Returns:
        float32 [batch, summary_feature_width].
    """
    window = Window(len(window_events), user, age)
    kept = window.count(window.inside(None))
    columns = [np.log1p(kept), np.log1p(window_events)]
    columns += [_summary_column(window, aggregate) for aggregate in SUMMARY]
    present, scaled = np.nan_to_num(raw), np.nan_to_num(values)
    for number in range(values.shape[1]):
        for aggregate in SUMMARY_OF_NUMBER:
            if aggregate.kind == "sum":
                columns.append(signed_log(window.of_number(aggregate, present[:, number])) / 5)
            else:
                columns.append(window.of_number(aggregate, scaled[:, number]))
    return np.stack(columns, axis=1).astype(np.float32)


def _summary_column(window: Window, aggregate: Aggregate) -> Float64:
    """One aggregate as a modality token takes it, [batch]."""
    if aggregate.kind == "active_days":
        # Ten events on one day and one on each of ten days are different habits. Unlike in Window, an event
        # of exactly the span's age is outside: stored models were trained on that.
        day = window.age // DAY_US
        days = window.first_of_run(day)
        if aggregate.days is not None:
            days &= day < aggregate.days
        share: Float64 = window.count(days) / _FULL_DAYS
        return share
    value = window.of_events(aggregate)
    if aggregate.kind == "count":
        return np.log1p(value)
    # Without events every column is zero; the modality's learned token says that it is absent.
    return np.where(np.isfinite(value), np.log1p(value / HOUR_US) / 5, 0.0)


def signed_log(values: NDArray[Any]) -> Float64:
    """Logarithms of 1 and the size, with the value's sign; NaN stays NaN."""
    result: Float64 = np.sign(values) * np.log1p(np.abs(values))
    return result


def _transformed(raw: Float64, spec: ModalitySpec) -> Float64:
    result = raw.astype(np.float64, copy=True)
    for column, name in enumerate(spec.numbers):
        transform = spec.fields[name].transform
        if transform == "signed_log":
            result[:, column] = signed_log(raw[:, column])
        elif transform == "log":
            result[:, column] = np.log1p(np.maximum(raw[:, column], 0.0))
    return result
