"""Answers in words, computed from the events of a span: coarse levels and telling words.

An answer is a row of phrase numbers; a phrase is tokenised once, however many answers contain it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from qanchor.training.useru.spans import Span
from qanchor.training.useru.summaries import SummaryShares, summarise
from qanchor.training.useru.topics import Terms, Topics
from qanchor.workspace import Workspace

Phrases = NDArray[np.int32]  # [rows, phrases], -1 pads short rows

COUNT_WORDS = ("nothing", "one", "two", "few", "some", "several", "many", "lots", "masses")
COUNT_LEVELS = np.array([1, 2, 3, 5, 9, 17, 33, 65])
_NEAREST_WORDS = ("at once", "soon", "this week", "this month", "late", "never")
_NEAREST_FROM = np.array([1.0, 3.0, 7.0, 30.0, 1e6])
_LEVELS = 10
_TOP_WHOLE, _TOP_MODALITY, _TOP_TOPICS = 3, 6, 6
_PER_MODALITY = 3


@dataclass
class PhraseBook:
    """Distinct phrases with their numbers."""

    texts: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        """The phrase's number; a new phrase is added."""
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]

    def numbers(self, texts: list[str]) -> Phrases:
        """The numbers of several phrases, int32 [texts]."""
        return np.array([self.number(text) for text in texts], np.int32)


