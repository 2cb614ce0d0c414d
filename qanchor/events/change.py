"""The difference between a user's history and that of an earlier vector, in numpy, without a model."""

import numpy as np
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, HistorySlices, Int64, slice_histories
from qanchor.workspace import Workspace

Shares = NDArray[np.float64]


def history_change(
    arrays: EventArrays,
    rows: Int64,
    before: Int64,
    after: Int64,
    read: Int64,
    workspace: Workspace,
) -> Shares:
    """The share of each user's history that another moment sees differently.

    Half the sum of the differences between two distributions over the history's (modality, text) pairs, that
    is the share of the events that would have to change for one history to look like the other. New events
    and events that have left the window count alike. Where late events have come in since, which the earlier
    vector has not read, their share counts if it is greater.

    Args:
        arrays: the events, from the earliest window's start on.
        rows: int64 [requests], user rows; -1 is a user without events.
        before: int64 [requests], the earlier vector's cut-offs, microseconds UTC; -1 is a user without one.
        after: int64 [requests], the new cut-offs.
        read: int64 [requests], events of the window that the earlier vector has read.
        workspace: the window and its limits.

    Returns:
        float64 [requests], 0 (nothing changed) to 1.
    """
    old = slice_histories(arrays, rows, before, workspace)
    new = slice_histories(arrays, rows, after, workspace)
    difference = (_unshared(old, new) + _variation(arrays, old, new)) / 2
    events = [slices.window_events.sum(axis=1) for slices in (old, new)]
    late = np.abs(events[0] - read) / np.maximum(1, np.maximum(events[0], read))
    known = before >= 0
    result: Shares = np.where(known, np.maximum(difference, late), (events[1] > 0).astype(np.float64))
    return result


def _unshared(old: HistorySlices, new: HistorySlices) -> Shares:
    """Share of the events of both that only one of them has; 0 where there is none at all."""
    both = np.maximum(0, np.minimum(old.stop, new.stop) - np.maximum(old.start, new.start)).sum(axis=1)
    kept = [(slices.stop - slices.start).sum(axis=1) for slices in (old, new)]
    either = kept[0] + kept[1] - both
    result: Shares = np.where(either > 0, 1.0 - both / np.maximum(1, either), 0.0)
    return result


def _variation(arrays: EventArrays, old: HistorySlices, new: HistorySlices) -> Shares:
    """Total variation between the distributions of two histories; 1 where one of them alone is empty."""
    requests, kinds = len(old.cutoff), _kind_count(arrays)
    some = [_kinds(arrays, slices) for slices in (old, new)]
    codes, code_of = np.unique(np.concatenate(some), return_inverse=True)
    shares = []
    for slices, at in ((old, code_of[: len(some[0])]), (new, code_of[len(some[0]) :])):
        kept = (slices.stop - slices.start).sum(axis=1)
        # Whole counts before the division: equal histories differ by nothing, not by a rounding error.
        shares.append(np.bincount(at, minlength=len(codes)) / np.maximum(1, kept)[codes // kinds])
    moved = np.abs(shares[1] - shares[0])
    result: Shares = np.bincount(codes // kinds, moved, requests) / 2
    empty = [(slices.stop == slices.start).all(axis=1) for slices in (old, new)]
    result[empty[0] != empty[1]] = 1.0
    return result


def _kind_count(arrays: EventArrays) -> int:
    return max(1, len(arrays.modalities) * len(arrays.texts))


def _kinds(arrays: EventArrays, slices: HistorySlices) -> Int64:
    """A code of (request, modality, text) for every event of the slices."""
    codes = [np.empty(0, np.int64)]
    for column, events in enumerate(arrays.modalities):
        lengths = slices.stop[:, column] - slices.start[:, column]
        request = np.repeat(np.arange(len(lengths)), lengths)
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        text = events.text[np.repeat(slices.start[:, column], lengths) + within].astype(np.int64)
        codes.append((request * len(arrays.modalities) + column) * len(arrays.texts) + text)
    return np.concatenate(codes)
