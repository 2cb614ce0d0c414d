"""Embedding: a user's vector depends on no other user or query, and on no later event."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.errors import CheckpointInvalid
from qanchor.events.history import EventArrays, arrays_from_table
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.runtime import Runtime
from qanchor.model.soft_prompt import SoftPrompt
from tests.unit.model.worlds import HOUR, QUERIES, START, WORKSPACE, event_table, make_world, random_arrays

WORLD = make_world(1)
LOADED = LoadedModel(
    WORLD.model,
    WORLD.tokenizer,
    WORLD.normaliser,
    WORLD.config,
    {},
    "hash",
    Runtime(torch.device("cpu"), torch.float32),
)
SCENARIO_QUERIES = [Query(QUERIES[0]), Query(QUERIES[1], SoftPrompt(torch.randn(6, 16), torch.zeros(2, 8)))]
ARRAYS = random_arrays(0)


def hours(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return START + np.array(values, dtype=np.int64) * HOUR


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 1000)), min_size=1, max_size=12),
    st.sampled_from([1, 40, 10_000]),
)
def test_vectors_do_not_depend_on_the_batch(requests: list[tuple[int, int]], batch_tokens: int) -> None:
    rows = np.array([row for row, _ in requests])
    cutoffs = hours(*[hour for _, hour in requests])
    together = UserEmbedder(LOADED, batch_tokens).embed(ARRAYS, rows, cutoffs, SCENARIO_QUERIES)
    assert together.shape == (2, len(rows), 8)
    assert together.dtype == np.float32
    single = UserEmbedder(LOADED)
    for request in range(len(rows)):
        alone = single.embed(ARRAYS, rows[[request]], cutoffs[[request]], SCENARIO_QUERIES)
        np.testing.assert_allclose(alone[:, 0], together[:, request], atol=1e-5)


def test_the_order_of_questions_changes_nothing() -> None:
    rows = np.arange(5)
    forward = UserEmbedder(LOADED).embed(ARRAYS, rows, hours(*[900] * 5), SCENARIO_QUERIES)
    backward = UserEmbedder(LOADED).embed(ARRAYS, rows, hours(*[900] * 5), SCENARIO_QUERIES[::-1])
    np.testing.assert_allclose(forward, backward[::-1], atol=1e-5)


def test_a_planted_future_changes_nothing() -> None:
    cutoff = 600
    table = event_table(4, events=80)
    late = event_table(5, events=80)
    times = pa.array(hours(*range(cutoff, cutoff + 80)), pa.int64()).cast(pa.timestamp("us", "UTC"))
    late = late.set_column(2, "event_time", times)
    late = late.set_column(0, "event_id", pa.array([f"late{i}" for i in range(80)]))
    clean, leaky = (arrays_from_table(each, WORKSPACE) for each in (table, pa.concat_tables([table, late])))
    embedder = UserEmbedder(LOADED)

    def vectors(arrays: EventArrays) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        rows = arrays.user_rows([f"u{i}" for i in range(5)])
        return embedder.embed(arrays, rows, hours(*[cutoff] * 5), SCENARIO_QUERIES)

    np.testing.assert_allclose(vectors(leaky), vectors(clean), atol=1e-5)


def test_no_requests_and_no_questions_give_empty_arrays() -> None:
    embedder = UserEmbedder(LOADED)
    assert embedder.embed(ARRAYS, np.empty(0, np.int64), hours(), SCENARIO_QUERIES).shape == (2, 0, 8)
    assert embedder.embed(ARRAYS, np.arange(2), hours(900, 900), []).shape == (0, 2, 8)


def test_events_of_other_modalities_are_refused() -> None:
    other = EventArrays(ARRAYS.users, ARRAYS.texts, ARRAYS.modalities[:1])
    with pytest.raises(CheckpointInvalid, match="reads the modalities pay, visit, profile"):
        UserEmbedder(LOADED).embed(other, np.arange(1), hours(900), SCENARIO_QUERIES)


def test_a_prompt_of_another_width_is_refused() -> None:
    wide = Query(QUERIES[0], SoftPrompt(torch.zeros(6, 99), torch.zeros(2, 8)))
    with pytest.raises(CheckpointInvalid, match="width 99, and the model 16"):
        UserEmbedder(LOADED).embed(ARRAYS, np.arange(1), hours(900), [wide])


def test_another_table_is_tokenised_anew(tmp_path: Path) -> None:
    embedder = UserEmbedder(LOADED)
    other = random_arrays(7)
    first = embedder.embed(other, np.arange(2), hours(900, 900), SCENARIO_QUERIES)
    embedder.embed(ARRAYS, np.arange(2), hours(900, 900), SCENARIO_QUERIES)
    np.testing.assert_allclose(
        embedder.embed(other, np.arange(2), hours(900, 900), SCENARIO_QUERIES), first, atol=1e-5
    )


def test_cores_that_share_the_batches_change_nothing_and_leave_torch_as_it_was() -> None:
    threads = torch.get_num_threads()
    rows, cutoffs = np.arange(5).repeat(8), hours(*range(200, 1000, 20))
    expected = UserEmbedder(LOADED, 60).embed(ARRAYS, rows, cutoffs, SCENARIO_QUERIES)
    try:
        torch.set_num_threads(3)
        found = UserEmbedder(LOADED, 60).embed(ARRAYS, rows, cutoffs, SCENARIO_QUERIES)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_goes_wrong_in_a_batch_is_raised_and_the_threads_come_back() -> None:
    threads = torch.get_num_threads()
    broken = EventArrays(ARRAYS.users, ARRAYS.texts[:1], ARRAYS.modalities)
    try:
        torch.set_num_threads(2)
        with pytest.raises(IndexError):
            UserEmbedder(LOADED, 60).embed(broken, np.arange(5), hours(*[900] * 5), SCENARIO_QUERIES)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
