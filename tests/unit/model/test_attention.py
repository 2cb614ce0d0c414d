"""Where the anchor looks: the weights are those that the embedding was read with."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import softmax

from qanchor.errors import CheckpointInvalid
from qanchor.model.attention import PROMPT, QUERY, USER, attention_weights, query_attention, token_groups
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.config import BackboneConfig
from qanchor.model.embedder import Query
from qanchor.model.qanchor import Suffix
from qanchor.model.runtime import choose_runtime
from qanchor.model.soft_prompt import SoftPrompt
from tests.unit.model.test_qanchor import prefix_of, query_ids, soft_prompt
from tests.unit.model.worlds import HOUR, QUERIES, START, World, make_world, random_arrays, slices_at

GROUPED = BackboneConfig(width=24, layers=3, heads=6, key_value_heads=2, feed_forward=32)
WORLD = make_world(2, backbone=GROUPED)
REQUESTS = [(0, 900), (1, 500), (-1, 900), (2, 30)]


def loaded(world: World) -> LoadedModel:
    runtime = choose_runtime("cpu", "float32")
    return LoadedModel(world.model, world.tokenizer, world.normaliser, world.config, {}, "0" * 64, runtime)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [0, 6])
def test_every_layer_and_head_gives_one_whole_attention_and_none_to_padding(tokens: int) -> None:
    prefix = prefix_of(WORLD, REQUESTS)
    suffix = Suffix(query_ids(WORLD, 0), soft_prompt(WORLD, tokens))
    weights = attention_weights(WORLD.model, prefix, suffix)
    own = tokens + len(suffix.query_ids)
    assert weights.shape == (3, 4, 6, prefix.tokens + own)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 4, 6), atol=1e-6)
    assert (
        weights[..., : prefix.tokens].movedim(1, 0)[~prefix.mask()[:, None, None].expand(-1, 3, 6, -1)] == 0
    ).all()


@torch.no_grad()
def test_the_weights_of_the_first_layer_are_those_of_the_formula() -> None:
    """Query of the anchor against every key of its head's group, written out."""
    prefix = prefix_of(WORLD, REQUESTS)
    suffix = Suffix(query_ids(WORLD, 1), soft_prompt(WORLD, 6))
    weights = attention_weights(WORLD.model, prefix, suffix)[0]
    decoder, user = WORLD.model.backbone.lm.model, 1
    layer, length = decoder.layers[0], int(prefix.lengths[user])
    assert suffix.prompt is not None
    vectors = torch.cat([suffix.prompt, WORLD.model.backbone.embed(suffix.query_ids)])[None]
    cos, sin = decoder.rotary_emb(vectors, length + torch.arange(vectors.shape[1])[None])

    def turned(states: torch.Tensor) -> torch.Tensor:
        half = states.shape[-1] // 2
        return torch.as_tensor(states * cos + torch.cat([-states[..., half:], states[..., :half]], -1) * sin)

    normed, width = layer.input_layernorm(vectors), layer.self_attn.head_dim
    queries = turned(layer.self_attn.q_proj(normed).view(1, -1, 6, width).transpose(1, 2))[0, :, -1]
    keys = turned(layer.self_attn.k_proj(normed).view(1, -1, 2, width).transpose(1, 2))[0]
    for head in range(6):
        group = head // 3
        every = torch.cat([prefix.keys[0][user, group, :length], keys[group]])
        expected = softmax(every @ queries[head] / width**0.5, dim=0)
        seen = torch.cat([weights[user, head, :length], weights[user, head, prefix.tokens :]])
        assert torch.allclose(seen, expected, atol=1e-6)


@torch.no_grad()
def test_eager_attention_is_left_again_and_changes_no_vector() -> None:
    prefix = prefix_of(WORLD, REQUESTS)
    suffix = Suffix(query_ids(WORLD, 0), soft_prompt(WORLD, 6))
    before = WORLD.model.read_out(prefix, suffix)
    attention_weights(WORLD.model, prefix, suffix)
    assert WORLD.model.backbone.lm.config._attn_implementation == "sdpa"
    assert torch.equal(WORLD.model.read_out(prefix, suffix), before)


