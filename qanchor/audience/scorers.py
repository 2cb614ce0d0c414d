"""Scorers rank users by their vectors; the best of a million are taken from the index."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qanchor.audience.population import Mask
from qanchor.storage.vectors import Rows, VectorIndex, Vectors
from qanchor.storage.vectors.exact import exact_search

Scores = NDArray[np.float32]

# Rows scored at once: enough for fast arithmetic, few enough to stay in the caches' reach.
_BLOCK = 16_384


class Scorer(Protocol):
    """Role: how much a user belongs to the audience."""

    def score(self, vectors: Vectors) -> Scores:
        """Score of each vector, float32 [rows]; higher belongs more."""
        ...

    def directions(self) -> Vectors | None:
        """Directions, float32 [directions, width], such that the score rises with a vector's largest inner
        product with any of them; None where every user has to be scored."""
        ...


@dataclass(frozen=True)
class DirectionScorer:
    """The largest inner product with any of some directions, plus an offset, optionally as a probability.

    Args:
        queries: float32 [directions, width].
        offset: number added to the inner product.
        is_probability: whether the score is the logistic of the sum, in (0, 1).
    """

    queries: Vectors
    offset: float = 0.0
    is_probability: bool = False

    def score(self, vectors: Vectors) -> Scores:
        """As Scorer."""
        best = (vectors @ self.queries.T).max(axis=1) + np.float32(self.offset)
        scores: Scores = 1 / (1 + np.exp(-best)) if self.is_probability else best
        return scores.astype(np.float32, copy=False)

    def directions(self) -> Vectors | None:
        """As Scorer."""
        return self.queries


@dataclass(frozen=True)
class VotingScorer:
    """The mean cosine to the nearest seeds, measured from the average user.

    Args:
        seeds: vectors of the seeds, float32 [seeds, width].
        centre: vector of the average user, float32 [width].
        votes: number of nearest seeds that count.
    """

    seeds: Vectors
    centre: Vectors
    votes: int

    def score(self, vectors: Vectors) -> Scores:
        """As Scorer."""
        seeds, votes = _centred(self.seeds, self.centre), min(self.votes, len(self.seeds))
        scores: Scores = exact_search(seeds, _centred(vectors, self.centre), votes)[0].mean(axis=1)
        return scores

    def directions(self) -> Vectors | None:
        """As Scorer."""
        return None


@dataclass(frozen=True)
class MixedScorer:
    """A weighted sum of scores, each standardised over other users.

    Args:
        parts: scorers to mix.
        weights: weight of each part.
        means: mean of each part's score over other users.
        spreads: standard deviation of each part's score over other users.
    """

    parts: Sequence[Scorer]
    weights: Sequence[float]
    means: Sequence[float]
    spreads: Sequence[float]

    def score(self, vectors: Vectors) -> Scores:
        """As Scorer."""
        total = np.zeros(len(vectors), np.float32)
        for part, weight, mean, spread in zip(
            self.parts, self.weights, self.means, self.spreads, strict=True
        ):
            total += np.float32(weight / spread) * (part.score(vectors) - np.float32(mean))
        return total

    def directions(self) -> Vectors | None:
        """As Scorer."""
        return None


def mix(parts: Sequence[Scorer], weights: Sequence[float], background: Vectors) -> Scorer:
    """A weighted sum of scorers, each in units of its standard deviation over other users.

    Args:
        parts: scorers to mix.
        weights: weight of each part, summing to 1.
        background: vectors of other users, float32 [users, width].
    """
    # A probability saturates; its argument is what adds up.
    plain = [replace(p, is_probability=False) if isinstance(p, DirectionScorer) else p for p in parts]
    scores = [part.score(background) for part in plain]
    means = [float(values.mean()) for values in scores]
    spreads = [max(float(values.std()), 1e-9) for values in scores]
    linear = [p for p in plain if isinstance(p, DirectionScorer) and len(p.queries) == 1]
    if len(linear) < len(plain):
        return MixedScorer(plain, weights, means, spreads)
    shares = [weight / spread for weight, spread in zip(weights, spreads, strict=True)]
    query = np.sum([share * part.queries for share, part in zip(shares, linear, strict=True)], axis=0)
    offset = sum(s * (p.offset - mean) for s, p, mean in zip(shares, linear, means, strict=True))
    return DirectionScorer(query.astype(np.float32), offset)


def score_rows(index: VectorIndex, scorer: Scorer, rows: Rows) -> Scores:
    """Score users block by block, float32 [len(rows)]."""
    scores = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        scores[part] = scorer.score(index.vectors(rows[part]))
    return scores


def best_rows(index: VectorIndex, scorer: Scorer, k: int, allowed: Mask) -> tuple[Scores, Rows]:
    """The k best candidates, best first; equal scores by row, which is by user id.

    Args:
        index: vectors of the users.
        scorer: scorer that ranks.
        k: number of rows; at most the number of candidates.
        allowed: bool [rows], the candidates.

    Returns:
        Scores float32 [k] and rows int64 [k].
    """
    directions = scorer.directions()
    if directions is None:
        rows = np.flatnonzero(allowed)
    else:
        length = np.linalg.norm(directions, axis=1, keepdims=True)
        nearest = index.search(directions / np.maximum(length, 1e-12), k, allowed=allowed)[1]
        # The k best by the largest product are among the k best of each direction.
        rows = np.unique(nearest[nearest >= 0])
    return _ordered(score_rows(index, scorer, rows), rows, k)


def rows_above(index: VectorIndex, scorer: Scorer, threshold: float, allowed: Mask) -> tuple[Scores, Rows]:
    """Every candidate who scores at least a threshold, in the form of `best_rows`."""
    rows = np.flatnonzero(allowed)
    scores = score_rows(index, scorer, rows)
    kept = scores >= threshold
    return _ordered(scores[kept], rows[kept], int(kept.sum()))


def nearest_seeds(index: VectorIndex, seeds: Vectors, rows: Rows, most: int) -> tuple[Scores, Rows]:
    """The nearest seeds of some users.

    Args:
        index: vectors of the users.
        seeds: float32 [seeds, width].
        rows: int64 [users], rows of the users.
        most: number of seeds for each user.

    Returns:
        Cosines float32 [users, most], the nearest first, and positions among the seeds, int64 [users, most].
    """
    most = min(most, len(seeds))
    cosines, positions = np.empty((len(rows), most), np.float32), np.empty((len(rows), most), np.int64)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        cosines[part], positions[part] = exact_search(seeds, index.vectors(rows[part]), most)
    return cosines, positions


def _ordered(scores: Scores, rows: Rows, k: int) -> tuple[Scores, Rows]:
    if len(scores) > k:
        # All that equal the last one taken are kept, so that ties go to the lower row.
        least = np.partition(scores, len(scores) - k)[len(scores) - k] if k else np.inf
        kept = scores >= least
        scores, rows = scores[kept], rows[kept]
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def _centred(vectors: Vectors, centre: Vectors) -> Vectors:
    moved = vectors - centre
    result: Vectors = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
    return result
