"""Users' events in a span of days after, or before, their cut-offs: counts, amounts, words."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from qanchor.events.history import EventArrays, Int64, slice_histories
from qanchor.times import DAY_US
from qanchor.training.useru.topics import Terms
from qanchor.workspace import Workspace

NEVER = 1e9  # days to the nearest event where there is none


@dataclass(frozen=True)
class Points:
    """Users at cut-offs that questions are about.

    Args:
        rows: int64 [points], row of each user.
        cutoffs: int64 [points], microseconds UTC, at midnight.
    """

    rows: Int64
    cutoffs: Int64

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Int64) -> "Points":
        """Some of the points, in that order."""
        return Points(self.rows[indices], self.cutoffs[indices])


@dataclass(frozen=True)
class Span:
    """Counts of the events between the cut-off and `days` from it; negative: before the cut-off.

    Args:
        days: signed length.
        counts: int64 [points, modalities], number of events.
        halves: int64 [points, 2, modalities], number of events in the nearer third and in the rest.
        active_days: int64 [points], days with an event.
        nearest: float64 [points, modalities], days from the cut-off to the nearest event; NEVER: none.
        numbers: float64 [points, fields] per modality: sum of its amount, mean of another number; NaN: none.
        amounts: bool [fields] per modality: whether each number is the amount.
        terms: sparse int [points, terms], occurrences of each term.
    """

    days: int
    counts: Int64
    halves: Int64
    active_days: Int64
    nearest: NDArray[np.float64]
    numbers: tuple[NDArray[np.float64], ...]
    amounts: tuple[NDArray[np.bool_], ...]
    terms: csr_matrix


class SpanReader:
    """Reads spans of one set of events.

    Args:
        arrays: events of the spans.
        workspace: names of the modalities and their amounts.
        terms: terms to count.
    """

    def __init__(self, arrays: EventArrays, workspace: Workspace, terms: Terms) -> None:
        self._arrays = arrays
        self._workspace = workspace
        self._terms = terms
        self._user_days = _active_days(arrays)
        specs = [workspace.modalities[events.name] for events in arrays.modalities]
        self._amounts = tuple(np.array([n == spec.amount for n in spec.numbers], bool) for spec in specs)
        self._sums = tuple(_running_sums(events.numbers) for events in arrays.modalities)

    def read(self, points: Points, days: int) -> Span:
        """The span of `days` after (before, where negative) each point's cut-off."""
        edges = sorted({0, round(days / 3), days})
        near = 1 if days < 0 else 0
        bounds = np.stack([self._positions(points, edge) for edge in edges])  # [edges, points, modalities]
        start, stop = bounds[0], bounds[-1]
        parts = np.diff(bounds, axis=0)
        if len(parts) == 1:
            parts = np.concatenate([parts, np.zeros_like(parts)])
        halves = parts[::-1] if near else parts
        return Span(
            days,
            stop - start,
            halves.transpose(1, 0, 2),
            self._active_between(points, edges[0], edges[-1]),
            self._nearest(points, start, stop, days),
            self._numbers(start, stop),
            self._amounts,
            self._term_counts(start, stop),
        )

    def _positions(self, points: Points, days: int) -> Int64:
        moments = points.cutoffs + days * DAY_US
        return slice_histories(self._arrays, points.rows, moments, self._workspace).stop

    def _active_between(self, points: Points, first: int, last: int) -> Int64:
        base = points.rows * _DAYS_PER_USER + points.cutoffs // DAY_US
        return np.searchsorted(self._user_days, base + last) - np.searchsorted(self._user_days, base + first)

    def _nearest(self, points: Points, start: Int64, stop: Int64, days: int) -> NDArray[np.float64]:
        nearest = np.full(start.shape, NEVER)
        for column, events in enumerate(self._arrays.modalities):
            has = stop[:, column] > start[:, column]
            index = start[has, column] if days > 0 else stop[has, column] - 1
            nearest[has, column] = np.abs(events.time[index] - points.cutoffs[has]) / DAY_US
        return nearest

    def _numbers(self, start: Int64, stop: Int64) -> tuple[NDArray[np.float64], ...]:
        result = []
        for column in range(len(self._arrays.modalities)):
            sums, valid = self._sums[column]
            total = sums[stop[:, column]] - sums[start[:, column]]
            count = valid[stop[:, column]] - valid[start[:, column]]
            value = np.where(self._amounts[column], total, total / np.maximum(count, 1))
            result.append(np.where(count > 0, value, np.nan))
        return tuple(result)

    def _term_counts(self, start: Int64, stop: Int64) -> csr_matrix:
        # In blocks, to bound the memory.
        blocks = [
            self._block_terms(start[at : at + _BLOCK], stop[at : at + _BLOCK])
            for at in range(0, max(1, len(start)), _BLOCK)
        ]
        result = vstack(blocks).tocsr()
        result.sort_indices()
        return result

    def _block_terms(self, start: Int64, stop: Int64) -> csr_matrix:
        total = csr_matrix((len(start), len(self._terms.words)), dtype=np.int32)
        for column in range(len(self._arrays.modalities)):
            texts = self._text_counts(start, stop, column)
            texts.sum_duplicates()
            total = total + texts @ self._terms.of_text[column]
        return total

    def _text_counts(self, start: Int64, stop: Int64, column: int) -> csr_matrix:
        lengths = stop[:, column] - start[:, column]
        pointers = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(pointers[-1]) + np.repeat(start[:, column] - pointers[:-1], lengths)
        texts = self._arrays.modalities[column].text[index]
        shape = (len(start), len(self._arrays.texts))
        return csr_matrix((np.ones(len(index), np.int32), texts, pointers), shape=shape)


_BLOCK = 4096
# Day numbers since the epoch stay below this until the year 4831.
_DAYS_PER_USER = 1 << 20


def _active_days(arrays: EventArrays) -> Int64:
    """Every (user, UTC day) with an event, packed and ascending."""
    packed = [
        np.repeat(np.arange(len(arrays.users)), np.diff(e.offsets)) * _DAYS_PER_USER + e.time // DAY_US
        for e in arrays.modalities
    ]
    return np.unique(np.concatenate(packed)) if packed else np.empty(0, np.int64)


def _running_sums(numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums and counts of the present values before each event, [events + 1, fields] each."""
    zero = np.zeros((1, numbers.shape[1]))
    present = ~np.isnan(numbers)
    sums = np.concatenate([zero, np.cumsum(np.where(present, numbers, 0.0), axis=0)])
    return sums, np.concatenate([zero, np.cumsum(present, axis=0)]).astype(np.int64)