@torch.no_grad()
def test_a_decoder_that_keeps_its_attention_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    prefix, suffix = prefix_of(WORLD, REQUESTS), Suffix(query_ids(WORLD, 0))
    silent = SimpleNamespace(attentions=None)
    monkeypatch.setattr(WORLD.model.backbone.lm.model, "forward", lambda *_, **__: silent)
    with pytest.raises(CheckpointInvalid, match="qwen2"):
        attention_weights(WORLD.model, prefix, suffix)
    assert WORLD.model.backbone.lm.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("tokens", [(True, True), (False, True), (True, False), (False, False)])
def test_every_prefix_token_belongs_to_its_modality(tokens: tuple[bool, bool]) -> None:
    world = make_world(1, use_user_token=tokens[0], use_modality_tokens=tokens[1])
    arrays = random_arrays(0)
    batch = world.batch(arrays, slices_at(arrays, [r for r, _ in REQUESTS], [h for _, h in REQUESTS]))
    owners = token_groups(batch, world.config)
    heads = 2 + int(tokens[1])
    for user in range(len(REQUESTS)):
        counts = torch.bincount(owners[user][owners[user] >= 0], minlength=4)
        own = int(tokens[0]) + world.config.tabular_tokens
        assert counts.tolist() == [own, *(batch.counts[user] + heads).tolist()]
        assert (owners[user] >= 0).sum() == batch.lengths[user]


def test_the_masses_are_whole_and_move_with_the_prompt_alone() -> None:
    arrays, model = random_arrays(0), loaded(WORLD)
    rows = np.array([0, 1, 2, -1] * 12)  # more than one batch
    cutoffs = np.full(len(rows), START + 900 * HOUR)
    vectors = soft_prompt(WORLD, 6)
    assert vectors is not None
    prompt = SoftPrompt(vectors, torch.zeros(2, 8))
    base, same, tuned = query_attention(
        model,
        arrays,
        rows,
        cutoffs,
        [Query(QUERIES[0]), Query(QUERIES[0]), Query(QUERIES[0], prompt)],
    )
    assert base.groups == (USER, "pay", "visit", "profile", PROMPT, QUERY)
    for one in (base, tuned):
        assert one.mass.shape == (3, len(rows), 6)
        np.testing.assert_allclose(one.mass.sum(axis=2), 1, atol=1e-6)
    np.testing.assert_array_equal(base.mass, same.mass)
    assert (base.mass[..., 4] == 0).all()
    assert (tuned.mass[..., 4] > 0).all()
    assert np.abs(tuned.mass - base.mass).max() > 1e-3
    # The other users of the batch change nothing.
    (alone,) = query_attention(model, arrays, rows[:1], cutoffs[:1], [Query(QUERIES[0])])
    np.testing.assert_allclose(alone.mass[:, 0], base.mass[:, 0], atol=1e-6)


@torch.no_grad()
def test_all_anchors_in_one_pass_look_as_each_does_by_eager_attention() -> None:
    prefix = prefix_of(WORLD, REQUESTS)
    suffixes = [
        Suffix(query_ids(WORLD, 0)),
        Suffix(query_ids(WORLD, 1), soft_prompt(WORLD, 6)),
        Suffix(query_ids(WORLD, 0)[-1:]),
    ]
    block = WORLD.model.suffix_block(suffixes)
    together = WORLD.model.backbone.block_attention(block, prefix)
    assert together is not None
    for number, suffix in enumerate(suffixes):
        alone = attention_weights(WORLD.model, prefix, suffix).mean(dim=2)
        seen = together[:, :, number, : alone.shape[2]]
        assert torch.allclose(seen, alone, atol=1e-6)
        assert (together[:, :, number, alone.shape[2] :] == 0).all()


def test_a_decoder_of_another_family_gives_the_same_masses(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, model = random_arrays(0), loaded(WORLD)
    rows, cutoffs = np.array([0, 1, -1]), np.full(3, START + 900 * HOUR)
    anchors = [Query(QUERIES[0]), Query(QUERIES[1])]
    driven = query_attention(model, arrays, rows, cutoffs, anchors)
    monkeypatch.setattr(type(WORLD.model.backbone), "block_attention", lambda *_: None)
    for one, other in zip(driven, query_attention(model, arrays, rows, cutoffs, anchors), strict=True):
        np.testing.assert_allclose(one.mass, other.mass, atol=1e-6)
