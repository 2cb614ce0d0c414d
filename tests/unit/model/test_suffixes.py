"""Suffixes in one pass: each gives the same as alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.model import suffixes
from qanchor.model.backbone import Backbone
from qanchor.model.config import BackboneConfig
from qanchor.model.qanchor import Suffix
from tests.unit.model.test_qanchor import prefix_of, query_ids, soft_prompt
from tests.unit.model.worlds import make_world, random_arrays, slices_at

DEEP = BackboneConfig(width=24, layers=4, heads=6, key_value_heads=2, feed_forward=32)
SHALLOW = BackboneConfig(width=24, layers=1, heads=2, key_value_heads=2, feed_forward=32)
WORLDS = {
    "two layers": make_world(1),
    "four layers, grouped heads": make_world(2, backbone=DEEP),
    "one layer": make_world(3, backbone=SHALLOW),
    "no head tokens": make_world(4, use_user_token=False, use_modality_tokens=False),
}
REQUESTS = st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 1000)), min_size=1, max_size=6)
SCENARIOS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 6, 9])), min_size=1, max_size=6)
TOLERANCE = 1e-5


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WORLDS)), REQUESTS, SCENARIOS, st.sampled_from([1, 2_000, 2**27]))
@torch.no_grad()
def test_one_pass_equals_one_at_a_time(
    kind: str, requests: list[tuple[int, int]], scenarios: list[tuple[int, int]], scores: int
) -> None:
    world = WORLDS[kind]
    prefix = prefix_of(world, requests)
    every = [Suffix(query_ids(world, number), soft_prompt(world, tokens)) for number, tokens in scenarios]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suffixes, "_CPU_SCORES", scores)  # how many users share a piece
        together = world.model.read_out_block(prefix, world.model.suffix_block(every))
    assert together.shape == (len(every), len(requests), 8)
    for vectors, suffix in zip(together, every, strict=True):
        assert (vectors - world.model.read_out(prefix, suffix)).abs().max() <= TOLERANCE


@settings(max_examples=20, deadline=None)
@given(REQUESTS, SCENARIOS)
@torch.no_grad()
def test_one_pass_equals_full_recomputation(
    requests: list[tuple[int, int]], scenarios: list[tuple[int, int]]
) -> None:
    world, arrays = WORLDS["four layers, grouped heads"], random_arrays(0)
    batch = world.batch(arrays, slices_at(arrays, [r for r, _ in requests], [h for _, h in requests]))
    every = [Suffix(query_ids(world, number), soft_prompt(world, tokens)) for number, tokens in scenarios]
    block = world.model.suffix_block(every)
    together = world.model.read_out_block(world.model.encode_prefix(batch), block)
    for vectors, suffix in zip(together, every, strict=True):
        assert (vectors - world.model.read_out_uncached(batch, suffix)).abs().max() <= TOLERANCE


@torch.no_grad()
def test_the_prefix_stays_as_it_was() -> None:
    world = WORLDS["two layers"]
    prefix = prefix_of(world, [(0, 900), (1, 500)])
    before = [layer.clone() for layer in (*prefix.keys, *prefix.values)]
    world.model.read_out_block(prefix, world.model.suffix_block([Suffix(query_ids(world, 0))]))
    for old, new in zip(before, (*prefix.keys, *prefix.values), strict=True):
        assert torch.equal(old, new)


@torch.no_grad()
def test_an_architecture_without_the_one_pass_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    world = WORLDS["two layers"]
    prefix = prefix_of(world, [(0, 900), (-1, 900), (1, 500)])
    every = [Suffix(query_ids(world, 0)), Suffix(query_ids(world, 1), soft_prompt(world, 6))]
    block = world.model.suffix_block(every)
    short = world.model.read_out_block(prefix, block)
    monkeypatch.setattr(Backbone, "_is_driven", False)
    assert (world.model.read_out_block(prefix, block) - short).abs().max() <= TOLERANCE


def test_gradients_reach_the_prompts() -> None:
    world = make_world(5)
    with torch.no_grad():
        prefix = prefix_of(world, [(0, 900), (1, 900)])
    prompt = torch.nn.Parameter(torch.zeros(6, world.config.backbone.width))
    block = world.model.suffix_block([Suffix(query_ids(world, 0), prompt), Suffix(query_ids(world, 1))])
    world.model.read_out_block(prefix, block)[0, :, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert prompt.grad is not None
    assert bool((prompt.grad.abs().sum(1) > 0).all())
