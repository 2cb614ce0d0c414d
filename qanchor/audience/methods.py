"""Methods that learn from seeds how to rank users, and the choice between them by held-out seeds.

All of them measure from the average user: the vectors of one space share a large common part, which says
nothing about any user, and a plain cosine to the seeds' centroid is mostly that part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from qanchor.audience.scorers import DirectionScorer, Scorer, VotingScorer
from qanchor.errors import SeedsInvalid
from qanchor.storage.vectors import Rows, Vectors

Method = Literal["centroid", "centroids", "nearest", "classifier"]
MethodOrAuto = Literal["auto", "centroid", "centroids", "nearest", "classifier"]
METHODS: Final[tuple[Method, ...]] = ("centroid", "centroids", "nearest", "classifier")

_FOLDS = 5
_STRENGTHS = (0.003, 0.03, 0.3)
_MOST_CENTROIDS = 8
_SEEDS_PER_CENTROID = 10
# With fewer seeds a classifier learns who they are, not what they have in common.
_FEWEST_FOR_CLASSIFIER = 10
_FEWEST_TO_COMPARE = 5


@dataclass(frozen=True)
class Choice:
    """The method that ranks, and how it was chosen.

    Args:
        method: name of the method.
        recall: share of held-out seeds among the best `shares` of other users, the mean over these, by
            method; empty where nothing was compared. One share alone would let a few seeds decide.
        shares: shares of the users at which recall is measured, in (0, 1].
        held_out: number of seeds behind each recall.
        strength: inverse regularisation of a classifier, chosen by the area under its curve on held-out
            seeds.
    """

    method: Method
    recall: Mapping[Method, float] = field(default_factory=dict)
    shares: tuple[float, ...] = ()
    held_out: int = 0
    strength: float = _STRENGTHS[1]

    @property
    def runner_up(self) -> tuple[Method, float] | None:
        """The best of the other methods and its recall."""
        others = [(name, recall) for name, recall in self.recall.items() if name != self.method]
        return max(others, key=lambda other: other[1]) if others else None


def fit_scorer(
    method: Method, seeds: Vectors, background: Vectors, strength: float = _STRENGTHS[1]
) -> Scorer:
    """Learn from seeds how to rank users.

    Args:
        method: 'centroid': the mean inner product with the seeds, minus that with other users.
            'centroids': the same with the nearest of several centres of the seeds (k-means; their number by
            silhouette). 'nearest': the mean cosine to the nearest seeds, from the average user: each seed
            votes for who is near it. 'classifier': logistic regression of seeds against other users; these
            hold users of the seeds' kind too, which lowers its chances but not their order.
        seeds: unit vectors, float32 [seeds, width].
        background: unit vectors of other users, float32 [users, width].
        strength: inverse regularisation of the classifier.

    Source: C. Elkan, K. Noto, Learning Classifiers from Only Positive and Unlabeled Data, KDD 2008, lemma 1.
    """
    centre = background.mean(axis=0)
    if method == "centroid":
        return DirectionScorer((seeds.mean(axis=0) - centre)[None])
    if method == "centroids":
        groups = _grouped(seeds - centre)
        return DirectionScorer(np.stack([seeds[group].mean(axis=0) - centre for group in groups]))
    if method == "nearest":
        return VotingScorer(seeds, centre, votes=max(3, round(len(seeds) ** 0.5)))
    return _classifier(seeds, background, strength)


def choose_method(requested: MethodOrAuto, seeds: Vectors, background: Vectors, share: float) -> Choice:
    """The method to rank by; 'auto' takes the one that finds most held-out seeds among other users.

    Args:
        requested: a method, or 'auto'.
        seeds: float32 [seeds, width].
        background: float32 [users, width], vectors of candidates.
        share: share of the candidates to return, in (0, 1]. Recall is measured at this share (5% to 25%), at
            twice and at four times it.

    Raises:
        SeedsInvalid: there are fewer than 10 seeds for a classifier.
    """
    if requested == "classifier" and len(seeds) < _FEWEST_FOR_CLASSIFIER:
        raise SeedsInvalid(
            f"{len(seeds)} seeds are too few for a classifier", "Give 10 or more, or use --method centroid."
        )
    compared: tuple[Method, ...]
    if requested == "auto":
        compared = METHODS if len(seeds) >= _FEWEST_FOR_CLASSIFIER else METHODS[:3]
    elif requested == "classifier":
        compared = (requested,)
    else:
        return Choice(requested)
    if len(seeds) < _FEWEST_TO_COMPARE:
        return Choice("centroid")
    folds = fold_of(len(seeds))
    strength = _best_strength(seeds, background, folds) if "classifier" in compared else _STRENGTHS[1]
    shares = tuple(min(1.0, times * min(max(share, 0.05), 0.25)) for times in (1, 2, 4))
    recall: dict[Method, float] = {}
    for method in compared:
        ranks = held_out_ranks(method, seeds, background, folds, strength)
        recall[method] = float(np.mean([np.mean(ranks <= part) for part in shares]))
    best = max(compared, key=lambda method: recall[method])
    return Choice(best, recall, shares, len(seeds), strength)


def fold_of(seeds: int) -> NDArray[np.int64]:
    """The fold of each seed, int64 [seeds]; at most five, each seed alone where there are fewer."""
    return np.asarray(np.random.default_rng(7).permutation(seeds) % min(_FOLDS, seeds))


def held_out_ranks(
    method: Method, seeds: Vectors, background: Vectors, folds: NDArray[np.int64], strength: float
) -> NDArray[np.float64]:
    """For each seed the share of other users who score at least as well, when the seed is held out.

    Args:
        method: method to fit on the seeds of the other folds.
        seeds: float32 [seeds, width].
        background: float32 [users, width].
        folds: int64 [seeds].
        strength: inverse regularisation of the classifier.

    Returns:
        float64 [seeds], in [0, 1]; 0 is above everybody.
    """
    ranks = np.empty(len(seeds))
    for fold in np.unique(folds):
        held = folds == fold
        scorer = fit_scorer(method, seeds[~held], background, strength)
        others = np.sort(scorer.score(background))
        ranks[held] = 1 - np.searchsorted(others, scorer.score(seeds[held])) / len(others)
    return ranks


def _best_strength(seeds: Vectors, background: Vectors, folds: NDArray[np.int64]) -> float:
    areas = [
        float(-held_out_ranks("classifier", seeds, background, folds, strength).mean())
        for strength in _STRENGTHS
    ]
    return _STRENGTHS[int(np.argmax(areas))]


def _grouped(seeds: Vectors) -> Sequence[Rows]:
    """Positions of the seeds of each k-means group; one group where there are too few for more."""
    most = min(_MOST_CENTROIDS, len(seeds) // _SEEDS_PER_CENTROID)
    if most < 2 or not np.any(np.ptp(seeds, axis=0) > 1e-7):
        return [np.arange(len(seeds))]
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    unit = seeds / np.maximum(np.linalg.norm(seeds, axis=1, keepdims=True), 1e-12)
    best_quality, best_member = -2.0, np.zeros(len(seeds), np.int64)
    for groups in range(2, most + 1):
        member = KMeans(groups, n_init=2, random_state=0).fit_predict(unit)
        if len(np.unique(member)) < 2:
            continue
        quality = float(silhouette_score(unit, member, sample_size=min(1_000, len(unit)), random_state=0))
        if quality > best_quality:
            best_quality, best_member = quality, member
    return [np.flatnonzero(best_member == group) for group in np.unique(best_member)]


def _classifier(seeds: Vectors, background: Vectors, strength: float) -> DirectionScorer:
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate([seeds, background]).astype(np.float64)
    mean, spread = background.mean(axis=0), background.std(axis=0) + 1e-6
    labels = np.arange(len(rows)) < len(seeds)
    model = LogisticRegression(
        C=strength, solver="newton-cholesky", max_iter=100, class_weight="balanced"
    ).fit((rows - mean) / spread, labels)
    query = model.coef_[0] / spread
    offset = float(model.intercept_[0] - query @ mean)
    return DirectionScorer(query[None].astype(np.float32), offset, is_probability=True)
