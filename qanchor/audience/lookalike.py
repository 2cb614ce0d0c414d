"""Lookalike search: the users most like a list of seeds, in the space of one scenario."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from qanchor.audience.candidates import CandidateRules, Candidates, find_candidates
from qanchor.audience.methods import Choice, MethodOrAuto, choose_method, fit_scorer
from qanchor.audience.population import Population, Seeds, find_seeds
from qanchor.audience.scorers import Scorer, Scores, best_rows, mix, nearest_seeds, rows_above
from qanchor.errors import InputError, SeedsInvalid
from qanchor.names import USER_ID
from qanchor.storage.vectors import Rows

BACKGROUND_USERS = 4_000
_DEFAULT_K = 100
_NAMED_SEEDS = 3


@dataclass(frozen=True)
class LookalikeRequest:
    """A search for users.

    Args:
        seeds: ids of seed users, repetitions and unknown ones included; may be empty where there are words.
        k: number of users to return; None without a threshold: 100, or all where there are fewer.
        method: ranking method; see `qanchor.audience.methods.fit_scorer`. 'auto' compares them.
        threshold: least score of a returned user; without k every such user is returned.
        rules: rules of who is left out.
        words_weight: weight of the words against the seeds where there are both, in (0, 1).
    """

    seeds: Sequence[str]
    k: int | None = None
    method: MethodOrAuto = "auto"
    threshold: float | None = None
    rules: CandidateRules = field(default_factory=CandidateRules)
    words_weight: float = 0.5


@dataclass(frozen=True)
class Lookalikes:
    """The result of a search.

    Args:
        table: rank (from 1), user_id, score, nearest_seeds (their ids, the nearest first), distance; best
            first. The meaning of `score` depends on the method; `distance` is 1 - cosine to the nearest seed,
            null without seeds.
        rows: int64 [users], rows of the index, in the table's order.
        seeds: seeds in use, and those that were not usable; None without seeds.
        candidates: users that could be returned, and the number left out.
        choice: method and how it was chosen; None without seeds.
        scorer: scorer that ranked.
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
        population: users of the index, with their features.
        request: search to make.
        words: scorer of an audience described in words; None without one.

    Raises:
        SeedsInvalid: no seed is usable, they are all the same, or there is no candidate.
        FilterInvalid: the filter is invalid, or nobody passes it.
        InputError: k is larger than the number of candidates, or the weight is outside (0, 1).
    """
    seeds = find_seeds(population, request.seeds) if request.seeds or words is None else None
    candidates = find_candidates(
        population, request.rules, np.empty(0, np.int64) if seeds is None else seeds.rows
    )
    k = _list_length(request, candidates.population)
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
    """The scorer of a search, and the method that was chosen.

    Args:
        population: users of the index.
        request: search to make.
        seeds: seeds to learn from; None without seeds.
        candidates: users that may be returned; a sample of them represents everybody else.
        words: scorer of an audience described in words; None without one.

    Raises:
        SeedsInvalid: there are fewer than 10 seeds for a classifier, or nothing to rank by.
        InputError: the weight is outside (0, 1).
    """
    background = population.index.vectors(candidates.sample(BACKGROUND_USERS))
    if seeds is None:
        if words is None:
            raise SeedsInvalid("there are neither seeds nor words", "Give --seeds or --text.")
        return None, words
    share = 0.05
    if request.threshold is None:
        share = _list_length(request, candidates.population) / candidates.population
    choice = choose_method(request.method, seeds.vectors, background, share)
    learned = fit_scorer(choice.method, seeds.vectors, background, choice.strength)
    if words is None:
        return choice, learned
    if not 0 < request.words_weight < 1:
        raise InputError(
            f"the words' weight {request.words_weight:g} is outside (0, 1)", "Give a share such as 0.5."
        )
    weights = [request.words_weight, 1 - request.words_weight]
    return choice, mix([words, learned], weights, background)


def _list_length(request: LookalikeRequest, population: int) -> int:
    if request.k is None:
        return population if request.threshold is not None else min(_DEFAULT_K, population)
    if request.k > population:
        raise InputError(
            f"{request.k:,} users are requested and only {population:,} can be found",
            f"Request at most {population:,}, or leave fewer out.",
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
    cosines, positions = nearest_seeds(population.index, seeds.vectors, rows, _NAMED_SEEDS)
    named = pa.ListArray.from_arrays(
        np.arange(len(rows) + 1, dtype=np.int32) * positions.shape[1],
        seeds.users.take(pa.array(positions.reshape(-1))),
    )
    distance = np.clip(1.0 - cosines[:, 0], 0.0, 2.0)
    return pa.table({**columns, "nearest_seeds": named, "distance": distance})
