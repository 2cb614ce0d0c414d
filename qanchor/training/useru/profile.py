"""One user's events before a cut-off, the profile, or after it; never both at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.events.history import EventArrays
from qanchor.times import DAY_US
from qanchor.training.useru.facts import SelectedEvents
from qanchor.training.useru.pool import PoolTopic, topics_by_word
from qanchor.training.useru.topics import words_of
from qanchor.workspace import Workspace

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class SpanEvents:
    """All of a user's events of one span, ascending by time.

    Args:
        everything: all events of the span.
        text_ids: int32 [events], rows of `topics`.
        topics: bool [texts, topics], whether each text is about each topic.
    """

    everything: SelectedEvents
    text_ids: NDArray[np.int32]
    topics: NDArray[np.bool_]

    def about(self, topic: int, name: str) -> SelectedEvents:
        """The events about one topic."""
        return self._kept(self.topics[self.text_ids, topic], name)

    def of_modality(self, modality: int, name: str) -> SelectedEvents:
        """The events of one modality."""
        return self._kept(self.everything.modality == modality, name)

    def _kept(self, mask: NDArray[np.bool_], name: str) -> SelectedEvents:
        span = self.everything
        columns = span.modality[mask], span.time[mask], span.text[mask], span.amount[mask]
        return SelectedEvents(name, span.cutoff, span.days, *columns, span.modalities, span.of_all)


class ProfileReader:
    """Reads spans of single users.

    Args:
        arrays: visible events.
        workspace: names of the modalities and amounts.
        topics: topics of the texts.
    """

    def __init__(self, arrays: EventArrays, workspace: Workspace, topics: Sequence[PoolTopic]) -> None:
        self._arrays = arrays
        self._names = tuple(events.name for events in arrays.modalities)
        self._texts = np.array(arrays.texts, dtype=object)
        self._topics = _topics_of_texts(arrays.texts, topics)
        specs = [workspace.modalities[name] for name in self._names]
        self._amount = [spec.numbers.index(spec.amount) if spec.amount else None for spec in specs]

    def read(self, row: int, cutoff: int, days: int) -> SpanEvents:
        """The events of `days` after the cut-off; negative: strictly before it.

        Args:
            row: row of the user.
            cutoff: cut-off, microseconds UTC; an event at that moment is after it.
            days: length of the span; negative: before the cut-off.
        """
        low, high = sorted((cutoff, cutoff + days * DAY_US))
        parts = [self._part(column, row, low, high) for column in range(len(self._names))]
        modality, time, text, amount = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(time, kind="stable")
        text = text[order]
        columns = modality[order], time[order], self._texts[text], amount[order]
        events = SelectedEvents("", cutoff, days, *columns, self._names, len(order))
        return SpanEvents(events, text, self._topics)

    def _part(
        self, column: int, row: int, low: int, high: int
    ) -> tuple[Int64, Int64, NDArray[np.int32], NDArray[np.float64]]:
        events = self._arrays.modalities[column]
        begin, end = events.offsets[row], events.offsets[row + 1]
        times = events.time[begin:end]
        kept = slice(begin + np.searchsorted(times, low), begin + np.searchsorted(times, high))
        time = events.time[kept]
        field = self._amount[column]
        amount = np.full(len(time), np.nan) if field is None else events.numbers[kept, field]
        return np.full(len(time), column, np.int64), time, events.text[kept], amount


def _topics_of_texts(texts: Sequence[str], topics: Sequence[PoolTopic]) -> NDArray[np.bool_]:
    by_word = topics_by_word(topics)
    result = np.zeros((len(texts), len(topics)), np.bool_)
    for row, text in enumerate(texts):
        for word in words_of(text):
            result[row, by_word.get(word, [])] = True
    return result
