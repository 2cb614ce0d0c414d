"""What the log is about: words that the same users have at the same time, grouped into topics.

The paper names 72 life topics by hand; here they come out of the log, so that no code knows them. A topic
is told by many words, each of them rare; its count says more about a user than any word's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from qanchor.training.useru.terms import Terms

_MOST_ROWS = 6_000
_ROUNDS, _TRIES = 25, 4


@dataclass(frozen=True)
class Topics:
    """Groups of terms.

    Args:
        names: two of each topic's words.
        of_term: int64 [terms], each term's topic.
    """

    names: tuple[str, ...]
    of_term: NDArray[np.int64]

    def members(self) -> csr_matrix:
        """Sparse [terms, topics], 1 where the term is of the topic."""
        terms = len(self.of_term)
        ones = np.ones(terms, np.int32)
        return csr_matrix((ones, (np.arange(terms), self.of_term)), shape=(terms, len(self.names)))


def co_occurrence_vectors(counts: csr_matrix, width: int) -> NDArray[np.float64]:
    """A unit vector for each column, near where columns go up and down together.

    The strongest axes of the correlation between the columns' logarithmic counts.

    Args:
        counts: sparse [rows, columns]; beyond some thousand rows, the first of them are read.
        width: of the vectors.

    Returns:
        [columns, width]; zero for a column that does not vary.
    """
    table = np.log1p(counts[:_MOST_ROWS].toarray().astype(np.float32))
    spread = table.std(axis=0)
    table = (table - table.mean(axis=0)) / np.where(spread > 1e-6, spread, np.inf)
    strength, axes = np.linalg.eigh((table.T @ table / max(1, len(table))).astype(np.float64))
    kept = min(width, len(strength))
    vectors = np.zeros((counts.shape[1], width))
    # The sign of an axis is arbitrary: its largest entry decides it, so that runs agree.
    top = axes[:, ::-1][:, :kept]
    top = top * np.sign(top[np.abs(top).argmax(axis=0), np.arange(kept)])
    # An axis of strength 1 says no more than a column of its own would.
    vectors[:, :kept] = top * np.sqrt(np.maximum(strength[::-1][:kept] - 1, 0))
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norm > 1e-9, vectors / np.maximum(norm, 1e-9), 0.0)


def find_topics(counts: csr_matrix, terms: Terms, rng: np.random.Generator, most: int = 72) -> Topics:
    """Topics by k-means on the terms' co-occurrence vectors.

    Args:
        counts: sparse [points, terms], how often each term occurs in a span.
        terms: the columns.
        rng: of the first centres.
        most: topics, as far as there are terms for them.
    """
    if not terms.words:
        return Topics((), np.empty(0, np.int64))
    vectors = co_occurrence_vectors(counts, 64)
    groups = max(1, min(most, len(vectors) // 4))
    tries = [_grouped(vectors, vectors[_spread_out(vectors, groups, rng)]) for _ in range(_TRIES)]
    of_term = max(tries, key=lambda found: found[1])[0]
    used, of_term = np.unique(of_term, return_inverse=True)
    names = [_name(np.flatnonzero(of_term == topic), terms) for topic in range(len(used))]
    return Topics(tuple(names), of_term.astype(np.int64))


def _grouped(vectors: NDArray[np.float64], centres: NDArray[np.float64]) -> tuple[NDArray[np.int64], float]:
    """The centre that each vector ends up with, and how close they are to them in all."""
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
