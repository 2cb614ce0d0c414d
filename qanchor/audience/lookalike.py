"""Lookalike search: the users most like a list of seeds, in the space of one scenario."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from qanchor.audience.candidates import CandidateRules, Candidates, find_candidates
from qanchor.audience.methods import Choice, MethodOrAuto, choose_method, fit_scorer
from qanchor.audience.population import Population
from qanchor.audience.scorers import Scorer, Scores, best_rows, mix, nearest_seeds, rows_above
from qanchor.audience.seeds import Seeds, find_seeds
from qanchor.errors import InputError, SeedsInvalid
from qanchor.names import USER_ID
from qanchor.storage.vectors import Rows, Vectors

BACKGROUND_USERS = 4_000
_DEFAULT_K = 100
_NAMED_SEEDS = 3


@dataclass(frozen=True)
class LookalikeRequest:
    """What is searched for.

    Args:
        seeds: user ids, duplicates and unknown ones included; may be empty where words are given.
        k: users wanted; None without a threshold: 100, or all where there are fewer.
        method: what ranks; see `qanchor.audience.methods.fit_scorer`. 'auto' compares them.
        threshold: every user of at least this score, in place of k or at most k of them.
        rules: who may be found.
        words_weight: of the words against the seeds where both are given, in (0, 1).
    """

    seeds: Sequence[str]
    k: int | None = None
    method: MethodOrAuto = "auto"
    threshold: float | None = None
    rules: CandidateRules = field(default_factory=CandidateRules)
    words_weight: float = 0.5


@dataclass(frozen=True)
class Lookalikes:
    """What was found.

    Args:
        table: rank (from 1), user_id, score, nearest_seeds (their ids, the nearest first), distance; best
            first. What `score` is depends on the method; `distance` is 1 - cosine to the nearest seed, null
            without seeds.
        rows: int64 [found], rows of the index, in the table's order.
        seeds: that were searched with, and those that were not; None without seeds.
        candidates: who could be found, and who could not.
        choice: the method; None without seeds.
        scorer: what ranked.
    """

    table: pa.Table
    rows: Rows
    seeds: Seeds | None
    candidates: Candidates
    choice: Choice | None
    scorer: Scorer


def find_lookalikes(
    population: Population, request: LookalikeRequest, words: Scorer | None = None
) -> Lookalikes:
    """The users most like the seeds, or most like words, or both.

    Args:
        population: the users, and what is known of them.
        request: what is searched for.
        words: ranks by an audience described in words; None without.

    Raises:
        SeedsInvalid: no seed can be searched with, they are all the same, or nobody is left to find.
        FilterInvalid: the filter does not hold, or nobody passes it.
        InputError: k is larger than the population, or the weight lies outside (0, 1).
    """
    seeds = find_seeds(population, request.seeds) if request.seeds or words is None else None
    candidates = find_candidates(
        population, request.rules, np.empty(0, np.int64) if seeds is None else seeds.rows
    )
    k = _wanted(request, candidates.population)
    choice, scorer = learn_scorer(population, request, seeds, candidates, words)
    index = population.index
    if request.threshold is None:
        scores, rows = best_rows(index, scorer, k, candidates.allowed)
    else:
        scores, rows = rows_above(index, scorer, request.threshold, candidates.allowed)
        scores, rows = scores[:k], rows[:k]
    table = _ranked(population, scores, rows, seeds)
    return Lookalikes(table, rows, seeds, candidates, choice, scorer)


def learn_scorer(
    population: Population,
    request: LookalikeRequest,
    seeds: Seeds | None,
    candidates: Candidates,
    words: Scorer | None = None,
) -> tuple[Choice | None, Scorer]:
    """What ranks users for a request, and the method that was chosen.

    Args:
        population: the users.
        request: what is searched for.
        seeds: to learn from; None without.
        candidates: who may be found; some of them stand for everybody else.
        words: ranks by an audience described in words; None without.

    Raises:
        SeedsInvalid: a classifier is asked for with fewer than 10 seeds, or there is nothing to rank by.
        InputError: the weight lies outside (0, 1).
    """
    background = population.index.vectors(candidates.sample(BACKGROUND_USERS))
    if seeds is None:
        if words is None:
            raise SeedsInvalid("there are neither seeds nor words", "Give --seeds or --text.")
        return None, words
    asked = _wanted(request, candidates.population) / candidates.population
    share = 0.05 if request.threshold is not None else asked
    choice = choose_method(request.method, seeds.vectors, background, share)
    learned = fit_scorer(choice.method, seeds.vectors, background, choice.strength)
    if words is None:
        return choice, learned
    if not 0 < request.words_weight < 1:
        raise InputError(
            f"the words' weight {request.words_weight:g} lies outside (0, 1)", "Give a share such as 0.5."
        )
    weights = [request.words_weight, 1 - request.words_weight]
    return choice, mix([words, learned], weights, background)


def _wanted(request: LookalikeRequest, population: int) -> int:
    if request.k is None:
        return population if request.threshold is not None else min(_DEFAULT_K, population)
    if request.k > population:
        raise InputError(
            f"{request.k:,} users are asked for and only {population:,} can be found",
            f"Ask for at most {population:,}, or leave fewer out.",
        )
    return request.k


def _ranked(population: Population, scores: Scores, rows: Rows, seeds: Seeds | None) -> pa.Table:
    columns = {
        "rank": np.arange(1, len(rows) + 1),
        USER_ID: population.index.user_ids(rows),
        "score": scores,
    }
    if seeds is None:
        return pa.table(
            {
                **columns,
                "nearest_seeds": pa.nulls(len(rows), pa.list_(pa.string())),
                "distance": pa.nulls(len(rows), pa.float32()),
            }
        )
    cosines, places = nearest_seeds(population.index, seeds.vectors, rows, _NAMED_SEEDS)
    named = pa.ListArray.from_arrays(
        np.arange(len(rows) + 1, dtype=np.int32) * places.shape[1],
        seeds.users.take(pa.array(places.reshape(-1))),
    )
    return pa.table({**columns, "nearest_seeds": named, "distance": _distance(cosines)})


def _distance(cosines: Vectors) -> Scores:
    distance: Scores = np.clip(1.0 - cosines[:, 0], 0.0, 2.0)
    return distance
