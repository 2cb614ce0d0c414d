"""Several scenarios' suffixes over the same cached prefixes, in one pass.

Each suffix attends to its user's prefix and its earlier tokens alone: attention is block-diagonal between
suffixes. Positions continue from the prefix in each of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qanchor.model.prefix_cache import PrefixCache

if TYPE_CHECKING:
    from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2DecoderLayer, Qwen2Model

# Called with a layer's number, a piece of the users, and the attention weights of their query tokens:
# [users, key heads, suffixes, heads of a key head, tokens, prefix + suffix tokens].
Watch = Callable[[int, slice, Tensor], None]

# Scores of one piece of a batch: on a CPU they should stay in a core's cache.
_CPU_SCORES, _GPU_SCORES = 2**18, 2**27


@dataclass(frozen=True)
class SuffixBlock:
    """Suffixes side by side.

    Args:
        vectors: [suffixes, tokens, d_model], padded on the right.
        lengths: int64 [suffixes], at least 1; the last token of each is read.
    """

    vectors: Tensor
    lengths: Tensor

    @staticmethod
    def of(parts: Sequence[Tensor]) -> "SuffixBlock":
        """A block of suffixes, [tokens, d_model] each."""
        lengths = torch.tensor([len(part) for part in parts], device=parts[0].device)
        return SuffixBlock(torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True), lengths)


@dataclass(frozen=True)
class _Queries:
    """Queries of suffix tokens, and the tokens of their suffix that each attends to.

    Args:
        states: [users, key heads, suffixes, heads of a key head, tokens, head dim], scaled and rotated.
        sees: bool [suffixes or 1, tokens, suffix tokens].
    """

    states: Tensor
    sees: Tensor


def read_block(
    decoder: "Qwen2Model", block: SuffixBlock, prefix: PrefixCache, watch: Watch | None = None
) -> Tensor:
    """The hidden state of every suffix's last token after every prefix.

    What a suffix computes before it has looked at a prefix is the same for all users, and is computed once.

    Args:
        decoder: a transformers decoder of a driven family (see Backbone), with full attention in all layers.
        block: the suffixes.
        prefix: prefixes of the users; not changed.
        watch: is called with all attention weights; in the last layer only those of the tokens that are read.

    Returns:
        [users, suffixes, d_model].
    """
    suffixes, tokens, _ = block.vectors.shape
    device = block.vectors.device
    steps = torch.arange(tokens, device=device)
    cos, sin = decoder.rotary_emb(block.vectors, prefix.lengths[:, None] + steps)  # [users, tokens, head dim]
    last = block.lengths - 1
    causal = (steps[:, None] >= steps)[None]
    vectors = block.vectors[None]  # [1 or users, suffixes, tokens, d_model]
    for number, layer in enumerate(decoder.layers[:-1]):
        keys, values, normed = _keys_and_values(layer, vectors, (cos, sin))
        queries = _Queries(_queries(layer.self_attn, normed, (cos, sin)), causal)
        mixed = _attend(queries, (keys, values), prefix, number, watch)
        vectors = _after_attention(layer, vectors, mixed)
    layer = decoder.layers[-1]
    keys, values, normed = _keys_and_values(layer, vectors, (cos, sin))
    # In the last layer only the tokens that are read need queries.
    rows = torch.arange(suffixes, device=device)
    at, turn = normed[:, rows, last][:, :, None], (cos[:, last], sin[:, last])
    queries = _Queries(_queries(layer.self_attn, at, turn, each=True), (steps <= last[:, None])[:, None])
    mixed = _attend(queries, (keys, values), prefix, len(decoder.layers) - 1, watch)
    hidden = _after_attention(layer, vectors[:, rows, last][:, :, None], mixed)
    result: Tensor = decoder.norm(hidden)[:, :, 0]
    return result


def by_head(attention: "Qwen2Attention", states: Tensor) -> Tensor:
    """[..., heads * head dim] -> [..., heads, head dim]."""
    return states.view(*states.shape[:-1], -1, attention.head_dim)


def query_heads(attention: "Qwen2Attention", normed: Tensor) -> Tensor:
    """Queries before they are rotated, [..., heads, head dim]; Qwen3 norms queries and keys, others do not.

    Args:
        attention: a transformers decoder's attention.
        normed: what the layer's norm gives, [..., d_model].
    """
    states = by_head(attention, attention.q_proj(normed))
    result: Tensor = attention.q_norm(states) if hasattr(attention, "q_norm") else states
    return result


def key_heads(attention: "Qwen2Attention", normed: Tensor) -> Tensor:
    """Keys before they are rotated, as `query_heads`."""
    states = by_head(attention, attention.k_proj(normed))
    result: Tensor = attention.k_norm(states) if hasattr(attention, "k_norm") else states
    return result


def _keys_and_values(
    layer: "Qwen2DecoderLayer", vectors: Tensor, turn: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values, [users or 1, key heads, suffixes, tokens, head dim], and the normed vectors."""
    attention, normed = layer.self_attn, layer.input_layernorm(vectors)
    keys = key_heads(attention, normed).permute(0, 3, 1, 2, 4)
    values = by_head(attention, attention.v_proj(normed)).permute(0, 3, 1, 2, 4)
    return _rotated(keys, turn[0][:, None, None], turn[1][:, None, None]), values, normed


