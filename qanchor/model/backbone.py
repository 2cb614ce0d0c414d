"""The decoder that both towers share: transformers' Qwen2, from scratch or stored."""

from typing import Any

import torch
from torch import Tensor, nn

from qanchor.model.prefix_cache import PrefixCache


class Backbone(nn.Module):
    """A causal language model, driven by vectors instead of token ids.

    Args:
        lm: a transformers causal LM; LoRA, if any, already in it.
        user_id: id of `<|user_emb|>`, whose vector is a parameter of its own here: a stored
            vocabulary has no row for it, and a frozen one could not learn it.
    """

    def __init__(self, lm: Any, user_id: int) -> None:
        super().__init__()
        self.lm = lm
        self.user_id = user_id
        self.user_embedding = nn.Parameter(torch.randn(lm.config.hidden_size) * 0.02)

    def embed(self, ids: Tensor) -> Tensor:
        """Vectors of token ids: int64 [batch, tokens] -> [batch, tokens, d_model]."""
        anchor = ids == self.user_id
        vectors = self.lm.get_input_embeddings()(ids.masked_fill(anchor, 0))
        return torch.where(anchor[..., None], self.user_embedding.to(vectors.dtype), vectors)

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token scores, [..., vocabulary]."""
        result: Tensor = self.lm.get_output_embeddings()(hidden)
        return result

    def prefix(self, vectors: Tensor, lengths: Tensor) -> PrefixCache:
        """Keys and values of prefixes that are padded on the right.

        Padding lies behind every token that is read, so causality alone keeps it out and no mask is needed.

        Args:
            vectors: [batch, tokens, d_model].
            lengths: int64 [batch].
        """
        cache = PrefixCache((), (), lengths).overlay()
        if self.lm.config.model_type == "qwen2":
            self._fill(vectors, cache)
        else:
            self.lm.model(inputs_embeds=vectors, past_key_values=cache, use_cache=True)
        return PrefixCache(
            tuple(layer.keys for layer in cache.layers),
            tuple(layer.values for layer in cache.layers),
            lengths,
        )

    def suffix(self, vectors: Tensor, valid: Tensor, prefix: PrefixCache) -> Tensor:
        """Hidden states of suffixes that follow cached prefixes.

        Args:
            vectors: [batch, tokens, d_model].
            valid: bool [batch, tokens]; padding may stand anywhere.
            prefix: of the same users; left as it is.

        Returns:
            [batch, tokens, d_model].
        """
        tokens = vectors.shape[1]
        earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=vectors.device).tril()
        own = valid[:, None, :] & earlier  # [batch, tokens, tokens]
        before = prefix.mask()[:, None, :].expand(-1, tokens, -1)
        positions = prefix.lengths[:, None] + (valid.cumsum(1) - 1).clamp(min=0)
        output = self.lm.model(
            inputs_embeds=vectors,
            attention_mask=torch.cat([before, own], dim=2)[:, None],
            position_ids=positions,
            past_key_values=prefix.overlay(),
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def causal(self, vectors: Tensor, valid: Tensor | None = None) -> Tensor:
        """Hidden states of whole sequences, [batch, tokens, d_model].

        Args:
            vectors: [batch, tokens, d_model].
            valid: bool [batch, tokens]; None: padding, if any, is on the right, where nothing reads it.
        """
        mask = None if valid is None else valid.to(torch.int64)
        positions = None if valid is None else (valid.cumsum(1) - 1).clamp(min=0)
        output = self.lm.model(
            inputs_embeds=vectors, attention_mask=mask, position_ids=positions, use_cache=False
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _fill(self, vectors: Tensor, cache: Any) -> None:
        """Fill the cache with all layers' keys and values and nothing more.

        Nothing reads the prefix's last hidden states, so the last layer stops at its keys and values: with
        the two layers of `tiny` that is nearly half of the prefix's cost.
        """
        from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

        decoder = self.lm.model
        positions = torch.arange(vectors.shape[1], device=vectors.device)[None]
        rotation = decoder.rotary_emb(vectors, positions)
        *layers, last = decoder.layers
        for layer in layers:
            vectors = layer(
                vectors,
                attention_mask=None,
                position_ids=positions,
                position_embeddings=rotation,
                past_key_values=cache,
                use_cache=True,
            )
        attention = last.self_attn
        normed = last.input_layernorm(vectors)
        shape = (*normed.shape[:2], -1, attention.head_dim)
        keys = attention.k_proj(normed).view(shape).transpose(1, 2)
        values = attention.v_proj(normed).view(shape).transpose(1, 2)
        _, keys = apply_rotary_pos_emb(keys[:, :0], keys, *rotation)
        cache.update(keys, values, attention.layer_idx)
