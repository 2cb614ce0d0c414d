"""One user's events around a cut-off: the profile before it, or what came after it, never both at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qanchor.events.history import EventArrays
from qanchor.training.useru.facts import Seen
from qanchor.training.useru.pool import PoolTopic
from qanchor.training.useru.spans import DAY
from qanchor.training.useru.terms import words_of
from qanchor.workspace import Workspace

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class SpanEvents:
    """All of a user's events of one span, ascending by time.

    Args:
        everything: the span, about nothing in particular.
        text_ids: int32 [events], rows of `topics`.
        topics: bool [texts, topics], which text is about which topic.
    """

    everything: Seen
    text_ids: NDArray[np.int32]
    topics: NDArray[np.bool_]

    def about(self, topic: int, name: str) -> Seen:
        """The events about one topic."""
        return self._kept(self.topics[self.text_ids, topic], name)

    def of_modality(self, position: int, name: str) -> Seen:
        """The events of one modality."""
        return self._kept(self.everything.modality == position, name)

    def _kept(self, mask: NDArray[np.bool_], name: str) -> Seen:
        seen = self.everything
        events = seen.modality[mask], seen.time[mask], seen.text[mask], seen.amount[mask]
        return Seen(name, seen.cutoff, seen.days, *events, seen.modalities, seen.of_all)


class ProfileReader:
    """Reads spans of single users.

    Args:
        arrays: the visible events.
        workspace: names modalities and amounts.
        topics: the pool.
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
            row: the user's.
            cutoff: microseconds UTC; an event at that very moment lies after it.
            days: length and direction.
        """
        low, high = sorted((cutoff, cutoff + days * DAY))
        parts = [self._part(column, row, low, high) for column in range(len(self._names))]
        modality, time, text, amount = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(time, kind="stable")
        text = text[order]
        seen = Seen(
            "",
            cutoff,
            days,
            modality[order],
            time[order],
            self._texts[text],
            amount[order],
            self._names,
            len(order),
        )
        return SpanEvents(seen, text, self._topics)

    def _part(
        self, column: int, row: int, low: int, high: int
    ) -> tuple[Int64, Int64, NDArray[np.int32], NDArray[np.float64]]:
        events = self._arrays.modalities[column]
        begin, end = events.offsets[row], events.offsets[row + 1]
        own = events.time[begin:end]
        kept = slice(begin + np.searchsorted(own, low), begin + np.searchsorted(own, high))
        time = events.time[kept]
        place = self._amount[column]
        amount = np.full(len(time), np.nan) if place is None else events.numbers[kept, place]
        return np.full(len(time), column, np.int64), time, events.text[kept], amount


def _topics_of_texts(texts: Sequence[str], topics: Sequence[PoolTopic]) -> NDArray[np.bool_]:
    by_word: dict[str, list[int]] = {}
    for number, topic in enumerate(topics):
        for word in topic.words:
            by_word.setdefault(word, []).append(number)
    result = np.zeros((len(texts), len(topics)), np.bool_)
    for row, text in enumerate(texts):
        for word in words_of(text):
            result[row, by_word.get(word, [])] = True
    return result
