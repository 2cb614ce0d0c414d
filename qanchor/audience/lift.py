"""How good a list will be, before money is spent: held-out seeds are looked for among everybody else."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qanchor.audience.candidates import Candidates, find_candidates
from qanchor.audience.lookalike import BACKGROUND_USERS, LookalikeRequest, learn_scorer
from qanchor.audience.methods import fold_of
from qanchor.audience.population import Population
from qanchor.audience.scorers import Scorer, nearest_seeds, score_rows
from qanchor.audience.seeds import Seeds, find_seeds
from qanchor.errors import SeedsInvalid
from qanchor.metrics import normal_quantile
from qanchor.storage.vectors import Rows

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
_FEWEST_SEEDS = 5
_OWN_RANGE = 0.95


@dataclass(frozen=True)
class LiftPoint:
    """What a list of the best users is worth.

    Args:
        share: of the users taken, in (0, 1].
        users: as many.
        found: held-out seeds among them.
        recall: found, as a share of all held-out seeds.
        recall_low: lower end of its 95% interval (Wilson).
        recall_high: upper end.
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
        """Its 95% interval."""
        return self.recall_low / self.share, self.recall_high / self.share


@dataclass(frozen=True)
class Overlap:
    """How far a list stays among the seeds' own kind.

    Args:
        distance: 95% of the seeds have another seed within this distance (1 - cosine).
        audience: share of the list within that distance of a seed.
        base: share of all who may be found.
    """

    distance: float
    audience: float
    base: float


@dataclass(frozen=True)
class Quality:
    """What held-out seeds say of a search.

    Args:
        ranks: float64 [seeds], share of the users who score better than each seed when it was held out.
        population: users who may be found.
        outside: seeds that the filter would not let through; they are not looked for.
        methods: how often each method was chosen, one choice for each fold.
        points: at 1, 2, 5, 10, 20% and at the share that is asked for.
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
    """Hold out every fifth of the seeds in turn, learn from the others, and see where they come.

    The method is chosen anew from the seeds that are not held out. Users who would belong to the audience
    and are no seeds count against it: the lift is a lower bound of what the seeds' kind would give.

    Args:
        population: the users.
        request: of the list that is to be judged.
        words: ranks by an audience described in words; None without.

    Raises:
        SeedsInvalid: fewer than 5 seeds can be looked for.
        FilterInvalid: the filter does not hold, or nobody passes it.
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
    found = ranks[judged]
    shares = sorted({*SHARES, *_asked_share(request, candidates)})
    points = tuple(_point(found, share, candidates.population) for share in shares)
    return Quality(found, candidates.population, int((~judged).sum()), methods, points)


def measure_overlap(population: Population, seeds: Seeds, audience: Rows, candidates: Candidates) -> Overlap:
    """How much of a list lies where the seeds themselves lie, beside everybody who may be found.

    Args:
        population: the users.
        seeds: the list's; two or more.
        audience: int64 [found], the list's rows.
        candidates: who may be found.
    """
    own = nearest_seeds(population.index, seeds.vectors, seeds.rows, 2)[0][:, -1]
    distance = float(np.quantile(1 - own, _OWN_RANGE))
    inside = [
        float((1 - nearest_seeds(population.index, seeds.vectors, rows, 1)[0][:, 0] <= distance).mean())
        for rows in (audience, candidates.sample(BACKGROUND_USERS))
    ]
    return Overlap(distance, inside[0], inside[1])


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a share.

    Args:
        successes: of the trials.
        trials: at least 1.
        confidence: two-sided, in (0, 1).

    Source: E. B. Wilson, JASA 22 (1927), 209-212.
    """
    z = normal_quantile(confidence)
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5
    # Rounding must not put the ends on the wrong side of a share of 0 or 1.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def _inside(population: Population, request: LookalikeRequest, seeds: Seeds) -> NDArray[np.bool_]:
    """Which seeds could be found if they were no seeds."""
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


def _asked_share(request: LookalikeRequest, candidates: Candidates) -> list[float]:
    if request.k is None:
        return []
    return [min(1.0, request.k / candidates.population)]


def _point(ranks: NDArray[np.float64], share: float, population: int) -> LiftPoint:
    found = int((ranks < share).sum())
    low, high = wilson_interval(found, len(ranks))
    return LiftPoint(share, round(share * population), found, found / len(ranks), low, high)
