"""How good a list will be, before money is spent on it: held-out seeds are ranked among everybody else."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qanchor.audience.candidates import Candidates, find_candidates
from qanchor.audience.lookalike import BACKGROUND_USERS, LookalikeRequest, learn_scorer
from qanchor.audience.methods import fold_of
from qanchor.audience.population import Population, Seeds, find_seeds
from qanchor.audience.scorers import Scorer, nearest_seeds, score_rows
from qanchor.errors import SeedsInvalid
from qanchor.metrics import normal_quantile
from qanchor.storage.vectors import Rows

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
_FEWEST_SEEDS = 5
_SEED_QUANTILE = 0.95


@dataclass(frozen=True)
class LiftPoint:
    """The held-out seeds in a list of the best users.

    Args:
        share: share of the users on the list, in (0, 1].
        users: number of users on the list.
        found: number of held-out seeds on the list.
        recall: share of all held-out seeds that are on the list.
        recall_low: lower end of the recall's 95% interval (Wilson).
        recall_high: upper end of the recall's 95% interval.
    """

    share: float
    users: int
    found: int
    recall: float
    recall_low: float
    recall_high: float

    @property
    def lift(self) -> float:
        """How many times more held-out seeds than a random list of the same length holds."""
        return self.recall / self.share

    @property
    def lift_interval(self) -> tuple[float, float]:
        """95% interval of the lift."""
        return self.recall_low / self.share, self.recall_high / self.share


@dataclass(frozen=True)
class Overlap:
    """How many users of a list are as close to a seed as seeds are to each other.

    Args:
        distance: distance (1 - cosine) within which 95% of the seeds have another seed.
        audience: share of the list within that distance of a seed.
        base: share of all candidates within that distance of a seed.
    """

    distance: float
    audience: float
    base: float


@dataclass(frozen=True)
class Quality:
    """The quality of a search, measured with held-out seeds.

    Args:
        ranks: float64 [seeds], share of the users who score better than each seed when it is held out.
        population: number of candidates.
        outside: number of seeds that fail the filter; they are not measured.
        methods: number of folds that chose each method.
        points: points at 1, 2, 5, 10, 20% and at the requested share.
    """

    ranks: NDArray[np.float64]
    population: int
    outside: int
    methods: Mapping[str, int]
    points: tuple[LiftPoint, ...]

    def curve(self, shares: Sequence[float]) -> list[LiftPoint]:
        """Points at any shares."""
        return [_point(self.ranks, share, self.population) for share in shares]


def measure_quality(
    population: Population, request: LookalikeRequest, words: Scorer | None = None
) -> Quality:
    """Hold out a fifth of the seeds at a time, learn from the others, and rank the held-out ones.

    Each fold chooses its method from the seeds that are not held out. Users who belong to the audience and
    are no seeds count against the search: the lift is a lower bound.

    Args:
        population: users of the index.
        request: search to judge.
        words: scorer of an audience described in words; None without one.

    Raises:
        SeedsInvalid: fewer than 5 seeds pass the filter.
        FilterInvalid: the filter is invalid, or nobody passes it.
    """
    seeds = find_seeds(population, request.seeds)
    candidates = find_candidates(population, request.rules, seeds.rows)
    judged = _inside(population, request, seeds)
    if judged.sum() < _FEWEST_SEEDS:
        raise SeedsInvalid(
            f"only {int(judged.sum())} of the seeds can be held out and looked for",
            f"Give {_FEWEST_SEEDS} or more that pass the filter.",
        )
    folds = fold_of(len(seeds.rows))
    ranks, methods = np.empty(len(folds)), Counter[str]()
    for fold in np.unique(folds):
        held = np.flatnonzero(folds == fold)
        kept = seeds.take(np.flatnonzero(folds != fold))
        choice, scorer = learn_scorer(population, request, kept, candidates, words)
        methods[choice.method if choice else "words"] += 1
        ranks[held] = _ranks(population, scorer, candidates, seeds.take(held))
    ranks, shares = ranks[judged], set(SHARES)
    if request.k is not None:
        shares.add(min(1.0, request.k / candidates.population))
    points = tuple(_point(ranks, share, candidates.population) for share in sorted(shares))
    return Quality(ranks, candidates.population, int((~judged).sum()), methods, points)


def measure_overlap(population: Population, seeds: Seeds, audience: Rows, candidates: Candidates) -> Overlap:
    """The share of a list, and of all candidates, that is as close to a seed as seeds are to each other.

    Args:
        population: users of the index.
        seeds: seeds of the list; two or more.
        audience: int64 [users], rows of the list.
        candidates: users that could be on the list.
    """
    # The nearest seed of a seed is itself.
    second = nearest_seeds(population.index, seeds.vectors, seeds.rows, 2)[0][:, -1]
    distance = float(np.quantile(1 - second, _SEED_QUANTILE))
    inside = [
        float((1 - nearest_seeds(population.index, seeds.vectors, rows, 1)[0][:, 0] <= distance).mean())
        for rows in (audience, candidates.sample(BACKGROUND_USERS))
    ]
    return Overlap(distance, inside[0], inside[1])


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95% confidence interval of a share.

    Args:
        successes: number of successful trials.
        trials: number of trials, at least 1.

    Source: E. B. Wilson, JASA 22 (1927), 209-212.
    """
    z = normal_quantile(0.95)
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5
    # Rounding must not put the ends on the wrong side of a share of 0 or 1.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def _inside(population: Population, request: LookalikeRequest, seeds: Seeds) -> NDArray[np.bool_]:
    """Which seeds would be candidates if they were no seeds."""
    rules = replace(request.rules, include_seeds=True)
    everybody = find_candidates(population, rules, np.empty(0, np.int64))
    return np.asarray(everybody.allowed[seeds.rows])


def _ranks(
    population: Population, scorer: Scorer, candidates: Candidates, held: Seeds
) -> NDArray[np.float64]:
    """Share of others that come before each held-out seed; users who score the same count half."""
    others = np.sort(score_rows(population.index, scorer, np.flatnonzero(candidates.allowed)))
    scores = scorer.score(held.vectors)
    above = len(others) - np.searchsorted(others, scores, side="right")
    level = np.searchsorted(others, scores, side="right") - np.searchsorted(others, scores, side="left")
    return np.asarray((above + level / 2) / len(others))


def _point(ranks: NDArray[np.float64], share: float, population: int) -> LiftPoint:
    found = int((ranks < share).sum())
    low, high = wilson_interval(found, len(ranks))
    return LiftPoint(share, round(share * population), found, found / len(ranks), low, high)