class Describer:
    """Describes one span of all points in words.

    Args:
        span: counts of the span's events.
        terms: terms of the log.
        topics: topics of the terms.
        workspace: names of the modalities and numbers.
        book: numbers of the phrases.
    """

    def __init__(
        self, span: Span, terms: Terms, topics: Topics, workspace: Workspace, book: PhraseBook
    ) -> None:
        self._span = span
        self._terms = terms
        self._book = book
        self._names = [name.replace("_", " ") for name in workspace.modalities]
        self._counts = np.searchsorted(COUNT_LEVELS, span.counts, side="right")
        self._nothing = span.counts.sum(axis=1) == 0
        self._active = self._leveled("active days", np.searchsorted(COUNT_LEVELS, span.active_days, "right"))
        self._per_name = np.stack(
            [self._leveled(name, self._counts[:, i]) for i, name in enumerate(self._names)], axis=1
        )
        self._numbers = [
            self._number_levels(workspace.modalities[name].numbers, values)
            for name, values in zip(workspace.modalities, span.numbers, strict=True)
        ]
        self._topics = topics
        self._topic_counts = (span.terms @ topics.members()).toarray().astype(np.int64)
        self._topic_levels = np.searchsorted(COUNT_LEVELS, self._topic_counts, side="right")
        phrases = [f"{name} {word}" for name in topics.names for word in COUNT_WORDS]
        self._topic_phrases = book.numbers(phrases).reshape(-1, len(COUNT_WORDS))
        self._leading_topics = self._top_topics()
        self._by_weight = _by_weight(span.terms)
        self._words = book.numbers(list(terms.words))
        self._ranked = self._top_mixed()
        self._ranked_within = [self._top(i) for i in range(len(self._names))]

    def whole(self) -> Phrases:
        """Answers about all events: activity, counts by modality, amounts, leading topics and words."""
        words = np.where(self._ranked < 0, -1, self._words[self._ranked])
        amounts = np.concatenate(self._numbers, axis=1)
        parts = [self._active[:, None], self._leading_topics, self._per_name, amounts, words]
        answer = np.concatenate(parts, axis=1)
        return self._or_nothing(answer, self._nothing, "nothing")

    def modality(self, position: int) -> Phrases:
        """Answers about one modality: near and far counts, nearest event, numbers, counts of its words."""
        name = self._names[position]
        parts = np.searchsorted(COUNT_LEVELS, self._span.halves[:, :, position], side="right")
        ranked = self._ranked_within[position]
        answer = np.concatenate(
            [
                self._per_name[:, [position]],
                self._leveled("near", parts[:, 0])[:, None],
                self._leveled("far", parts[:, 1])[:, None],
                self._nearest(position)[:, None],
                self._numbers[position],
                self._counted(ranked),
            ],
            axis=1,
        )
        return self._or_nothing(answer, self._counts[:, position] == 0, f"{name} nothing")

    def word(self, points: NDArray[np.int64], term: int) -> Phrases:
        """Answers about one word: its count, then general activity."""
        counts = np.asarray(self._span.terms[points, np.full(len(points), term)]).ravel()
        counted = self._counted_table(np.full((len(points), 1), term), self._levels(counts)[:, None])
        parts = [counted, self._active[points, None], self._leading_topics[points]]
        return np.concatenate(parts, axis=1).astype(np.int32)

    def topics(self, points: NDArray[np.int64], topics: NDArray[np.int64]) -> Phrases:
        """Answers about some topics, int64 [topics]: their counts, then general activity."""
        levels = self._topic_levels[points[:, None], topics]
        parts = [
            self._topic_phrases[topics, levels],
            self._active[points, None],
            self._leading_topics[points],
        ]
        return np.concatenate(parts, axis=1).astype(np.int32)

    def summary(self, shares: SummaryShares) -> NDArray[np.float32]:
        """The span in numbers that a linear readout can predict, [points, numbers].

        Args:
            shares: weight of each group of numbers.
        """
        return summarise(self._span, self._topic_counts, shares)

    def _top_topics(self) -> Phrases:
        """The most telling topics of each point with their levels; -1 pads."""
        counts = self._topic_counts
        rarity = np.sqrt(np.log((len(counts) + 1) / np.maximum((counts > 0).sum(axis=0), 1)) + 0.1)
        weight = np.log1p(counts) * rarity
        ranked = np.argsort(-weight, axis=1, kind="stable")[:, :_TOP_TOPICS]
        rows = np.arange(len(counts))[:, None]
        phrases = self._topic_phrases[ranked, self._topic_levels[rows, ranked]]
        return np.where(counts[rows, ranked] > 0, phrases, -1).astype(np.int32)

    def _levels(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(COUNT_LEVELS, counts, side="right")

    def _leveled(self, name: str, level: NDArray[np.int64]) -> Phrases:
        return self._book.numbers([f"{name} {word}" for word in COUNT_WORDS])[level]

    def _nearest(self, position: int) -> Phrases:
        level = np.searchsorted(_NEAREST_FROM, self._span.nearest[:, position], side="right")
        return self._book.numbers([f"first {word}" for word in _NEAREST_WORDS])[level]

    def _number_levels(self, names: tuple[str, ...], values: NDArray[np.float64]) -> Phrases:
        """Deciles over all points as words, -1 for a missing value, int32 [points, numbers]."""
        columns = [np.full((len(values), 0), -1, np.int32)]
        for i, name in enumerate(names):
            present = ~np.isnan(values[:, i])
            column = np.full(len(values), -1, np.int32)
            if present.any():
                cuts = np.unique(np.quantile(values[present, i], np.arange(1, _LEVELS) / _LEVELS))
                words = self._book.numbers([f"{name.replace('_', ' ')} level{k}" for k in range(_LEVELS)])
                column[present] = words[np.searchsorted(cuts, values[present, i], side="right")]
            columns.append(column[:, None])
        return np.concatenate(columns, axis=1)

    def _counted(self, ranked: NDArray[np.int64]) -> Phrases:
        points = np.repeat(np.arange(len(ranked)), ranked.shape[1])
        counts = np.asarray(self._span.terms[points, np.maximum(ranked, 0).ravel()]).reshape(ranked.shape)
        return self._counted_table(ranked, self._levels(counts))

    def _counted_table(self, terms: NDArray[np.int64], levels: NDArray[np.int64]) -> Phrases:
        """Phrase 'word level' for each term; -1 for no term."""
        packed, inverse = np.unique(terms * len(COUNT_WORDS) + levels, return_inverse=True)
        numbers = [
            -1
            if code < 0
            else self._book.number(
                f"{self._terms.words[code // len(COUNT_WORDS)]} {COUNT_WORDS[code % len(COUNT_WORDS)]}"
            )
            for code in packed.tolist()
        ]
        return np.array(numbers, np.int32)[inverse].reshape(terms.shape)

    def _top(self, modality: int) -> NDArray[np.int64]:
        """The most telling terms of one modality for each point; -1 pads."""
        point, term = self._by_weight
        kept = self._terms.modality[term] == modality
        return self._ranked_table(point[kept], term[kept], _TOP_MODALITY)

    def _top_mixed(self) -> NDArray[np.int64]:
        """The most telling terms of each point, few of one modality; -1 pads."""
        point, term = self._by_weight
        group = point * len(self._names) + self._terms.modality[term]
        order = np.argsort(group, kind="stable")
        rank = np.empty(len(group), np.int64)
        rank[order] = rank_within(group[order])
        kept = rank < _PER_MODALITY
        return self._ranked_table(point[kept], term[kept], _TOP_WHOLE)

    def _ranked_table(
        self, point: NDArray[np.int64], term: NDArray[np.int64], most: int
    ) -> NDArray[np.int64]:
        """The first `most` terms of each point, int64 [points, most]; points ascend."""
        rank = rank_within(point)
        result = np.full((len(self._nothing), most), -1, np.int64)
        kept = rank < most
        result[point[kept], rank[kept]] = term[kept]
        return result

    def _or_nothing(self, answer: Phrases, nothing: NDArray[np.bool_], text: str) -> Phrases:
        answer = answer.astype(np.int32)
        answer[nothing] = -1
        answer[nothing, 0] = self._book.number(text)
        return answer


def _by_weight(counts: csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Point and term of every count, by point and then by telling weight, highest first.

    A telling word is frequent at this point and rare elsewhere.
    """
    points = max(1, counts.shape[0])
    has = np.bincount(counts.indices, minlength=counts.shape[1])
    rarity = np.sqrt(np.log((points + 1) / np.maximum(has, 1)))
    weight = np.log1p(counts.data) * rarity[counts.indices]
    point = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    # One sort key: the weight is less than the step from point to point.
    order = np.argsort(point - weight / (weight.max(initial=0.0) + 1.0), kind="stable")
    return point[order].astype(np.int64), counts.indices[order].astype(np.int64)


def rank_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each entry within its run of equal, adjacent groups."""
    if not len(groups):
        return groups
    starts = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
    lengths = np.diff(np.append(starts, len(groups)))
    return np.arange(len(groups)) - np.repeat(starts, lengths)
