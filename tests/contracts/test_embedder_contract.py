"""What a backfill relies on of every embedder."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qanchor.embedding.shard import Embedder
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.runtime import Runtime
from tests.unit.embedding.world import HashEmbedder
from tests.unit.model.worlds import HOUR, START, WORKSPACE, make_world, random_arrays

QUERIES = ("Will this user come back?", "Will this user pay late?")


@cache
def _model() -> tuple[Embedder, list[Any]]:
    world = make_world()
    runtime = Runtime(torch.device("cpu"), torch.float32)
    loaded = LoadedModel(world.model, world.tokenizer, world.normaliser, world.config, {}, "hash", runtime)
    return UserEmbedder(loaded, batch_tokens=300), [Query(question) for question in QUERIES]


def _hashes() -> tuple[Embedder, list[Any]]:
    return HashEmbedder(WORKSPACE), list(QUERIES)


Make = Callable[[], tuple[Embedder, list[Any]]]
every_embedder = pytest.mark.parametrize("make", [_model, _hashes], ids=["model", "hashes"])


def _embed(make: Make, rows: list[int], hours: list[int]) -> NDArray[np.float32]:
    embedder, anchors = make()
    cutoffs = START + np.array(hours, np.int64) * HOUR
    return embedder.embed(random_arrays(), np.array(rows, np.int64), cutoffs, anchors)


@every_embedder
def test_vectors_are_finite_units_by_question_and_request(make: Make) -> None:
    vectors = _embed(make, [0, 1, 2, -1], [500, 700, 900, 900])
    assert vectors.dtype == np.float32
    assert vectors.shape[:2] == (2, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=2), 1, atol=1e-5)


@every_embedder
def test_a_vector_does_not_depend_on_the_rest_of_the_batch(make: Make) -> None:
    rows, hours = [0, 1, 2, 3, -1, 0], [900, 300, 900, 700, 900, 400]
    together = _embed(make, rows, hours)
    alone = [_embed(make, [row], [hour])[:, 0] for row, hour in zip(rows, hours, strict=True)]
    np.testing.assert_allclose(together, np.stack(alone, axis=1), atol=1e-5)


@every_embedder
def test_questions_and_cutoffs_tell_vectors_apart(make: Make) -> None:
    vectors = _embed(make, [0, 0], [300, 900])
    assert not np.allclose(vectors[0, 0], vectors[1, 0], atol=1e-4)
    assert not np.allclose(vectors[0, 0], vectors[0, 1], atol=1e-4)


@every_embedder
def test_no_requests_give_no_vectors(make: Make) -> None:
    assert _embed(make, [], []).shape[:2] == (2, 0)
