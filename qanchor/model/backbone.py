"""The decoder that both towers share: a Qwen2 from scratch, or a stored decoder of any family."""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from qanchor.errors import WorkspaceInvalid
from qanchor.model.prefix_cache import LayerCache, PrefixCache
from qanchor.model.suffixes import SuffixBlock, by_head, key_heads, query_heads, read_block

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import DynamicCache
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

# Decoders whose layers are alike: attention and gated network, each behind a norm, with rotary positions.
DRIVEN_FAMILIES = ("qwen2", "qwen3", "llama")


class Backbone(nn.Module):
    """A causal language model, driven by vectors instead of token ids.

    Args:
        lm: a transformers causal LM; LoRA, if any, already in it.
        user_id: id of `<|user_emb|>`, whose vector is a separate parameter: a stored vocabulary has no row
            for it, and a frozen one could not learn it.
    """

    def __init__(self, lm: "PreTrainedModel", user_id: int) -> None:
        super().__init__()
        self.lm = lm
        self.user_id = user_id
        self._checkpointing = False
        spread = lm.get_input_embeddings().weight.detach().std()
        self.user_embedding = nn.Parameter(torch.randn(lm.config.hidden_size) * spread)

    def embed(self, ids: Tensor) -> Tensor:
        """Vectors of token ids: int64 [batch, tokens] -> [batch, tokens, d_model]."""
        anchor = ids == self.user_id
        vectors = self.lm.get_input_embeddings()(ids.masked_fill(anchor, 0))
        return torch.where(anchor[..., None], self.user_embedding.to(vectors.dtype), vectors)

    def checkpoint_layers(self, on: bool) -> None:
        """Whether the backward pass computes layers again instead of keeping their activations.

        Raises:
            WorkspaceInvalid: the decoder is of a family whose layers are not driven one by one.
        """
        if on and not self._is_driven:
            raise WorkspaceInvalid(
                f"gradient checkpointing is not supported for decoders of type {self.lm.config.model_type!r}",
                f"Use a decoder of type {', '.join(DRIVEN_FAMILIES)}, or leave --gradient-checkpointing out "
                "and give a small --grad-cache.",
            )
        self._checkpointing = on

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token scores, [..., vocabulary]."""
        result: Tensor = self.lm.get_output_embeddings()(hidden)
        return result

    def prefix(self, vectors: Tensor, lengths: Tensor) -> PrefixCache:
        """Keys and values of prefixes that are padded on the right.

        Padding follows every token that is read, so causality alone keeps it out and no mask is needed.

        Args:
            vectors: [batch, tokens, d_model].
            lengths: int64 [batch].
        """
        cache = PrefixCache((), (), lengths).overlay()
        if self._is_driven:
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
            valid: bool [batch, tokens]; padding may be anywhere.
            prefix: prefixes of the same users; not changed.

        Returns:
            [batch, tokens, d_model].
        """
        if self._checkpointing:
            return self._suffix_again(vectors, valid, prefix)
        output = self.lm.model(
            inputs_embeds=vectors,
            attention_mask=_suffix_mask(valid, prefix),
            position_ids=_suffix_positions(valid, prefix),
            past_key_values=prefix.overlay(),
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def read(self, vectors: Tensor, valid: Tensor, prefix: PrefixCache) -> Tensor:
        """The hidden state of each suffix's last valid token, [batch, d_model].

        The same as `suffix` at that token; the last layer leaves the other tokens out.

        Args:
            vectors: [batch, tokens, d_model].
            valid: bool [batch, tokens].
            prefix: prefixes of the same users; not changed.
        """
        last_token = (valid * torch.arange(valid.shape[1], device=valid.device)).amax(dim=1)
        rows = torch.arange(len(last_token), device=last_token.device)
        if not self._is_driven:
            return self.suffix(vectors, valid, prefix)[rows, last_token]
        decoder, cache = self.lm.model, prefix.overlay()
        positions = _suffix_positions(valid, prefix)
        mask = _suffix_mask(valid, prefix)
        rotation = decoder.rotary_emb(vectors, positions)
        vectors = self._lower_layers(vectors, cache, rotation, mask)
        last = decoder.layers[-1]
        keys, values = self._last_keys(vectors, cache, rotation)
        at = vectors[rows, last_token][:, None]  # [batch, 1, d_model]
        turn = (rotation[0][rows, last_token][:, None], rotation[1][rows, last_token][:, None])
        queries = _rotated(query_heads(last.self_attn, last.input_layernorm(at)).transpose(1, 2), turn)
        # With one query the heads that share a key are put on the query axis: no key is copied.
        grouped = queries.view(len(rows), keys.shape[1], -1, queries.shape[-1])
        mixed = scaled_dot_product_attention(
            grouped, keys, values, attn_mask=mask[rows, :, last_token][:, :, None]
        )
        at = at + last.self_attn.o_proj(mixed.reshape(len(rows), 1, -1))
        at = at + last.mlp(last.post_attention_layernorm(at))
        hidden: Tensor = decoder.norm(at)[:, 0]
        return hidden

    def read_block(self, block: SuffixBlock, prefix: PrefixCache) -> Tensor:
        """The hidden state of every suffix's last token after every prefix, in one pass.

        The same as `read` for each suffix alone.

        Args:
            block: the suffixes, the same for all users.
            prefix: prefixes of the users; not changed.

        Returns:
            [users, suffixes, d_model].
        """
        if self._is_driven:
            return read_block(self.lm.model, block, prefix)
        tokens = torch.arange(block.vectors.shape[1], device=block.lengths.device)
        suffixes = zip(block.vectors, tokens < block.lengths[:, None], strict=True)
        shape = (prefix.users, -1, -1)
        return torch.stack(
            [self.read(v[None].expand(shape), valid.expand(shape[:2]), prefix) for v, valid in suffixes],
            dim=1,
        )

    def block_attention(self, block: SuffixBlock, prefix: PrefixCache) -> Tensor | None:
        """The attention of every suffix's last token, in one pass.

        Args:
            block: the suffixes, the same for all users.
            prefix: prefixes of the users; not changed.

        Returns:
            Mean over heads, float32 [layers, users, suffixes, prefix + suffix tokens]; padding has weight 0
            and each row sums to 1. None where layers cannot be driven one by one.
        """
        if not self._is_driven:
            return None
        (suffixes, tokens), length = block.vectors.shape[:2], int(prefix.lengths.max())
        rows, last = torch.arange(suffixes, device=block.lengths.device), block.lengths - 1
        shape = (len(self.lm.model.layers), prefix.users, suffixes, prefix.tokens + tokens)
        result = block.vectors.new_zeros(shape, dtype=torch.float32)

        def watch(layer: int, some: slice, weights: Tensor) -> None:
            at = last if weights.shape[4] > 1 else torch.zeros_like(last)
            seen = weights[:, :, rows, :, at].float().mean(dim=(2, 3)).transpose(0, 1)
            result[layer, some, :, :length] = seen[..., :length]
            result[layer, some, :, prefix.tokens :] = seen[..., length:]

        read_block(self.lm.model, block, prefix, watch)
        return result

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

    @property
    def _is_driven(self) -> bool:
        """Whether layers can be driven one by one, as `_fill` and `read` do."""
        config = self.lm.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        return config.model_type in DRIVEN_FAMILIES and kinds == {"full_attention"}

    def _fill(self, vectors: Tensor, cache: "DynamicCache") -> None:
        """Fill the cache with all layers' keys and values.

        The prefix's last hidden states are never read, so the last layer stops at its keys and values: with
        the two layers of `tiny` that is nearly half of the prefix's cost.
        """
        positions = torch.arange(vectors.shape[1], device=vectors.device)[None]
        rotation = self.lm.model.rotary_emb(vectors, positions)
        vectors = self._lower_layers(vectors, cache, rotation, None)
        self._last_keys(vectors, cache, rotation)

    def _lower_layers(
        self, vectors: Tensor, cache: "DynamicCache", rotation: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        for layer in self.lm.model.layers[:-1]:
            vectors = self._layer(layer, vectors, cache, rotation, mask)
        return vectors

    def _layer(
        self,
        layer: "Qwen2DecoderLayer",
        vectors: Tensor,
        cache: "DynamicCache",
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        """One layer; its keys and values join those in the cache."""

        def run(vectors: Tensor, cache: "DynamicCache | LayerCache") -> Tensor:
            result: Tensor = layer(
                vectors,
                attention_mask=mask,
                position_embeddings=rotation,
                past_key_values=cache,
                use_cache=True,
            )
            return result

        if not (self._checkpointing and torch.is_grad_enabled()):
            return run(vectors, cache)
        number = layer.self_attn.layer_idx
        before = LayerCache.of(cache, number)

        def again(vectors: Tensor, *before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            # A separate cache: the backward pass runs this once more, and must not join keys twice.
            layer_cache = LayerCache(before)
            return run(vectors, layer_cache), *layer_cache.joined()

        result, keys, values = checkpoint(again, vectors, *before, use_reentrant=False)
        LayerCache.put(cache, number, keys, values)
        return cast(Tensor, result)

    def _suffix_again(self, vectors: Tensor, valid: Tensor, prefix: PrefixCache) -> Tensor:
        """`suffix`, layer by layer."""
        decoder, cache = self.lm.model, prefix.overlay()
        rotation = decoder.rotary_emb(vectors, _suffix_positions(valid, prefix))
        mask = _suffix_mask(valid, prefix)
        for layer in decoder.layers:
            vectors = self._layer(layer, vectors, cache, rotation, mask)
        hidden: Tensor = decoder.norm(vectors)
        return hidden

    def _last_keys(
        self, vectors: Tensor, cache: "DynamicCache", rotation: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of the last layer, those before them in the cache included."""
        layer = self.lm.model.layers[-1]
        attention, normed = layer.self_attn, layer.input_layernorm(vectors)
        keys = _rotated(key_heads(attention, normed).transpose(1, 2), rotation)
        values = by_head(attention, attention.v_proj(normed)).transpose(1, 2)
        joined: tuple[Tensor, Tensor] = cache.update(keys, values, attention.layer_idx)
        return joined


def _rotated(states: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

    result: Tensor = apply_rotary_pos_emb(states[:, :0], states, *rotation)[1]
    return result


def _suffix_mask(valid: Tensor, prefix: PrefixCache) -> Tensor:
    """bool [batch, 1, tokens, prefix + tokens], True where a suffix token may look."""
    tokens = valid.shape[1]
    earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=valid.device).tril()
    in_suffix = valid[:, None, :] & earlier  # [batch, tokens, tokens]
    in_prefix = prefix.mask()[:, None, :].expand(-1, tokens, -1)
    return torch.cat([in_prefix, in_suffix], dim=2)[:, None]


def _suffix_positions(valid: Tensor, prefix: PrefixCache) -> Tensor:
    """int64 [batch, tokens]: they continue from the prefix, and padding takes none."""
    return prefix.lengths[:, None] + (valid.cumsum(1) - 1).clamp(min=0)
