"""The model: a cached prefix changes nothing, nor does padding, company or order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qanchor.model.backbone import Backbone
from qanchor.model.build import build_model
from qanchor.model.config import preset_config
from qanchor.model.prefix_cache import CachedRows, PrefixCache
from qanchor.model.qanchor import Suffix
from tests.unit.model.worlds import QUERIES, WORKSPACE, World, make_world, random_arrays, slices_at

WORLDS = {
    "both": make_world(1),
    "no user": make_world(2, use_user_token=False),
    "no modality": make_world(3, use_modality_tokens=False),
    "neither": make_world(4, use_user_token=False, use_modality_tokens=False),
}
WORLD = WORLDS["both"]
TOLERANCE = 1e-5
REQUESTS = st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 1000)), min_size=1, max_size=6)


def query_ids(world: World, number: int) -> Tensor:
    return world.tokenizer.encode_queries([QUERIES[number]])[0]


def soft_prompt(world: World, tokens: int) -> Tensor | None:
    if tokens == 0:
        return None
    generator = torch.Generator().manual_seed(tokens)
    return torch.randn(tokens, world.config.backbone.width, generator=generator)


def prefix_of(world: World, requests: list[tuple[int, int]], seed: int = 0) -> PrefixCache:
    arrays = random_arrays(seed)
    slices = slices_at(arrays, [r for r, _ in requests], [h for _, h in requests])
    return world.model.encode_prefix(world.batch(arrays, slices))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(WORLDS)),
    REQUESTS,
    st.permutations(range(3)),
    st.lists(st.sampled_from([0, 1, 6]), min_size=3, max_size=3),
    st.integers(0, 3),
)
@torch.no_grad()
def test_cached_equals_full_for_any_batch_and_order_of_scenarios(
    kind: str, requests: list[tuple[int, int]], order: list[int], prompts: list[int], seed: int
) -> None:
    world, arrays = WORLDS[kind], random_arrays(seed)
    batch = world.batch(arrays, slices_at(arrays, [r for r, _ in requests], [h for _, h in requests]))
    prefix = world.model.encode_prefix(batch)
    for number in order:
        suffix = Suffix(query_ids(world, number), soft_prompt(world, prompts[number]))
        cached = world.model.read_out(prefix, suffix)
        full = world.model.read_out_uncached(batch, suffix)
        assert (cached - full).abs().max() <= TOLERANCE


@settings(max_examples=30, deadline=None)
@given(REQUESTS, st.integers(0, 5), st.integers(0, 2))
@torch.no_grad()
def test_company_in_the_batch_changes_nothing(
    requests: list[tuple[int, int]], which: int, number: int
) -> None:
    one = requests[which % len(requests)]
    suffix = Suffix(query_ids(WORLD, number))
    together = WORLD.model.read_out(prefix_of(WORLD, requests), suffix)[which % len(requests)]
    alone = WORLD.model.read_out(prefix_of(WORLD, [one]), suffix)[0]
    assert (together - alone).abs().max() <= TOLERANCE


@torch.no_grad()
def test_questions_of_different_length_read_as_if_alone() -> None:
    ids = WORLD.tokenizer.encode_queries(list(QUERIES))
    together = WORLD.model.read_out(prefix_of(WORLD, [(0, 900), (0, 900), (0, 900)]), Suffix(ids))
    for number in range(3):
        alone = WORLD.model.read_out(prefix_of(WORLD, [(0, 900)]), Suffix(query_ids(WORLD, number)))
        assert (together[number] - alone[0]).abs().max() <= TOLERANCE


@torch.no_grad()
def test_reading_out_leaves_the_prefix_as_it_was() -> None:
    prefix = prefix_of(WORLD, [(0, 900), (1, 500)])
    before = [layer.clone() for layer in (*prefix.keys, *prefix.values)]
    WORLD.model.read_out(prefix, Suffix(query_ids(WORLD, 0), soft_prompt(WORLD, 6)))
    for old, new in zip(before, (*prefix.keys, *prefix.values), strict=True):
        assert torch.equal(old, new)


@torch.no_grad()
def test_taking_and_joining_prefixes_changes_nothing() -> None:
    requests = [(0, 900), (1, 30), (-1, 900), (3, 700)]
    whole = prefix_of(WORLD, requests)
    some, first = whole.take(torch.tensor([3, 1])), whole.take(slice(0, 1))
    parts = PrefixCache.gather(
        [
            CachedRows(some, torch.tensor([0, 1]), torch.tensor([2, 0])),
            CachedRows(first, torch.tensor([0]), torch.tensor([1])),
        ],
        users=3,
    )
    suffix = Suffix(query_ids(WORLD, 1))
    expected = WORLD.model.read_out(whole, suffix)[[1, 0, 3]]
    assert (WORLD.model.read_out(parts, suffix) - expected).abs().max() <= TOLERANCE


@torch.no_grad()
def test_a_stored_prefix_in_another_format_comes_back() -> None:
    prefix = prefix_of(WORLD, [(0, 900)])
    half = prefix.to(dtype=torch.bfloat16).to(dtype=torch.float32)
    suffix = Suffix(query_ids(WORLD, 1))
    assert (WORLD.model.read_out(half, suffix) - WORLD.model.read_out(prefix, suffix)).abs().max() < 0.05


@torch.no_grad()
def test_vectors_have_length_one_and_users_without_events_too() -> None:
    vectors = WORLD.model.read_out(
        prefix_of(WORLD, [(-1, 10), (0, 0), (0, 900)]), Suffix(query_ids(WORLD, 0))
    )
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(vectors[0], vectors[1])
    assert (vectors[2] - vectors[0]).abs().max() > 1e-4


@torch.no_grad()
def test_the_question_anchors_the_vector() -> None:
    prefix = prefix_of(WORLD, [(0, 900)])
    first, second = (WORLD.model.read_out(prefix, Suffix(query_ids(WORLD, n))) for n in (0, 1))
    assert (first - second).abs().max() > 1e-4


@torch.no_grad()
def test_how_many_events_there_were_is_seen() -> None:
    arrays = random_arrays(0)
    slices = slices_at(arrays, [0], [900])
    suffix = Suffix(query_ids(WORLD, 0))
    vectors = []
    for divisor in (1, 2):
        slices.window_events[:] //= divisor
        vectors.append(WORLD.model.read_out(WORLD.model.encode_prefix(WORLD.batch(arrays, slices)), suffix))
    assert (vectors[0] - vectors[1]).abs().max() > 1e-5


def test_a_soft_prompt_learns_while_all_else_is_frozen() -> None:
    world = make_world(7)
    world.model.requires_grad_(False)
    with torch.no_grad():
        prefix = prefix_of(world, [(0, 900), (1, 900)])
    prompt = torch.nn.Parameter(torch.zeros(6, world.config.backbone.width))
    world.model.read_out(prefix, Suffix(query_ids(world, 0), prompt))[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert prompt.grad is not None
    assert bool((prompt.grad.abs().sum(1) > 0).all())
    assert all(parameter.grad is None for parameter in world.model.parameters())


@torch.no_grad()
def test_an_answer_reads_the_same_with_and_without_padding() -> None:
    answers = WORLD.tokenizer.encode_answers(["tea", "the user leaves soon", "buys tickets"])
    together = WORLD.model.encode_answers(answers)
    for row in range(3):
        alone = WORLD.model.encode_answers(answers[row][answers[row] != WORLD.tokenizer.pad_id][None])
        assert (together[row] - alone[0]).abs().max() <= TOLERANCE


def test_a_seed_gives_the_same_model_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, second = make_world(3).model, make_world(3).model
    assert torch.equal(before, torch.get_rng_state())
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_fresh_models_tell_users_apart() -> None:
    config = preset_config("tiny", WORKSPACE)
    model = build_model(config, WORLD.tokenizer).eval()
    arrays = random_arrays(0)
    batch = WORLD.batch(arrays, slices_at(arrays, [0, 1, 2, 3, 4], [900] * 5))
    vectors = model.read_out(model.encode_prefix(batch), Suffix(query_ids(WORLD, 0)))
    alike = (vectors @ vectors.T)[~torch.eye(5, dtype=torch.bool)].mean()
    assert alike < 0.95


@torch.no_grad()
def test_the_shortcut_of_the_last_layer_equals_the_whole_model(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = random_arrays(0)
    batch = WORLD.batch(arrays, slices_at(arrays, [0, 1, -1], [900, 500, 900]))
    suffix = Suffix(query_ids(WORLD, 2), soft_prompt(WORLD, 6))
    short = WORLD.model.read_out(WORLD.model.encode_prefix(batch), suffix)
    monkeypatch.setattr(Backbone, "_is_driven", False)
    prefix = WORLD.model.encode_prefix(batch)
    long = WORLD.model.read_out(prefix, suffix)
    assert (short - long).abs().max() <= TOLERANCE


@torch.no_grad()
def test_known_text_vectors_stand_for_the_texts() -> None:
    arrays = random_arrays(0)
    batch = WORLD.batch(arrays, slices_at(arrays, [0, 1], [900, 900]))
    texts = WORLD.tokenizer.tokenise_events(arrays.texts)
    mask = torch.from_numpy(np.arange(texts.ids.shape[1]) < texts.lengths[:, None])
    vectors = WORLD.model.encoder.encode_texts(torch.from_numpy(texts.ids), mask)
    suffix = Suffix(query_ids(WORLD, 0))
    given_ = WORLD.model.read_out(WORLD.model.encode_prefix(batch, vectors), suffix)
    fresh = WORLD.model.read_out(WORLD.model.encode_prefix(batch), suffix)
    assert (given_ - fresh).abs().max() <= TOLERANCE