def _queries(
    attention: "Qwen2Attention", normed: Tensor, turn: tuple[Tensor, Tensor], each: bool = False
) -> Tensor:
    """Queries as _Queries.states; `each`: the turn is [users, suffixes, head dim], of one token each."""
    states, groups = query_heads(attention, normed), attention.num_key_value_groups
    states = states.view(*states.shape[:3], -1, groups, attention.head_dim)
    states = states.permute(0, 3, 1, 4, 2, 5) * attention.scaling
    cos, sin = (part[:, None, :, None, None] if each else part[:, None, None, None] for part in turn)
    return _rotated(states, cos, sin)


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding; both halves of a head have the same angles."""
    half = states.shape[-1] // 2
    left, right = states[..., :half], states[..., half:]
    cos, sin = cos[..., :half], sin[..., :half]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def _after_attention(layer: "Qwen2DecoderLayer", vectors: Tensor, mixed: Tensor) -> Tensor:
    vectors = vectors + layer.self_attn.o_proj(mixed)
    result: Tensor = vectors + layer.mlp(layer.post_attention_layernorm(vectors))
    return result


def _attend(
    queries: _Queries, suffix: tuple[Tensor, Tensor], prefix: PrefixCache, layer: int, watch: Watch | None
) -> Tensor:
    """Attention over prefixes and each suffix, [users, suffixes, tokens, heads * head dim].

    Args:
        queries: of the suffixes.
        suffix: keys and values of the suffixes.
        prefix: of the users.
        layer: number of the layer.
        watch: as in `read_block`.
    """
    keys, values = suffix
    users, key_heads, suffixes, groups, tokens, width = queries.states.shape
    length = int(prefix.lengths.max())
    scores = key_heads * suffixes * groups * tokens * (length + keys.shape[3])
    budget = _CPU_SCORES if keys.device.type == "cpu" else _GPU_SCORES
    size = max(1, budget // scores)
    shared = values.shape[0] == 1
    result = values.new_empty(users, suffixes, tokens, key_heads * groups * width)
    for start in range(0, users, size):
        some = slice(start, start + size)
        mixed, weights = _mixed(
            _Queries(queries.states[some], queries.sees),
            keys[some],
            values if shared else values[some],
            (prefix.keys[layer][some, :, :length], prefix.values[layer][some, :, :length]),
            prefix.lengths[some],
        )
        result[some] = mixed.permute(0, 2, 4, 1, 3, 5).flatten(3)
        if watch is not None:
            watch(layer, some, weights.view(*mixed.shape[:-1], -1))
    return result


def _mixed(
    queries: _Queries, keys: Tensor, values: Tensor, before: tuple[Tensor, Tensor], lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """One piece of `_attend`: [users, key heads, suffixes, groups, tokens, head dim]; and the weights."""
    states, length = queries.states, before[0].shape[2]
    users, key_heads, suffixes, groups, tokens, _ = states.shape
    rows = states.flatten(2, 4)  # [users, key heads, rows, head dim]
    far = rows @ before[0].transpose(2, 3)
    near = states.flatten(3, 4) @ keys.transpose(3, 4)  # [users, key heads, suffixes, groups * tokens, keys]
    near = near.view(users, key_heads, suffixes, groups, tokens, -1)
    near = near.masked_fill(~queries.sees[None, None, :, None], -math.inf)
    scores = far.new_empty(*rows.shape[:3], length + keys.shape[3])
    scores[..., :length], scores[..., length:] = far, near.flatten(2, 4)
    shortest = int(lengths.min())
    if shortest < length:
        padding = torch.arange(shortest, length, device=lengths.device) >= lengths[:, None]
        scores[..., shortest:length].masked_fill_(padding[:, None, None], -math.inf)
    weights = torch.softmax(scores, dim=-1).to(values.dtype)
    mixed = (weights[..., :length] @ before[1]).view(states.shape)
    from_suffix = weights[..., length:].reshape(users, key_heads, suffixes, groups * tokens, -1) @ values
    return mixed + from_suffix.view(states.shape), weights
