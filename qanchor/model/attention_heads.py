"""What a decoder's attention projects to, head by head; Qwen3 norms queries and keys, others do not."""

from typing import Any

from torch import Tensor


def by_head(attention: Any, states: Tensor) -> Tensor:
    """[..., heads * head dim] -> [..., heads, head dim]."""
    return states.view(*states.shape[:-1], -1, attention.head_dim)


def query_heads(attention: Any, normed: Tensor) -> Tensor:
    """Queries before they are rotated, [..., heads, head dim].

    Args:
        attention: a transformers decoder's attention.
        normed: what the layer's norm gives, [..., d_model].
    """
    states = by_head(attention, attention.q_proj(normed))
    result: Tensor = attention.q_norm(states) if hasattr(attention, "q_norm") else states
    return result


def key_heads(attention: Any, normed: Tensor) -> Tensor:
    """Keys before they are rotated, as `query_heads`."""
    states = by_head(attention, attention.k_proj(normed))
    result: Tensor = attention.k_norm(states) if hasattr(attention, "k_norm") else states
    return result
