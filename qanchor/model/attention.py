"""The attention of a query's last token over a user's prefix and over its suffix.

Where the decoder's layers are driven one by one, all suffixes are read in one pass, which shows its weights.
Any other decoder runs with eager attention meanwhile, which returns them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qanchor.errors import CheckpointInvalid
from qanchor.events.history import EventArrays, Int64, slice_histories
from qanchor.model.backbone import Backbone
from qanchor.model.batch import EventBatch, collate
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.config import ModelConfig
from qanchor.model.embedder import Query, query_suffix
from qanchor.model.prefix_cache import PrefixCache
from qanchor.model.qanchor import QAnchor, Suffix

USER, PROMPT, QUERY = "user token", "soft prompt", "query"
_BATCH = 32


@dataclass(frozen=True)
class QueryAttention:
    """How `<|user_emb|>` after one query divides its attention.

    Args:
        groups: the user token, every modality (events, modality token, bounds), the soft prompt, and the
            query with `<|user_emb|>`.
        mass: float64 [layers, users, groups], mean over heads; sums to 1 over the groups.
    """

    groups: tuple[str, ...]
    mass: NDArray[np.float64]


def query_attention(
    loaded: LoadedModel, arrays: EventArrays, rows: Int64, cutoffs: Int64, queries: Sequence[Query]
) -> list[QueryAttention]:
    """The attention of several queries over the same users' histories; each prefix is encoded once.

    Args:
        loaded: the model.
        arrays: the events.
        rows: int64 [requests], rows of arrays.users; -1 is a user without events.
        cutoffs: int64 [requests], microseconds UTC.
        queries: texts and soft prompts.

    Raises:
        CheckpointInvalid: a prompt is of another width, or the decoder does not return its attention.
    """
    config = loaded.config
    groups = (USER, *config.modalities, PROMPT, QUERY)
    suffixes = [query_suffix(loaded, query) for query in queries]
    slices = slice_histories(arrays, rows, cutoffs, config.workspace())
    texts = loaded.tokenizer.tokenise_events(arrays.texts, config.text_encoder.max_tokens)
    masses: list[list[NDArray[np.float64]]] = [[] for _ in queries]
    with torch.inference_mode(), loaded.runtime.autocast():
        for start in range(0, len(rows), _BATCH):
            some = np.arange(start, min(start + _BATCH, len(rows)))
            batch = collate(arrays, slices.take(some), texts, loaded.normaliser, config)
            batch = batch.to(loaded.runtime.device)
            prefix = loaded.model.encode_prefix(batch)
            prefix_groups = token_groups(batch, config)
            by_suffix = _mean_weights(loaded.model, prefix, suffixes)
            for parts, suffix, weights in zip(masses, suffixes, by_suffix, strict=True):
                parts.append(_grouped(weights, prefix_groups, suffix, len(groups)))
    return [QueryAttention(groups, np.concatenate(parts, axis=1)) for parts in masses]


def _mean_weights(model: QAnchor, prefix: PrefixCache, suffixes: Sequence[Suffix]) -> Iterator[Tensor]:
    """Each suffix's `attention_weights`, mean over heads: [layers, users, prefix + suffix tokens]."""
    block = model.suffix_block(suffixes)
    weights = model.backbone.block_attention(block, prefix)
    for number, suffix in enumerate(suffixes):
        if weights is None:
            yield attention_weights(model, prefix, suffix).mean(dim=2)
        else:
            yield weights[:, :, number, : prefix.tokens + int(block.lengths[number])]


def attention_weights(model: QAnchor, prefix: PrefixCache, suffix: Suffix) -> Tensor:
    """The attention of the suffix's last token, float32 [layers, users, heads, prefix + suffix tokens].

    Heads that share a key are separate; padding has weight 0; each row sums to 1.

    Args:
        model: in evaluation mode.
        prefix: prefixes of the users; not changed.
        suffix: its query_ids are [tokens], the same for all users.

    Raises:
        CheckpointInvalid: the decoder has no eager attention that returns its weights.
    """
    backbone, users = model.backbone, prefix.users
    vectors = backbone.embed(suffix.query_ids)
    if suffix.prompt is not None:
        vectors = torch.cat([suffix.prompt.to(vectors.dtype), vectors])
    tokens = len(vectors)
    earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=vectors.device).tril()
    sees = torch.cat([prefix.mask()[:, None].expand(-1, tokens, -1), earlier.expand(users, -1, -1)], dim=2)
    # Eager attention adds its mask to the scores: a boolean one would count as 0 and 1.
    mask = torch.zeros(sees.shape, dtype=vectors.dtype, device=vectors.device)
    mask = mask.masked_fill(~sees, torch.finfo(vectors.dtype).min)
    with _eager(backbone):
        output = backbone.lm.model(
            inputs_embeds=vectors.expand(users, -1, -1),
            attention_mask=mask[:, None],
            position_ids=prefix.lengths[:, None] + torch.arange(tokens, device=vectors.device),
            past_key_values=prefix.overlay(),
            use_cache=True,
            output_attentions=True,
        )
    if not output.attentions:
        raise CheckpointInvalid(
            f"a decoder of type {backbone.lm.config.model_type!r} does not return its attention",
            "Run the report with --no-explain.",
        )
    return torch.stack([layer[:, :, -1].float() for layer in output.attentions])


def token_groups(batch: EventBatch, config: ModelConfig) -> Tensor:
    """The group of each prefix token, int64 [users, tokens]: 0 the user, 1 + m modality m, -1 padding.

    Args:
        batch: the histories.
        config: names the modalities and the tokens before the events.
    """
    users, modalities = batch.counts.shape
    each = torch.arange(1, modalities + 1, device=batch.counts.device).repeat(users)
    groups = [torch.zeros(users, dtype=torch.int64, device=each.device)] if config.use_user_token else []
    groups += [each] * int(config.use_modality_tokens)
    # Aggregates are over all of a user's modalities.
    groups += [torch.zeros(users * config.tabular_tokens, dtype=torch.int64, device=each.device)]
    groups += [each] * 2
    flat = torch.cat([*groups, batch.segment % modalities + 1])
    padded = flat.new_full((users * batch.tokens,), -1).index_copy(0, batch.slot, flat)
    return padded.view(users, batch.tokens)


def _grouped(weights: Tensor, prefix_groups: Tensor, suffix: Suffix, groups: int) -> NDArray[np.float64]:
    """Summed by group: [layers, users, groups]."""
    prompt = 0 if suffix.prompt is None else len(suffix.prompt)
    suffix_groups = prefix_groups.new_tensor([groups - 2] * prompt + [groups - 1] * len(suffix.query_ids))
    index = torch.cat([prefix_groups, suffix_groups.expand(len(prefix_groups), -1)], dim=1)
    mass = weights.double()  # [layers, users, tokens]
    # Padding goes to one more group, which is empty.
    index = torch.where(index < 0, groups, index).expand(len(mass), -1, -1)
    sums = mass.new_zeros(*mass.shape[:2], groups + 1).scatter_add(2, index, mass)
    return np.asarray(sums[..., :groups].cpu().numpy(), dtype=np.float64)


@contextmanager
def _eager(backbone: Backbone) -> Iterator[None]:
    """Eager attention inside the block; afterwards the earlier kind."""
    lm: Any = backbone.lm
    before = lm.config._attn_implementation
    lm.set_attn_implementation("eager")
    try:
        yield
    finally:
        lm.set_attn_implementation(before)
