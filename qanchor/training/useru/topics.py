"""The words of the log, and its topics: groups of words that the same users have at the same time.

The paper names 72 topics by hand; here they come from the log, so that no code knows them. A topic has many
words, each of them rare; its count says more about a user than the count of one word.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from qanchor.events.history import EventArrays, ModalityEvents

_WORD = re.compile(r"[^\W_]+")
# A term of fewer users says nothing about other users.
_FEWEST_USERS = 3
_MOST_ROWS = 6_000
_ROUNDS, _TRIES = 25, 4


def words_of(text: str) -> tuple[str, ...]:
    """The distinct lower-case words of a text, in order."""
    return tuple(dict.fromkeys(_WORD.findall(text.lower())))


@dataclass(frozen=True)
class Terms:
    """A term is a word within one modality.

    Args:
        words: word of each term.
        modality: int64 [terms], index of each term's modality.
        weight: float64 [terms], inverse user frequency in nats; 0 where every user has the term.
        users: int64 [terms], number of users with the term.
        of_text: sparse [texts, terms] per modality, 1 where the text contains the term.
    """

    words: tuple[str, ...]
    modality: NDArray[np.int64]
    weight: NDArray[np.float64]
    users: NDArray[np.int64]
    of_text: tuple[csr_matrix, ...]


def find_terms(arrays: EventArrays, most: int = 1500) -> Terms:
    """The terms that enough users have, most common first.

    Args:
        arrays: events to read, all of them.
        most: largest number of terms.
    """
    names: list[tuple[int, str]] = []
    users: list[int] = []
    columns: list[csr_matrix] = []
    for modality, events in enumerate(arrays.modalities):
        texts, words = _text_words(events, arrays.texts)
        columns.append(texts)
        owners = np.repeat(np.arange(len(arrays.users)), np.diff(events.offsets))
        has = csr_matrix(
            (np.ones(len(owners), np.int32), (owners, events.text)),
            shape=(len(arrays.users), len(arrays.texts)),
        )
        per_user = (has @ texts).tocsc()
        names += [(modality, word) for word in words]
        users += np.diff(per_user.indptr).tolist()
    counts = np.array(users, np.int64)
    common = np.flatnonzero(counts >= _FEWEST_USERS).tolist()
    order = sorted(common, key=lambda i: (-counts[i], names[i]))[:most]
    bounds = np.concatenate([[0], np.cumsum([c.shape[1] for c in columns])]).astype(int)
    kept = []
    for modality, texts in enumerate(columns):
        chosen = [(new, old - bounds[modality]) for new, old in enumerate(order) if names[old][0] == modality]
        pick = csr_matrix(
            (np.ones(len(chosen), np.int32), ([o for _, o in chosen], [n for n, _ in chosen])),
            shape=(texts.shape[1], len(order)),
        )
        kept.append((texts @ pick).tocsr())
    weight = np.log(max(1, len(arrays.users)) / np.maximum(1, counts[order]))
    return Terms(
        tuple(names[i][1] for i in order),
        np.array([names[i][0] for i in order], np.int64),
        weight,
        counts[order],
        tuple(kept),
    )


def _text_words(events: ModalityEvents, texts: tuple[str, ...]) -> tuple[csr_matrix, list[str]]:
    """Sparse [texts, words], 1 where a text of the modality contains the word; and the words."""
    column_of: dict[str, int] = {}
    rows, columns = [], []
    for text in np.unique(events.text).tolist():
        for word in words_of(texts[text]):
            rows.append(text)
            columns.append(column_of.setdefault(word, len(column_of)))
    shape = (len(texts), len(column_of))
    return csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=shape), list(column_of)


@dataclass(frozen=True)
class Topics:
    """Groups of terms.

    Args:
        names: the two most common words of each topic.
        of_term: int64 [terms], topic of each term.
    """

    names: tuple[str, ...]
    of_term: NDArray[np.int64]

    def members(self) -> csr_matrix:
        """Sparse [terms, topics], 1 where the term belongs to the topic."""
        terms = len(self.of_term)
        ones = np.ones(terms, np.int32)
        return csr_matrix((ones, (np.arange(terms), self.of_term)), shape=(terms, len(self.names)))


def co_occurrence_vectors(counts: csr_matrix, width: int) -> NDArray[np.float64]:
    """A unit vector for each column; columns that rise and fall together have near vectors.

    The strongest axes of the correlation between the columns' logarithmic counts.

    Args:
        counts: sparse [rows, columns]; only the first thousands of rows are read.
        width: width of the vectors.

    Returns:
        float64 [columns, width]; zero for a column that does not vary.
    """
    table = np.log1p(counts[:_MOST_ROWS].toarray().astype(np.float32))
    spread = table.std(axis=0)
    table = (table - table.mean(axis=0)) / np.where(spread > 1e-6, spread, np.inf)
    strength, axes = np.linalg.eigh((table.T @ table / max(1, len(table))).astype(np.float64))
    kept = min(width, len(strength))
    vectors = np.zeros((counts.shape[1], width))
    # The sign of an axis is arbitrary: the largest entry decides it, so that runs agree.
    top = axes[:, ::-1][:, :kept]
    top = top * np.sign(top[np.abs(top).argmax(axis=0), np.arange(kept)])
    # An axis of strength 1 explains no more than a single column.
    vectors[:, :kept] = top * np.sqrt(np.maximum(strength[::-1][:kept] - 1, 0))
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norm > 1e-9, vectors / np.maximum(norm, 1e-9), 0.0)


def find_topics(counts: csr_matrix, terms: Terms, rng: np.random.Generator, most: int = 72) -> Topics:
    """Topics by k-means on the terms' co-occurrence vectors.

    Args:
        counts: sparse [points, terms], occurrences of each term in a span.
        terms: terms of the columns.
        rng: random stream of the first centres.
        most: largest number of topics.
    """
    if not terms.words:
        return Topics((), np.empty(0, np.int64))
    vectors = co_occurrence_vectors(counts, 64)
    groups = max(1, min(most, len(vectors) // 4))
    tries = [_grouped(vectors, vectors[_spread_out(vectors, groups, rng)]) for _ in range(_TRIES)]
    of_term = max(tries, key=lambda grouping: grouping[1])[0]
    used, of_term = np.unique(of_term, return_inverse=True)
    names = [_name(np.flatnonzero(of_term == topic), terms) for topic in range(len(used))]
    return Topics(tuple(names), of_term.astype(np.int64))


def _grouped(vectors: NDArray[np.float64], centres: NDArray[np.float64]) -> tuple[NDArray[np.int64], float]:
    """The nearest centre of each vector after k-means, and the sum of the cosines to them."""
    nearest = np.zeros(len(vectors), np.int64)
    close = 0.0
    for _ in range(_ROUNDS):
        cosines = vectors @ centres.T
        nearest, close = cosines.argmax(axis=1), float(cosines.max(axis=1).sum())
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, vectors)
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norm > 1e-9, sums / np.maximum(norm, 1e-9), centres)
    return nearest, close


def _spread_out(vectors: NDArray[np.float64], groups: int, rng: np.random.Generator) -> list[int]:
    """Rows far from each other, by the k-means++ rule."""
    chosen = [int(rng.integers(0, len(vectors)))]
    nearest = 2 - 2 * vectors @ vectors[chosen[0]]
    while len(chosen) < groups:
        share = np.maximum(nearest, 0) + 1e-12
        chosen.append(int(rng.choice(len(vectors), p=share / share.sum())))
        nearest = np.minimum(nearest, 2 - 2 * vectors @ vectors[chosen[-1]])
    return chosen


def _name(members: NDArray[np.int64], terms: Terms) -> str:
    """The two most common words of a topic."""
    order = members[np.argsort(-terms.users[members], kind="stable")]
    return " ".join(list(dict.fromkeys(terms.words[i] for i in order.tolist()))[:2])
