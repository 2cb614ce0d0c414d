"""One modality's events of many requests, flat, and the aggregates of `qanchor.aggregates` over them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qanchor.aggregates import Aggregate
from qanchor.events.history import HistorySlices, ModalityEvents
from qanchor.times import DAY_US

Bools = NDArray[np.bool_]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Events sorted by (request, time).

    Args:
        requests: how many there are.
        request: int64 [events], ascending.
        age: int64 [events], microseconds from the event to the cut-off, above 0.
    """

    requests: int
    request: Int64
    age: Int64

    @classmethod
    def of(cls, events: ModalityEvents, slices: HistorySlices, column: int) -> tuple["Window", Int64]:
        """What each request may read of a modality, those that max_events cut included, and their rows.

        Args:
            events: of the modality.
            slices: of the requests.
            column: of the modality in the slices.

        Returns:
            The window, and int64 [events], rows of `events`.
        """
        counts = slices.window_events[:, column]
        request = np.repeat(np.arange(len(counts)), counts)
        rows = (slices.stop[:, column] - counts)[request] + positions_within(counts)
        return cls(len(counts), request, slices.cutoff[request] - events.time[rows]), rows

    def inside(self, days: int | None) -> Bools:
        """Which events a span holds, bool [events]; None: all."""
        return np.ones(len(self.age), np.bool_) if days is None else self.age <= days * DAY_US

    def count(self, chosen: Bools) -> Int64:
        """The chosen events of each request, int64 [requests]."""
        return np.bincount(self.request[chosen], minlength=self.requests)

    def sum(self, values: Float64, chosen: Bools) -> Float64:
        """The sum of the chosen events' values, float64 [requests]."""
        return np.bincount(self.request[chosen], values[chosen], self.requests).astype(np.float64, copy=False)

    def first_of_run(self, values: Int64) -> Bools:
        """Whether an event is its request's first one of a run of equal values, bool [events]."""
        first = np.ones(len(self.request), np.bool_)
        first[1:] = (self.request[1:] != self.request[:-1]) | (values[1:] != values[:-1])
        return first

    @cached_property
    def first_of_moment(self) -> Bools:
        """Whether an event is the first one of its time, bool [events]."""
        return self.first_of_run(self.age)

    @cached_property
    def first_of_day(self) -> Bools:
        """Whether an event is the first one of its day, counted back from the cut-off, bool [events]."""
        return self.first_of_run(self.age // DAY_US)

    def ends(self) -> tuple[Bools, Int64, Int64]:
        """Which requests have events, bool [requests], and the positions of their oldest and newest ones."""
        counts = np.bincount(self.request, minlength=self.requests)
        has = counts > 0
        stops = np.cumsum(counts)[has]
        return has, stops - counts[has], stops - 1

    def of_events(self, aggregate: Aggregate) -> Float64:
        """An aggregate of each request's events, float64 [requests].

        Recency and tenure are in microseconds, and infinite without events.
        """
        if aggregate.kind in ("recency", "tenure"):
            result = np.full(self.requests, np.inf)
            has, oldest, newest = self.ends()
            result[has] = self.age[newest if aggregate.kind == "recency" else oldest]
            return result
        inside = self.inside(aggregate.days)
        if aggregate.kind == "moments":
            inside &= self.first_of_moment
        elif aggregate.kind == "active_days":
            inside &= self.first_of_day
        return self.count(inside).astype(np.float64)

    def of_number(self, aggregate: Aggregate, values: Float64) -> Float64:
        """The sum or mean of a number, float64 [requests]; 0 without events.

        Args:
            aggregate: of kind sum or mean.
            values: float64 [events], 0 where missing.
        """
        inside = self.inside(aggregate.days)
        total = self.sum(values, inside)
        return total if aggregate.kind == "sum" else total / np.maximum(self.count(inside), 1)


def positions_within(counts: Int64) -> Int64:
    """0, 1, ... inside each of several ranges that follow each other, int64 [sum of counts].

    Args:
        counts: int64 [ranges], lengths.
    """
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
