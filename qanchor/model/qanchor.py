"""Q-Anchor: a user's history once as a prefix, any number of queries after it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from qanchor.model.backbone import Backbone
from qanchor.model.batch import EventBatch
from qanchor.model.config import ModelConfig
from qanchor.model.hierarchy import HierarchicalEncoder
from qanchor.model.prefix_cache import PrefixCache
from qanchor.model.suffixes import SuffixBlock


@dataclass(frozen=True)
class Suffix:
    """The tokens that follow the prefix.

    Args:
        query_ids: int64 [tokens], the same for all users, or [users, tokens] with padding on the right;
            ends in `<|user_emb|>`.
        prompt: [prompt tokens, d_model], a scenario's soft prompt, or None.
    """

    query_ids: Tensor
    prompt: Tensor | None = None


class QAnchor(nn.Module):
    """The dual tower.

    Args:
        config: sizes and switches.
        encoder: from histories to prefix tokens.
        backbone: decoder of both towers.
        pad_id: padding id of the tokenizer.

    Source: arXiv 2602.14492, section 3.2.
    """

    def __init__(
        self, config: ModelConfig, encoder: HierarchicalEncoder, backbone: Backbone, pad_id: int
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.backbone = backbone
        self.pad_id = pad_id
        self.projection = nn.Sequential(
            nn.Linear(config.backbone.width, config.projection_width),
            nn.ReLU(),
            nn.Linear(config.projection_width, config.embedding_width),
        )

    def checkpoint_layers(self, on: bool) -> None:
        """Whether training computes layers twice instead of keeping their activations.

        Raises:
            WorkspaceInvalid: the decoder's family is not supported; choose another.
        """
        self.backbone.checkpoint_layers(on)
        inner = getattr(self.encoder.text_encoder, "encoder", None)
        if inner is not None and on:
            inner.activation_checkpointing_enable({"use_reentrant": False})
        elif inner is not None:
            inner.activation_checkpointing_disable()

    def encode_prefix(self, batch: EventBatch, text_vectors: Tensor | None = None) -> PrefixCache:
        """Keys and values of the users' prefixes: the expensive part, once per user.

        Args:
            batch: the histories.
            text_vectors: vectors of all texts, as for HierarchicalEncoder.forward.
        """
        return self.backbone.prefix(self.encoder(batch, text_vectors), batch.lengths)

    def read_out(self, prefix: PrefixCache, suffix: Suffix) -> Tensor:
        """Unit vectors of the users for one query, float32 [users, dim].

        The prefix is not changed; gradients reach suffix.prompt.
        """
        vectors, valid = self._suffix(suffix, prefix.users)
        return self.project(self.backbone.read(vectors, valid, prefix))

    def suffix_block(self, suffixes: Sequence[Suffix]) -> SuffixBlock:
        """Suffixes that are the same for all users, made ready for `read_out_block` once.

        Args:
            suffixes: at least one, with query_ids [tokens].
        """
        parts = []
        for suffix in suffixes:
            vectors, valid = self._suffix(suffix, 1)
            parts.append(vectors[0, valid[0]])
        return SuffixBlock.of(parts)

    def read_out_block(self, prefix: PrefixCache, block: SuffixBlock) -> Tensor:
        """Unit vectors of the users for several queries in one pass, float32 [suffixes, users, dim].

        The same as `read_out` for each of them; the prefix is not changed.
        """
        hidden = self.backbone.read_block(block, prefix).transpose(0, 1)
        return self.project(hidden)

    def read_out_uncached(self, batch: EventBatch, suffix: Suffix) -> Tensor:
        """The same as `read_out(encode_prefix(batch), suffix)` in one pass over the whole sequence.

        The cache is tested against it; float32 [users, dim].
        """
        vectors, valid = self._suffix(suffix, batch.users)
        prefix = self.encoder(batch)
        seen = torch.arange(batch.tokens, device=prefix.device) < batch.lengths[:, None]
        mask = torch.cat([seen, valid], dim=1)
        hidden = self.backbone.causal(torch.cat([prefix, vectors.to(prefix.dtype)], dim=1), mask)
        return self.project(_at(hidden, batch.tokens + _last(valid)))

    def encode_answers(self, answer_ids: Tensor) -> Tensor:
        """The semantic tower: unit vectors of answers, read at their last token.

        Args:
            answer_ids: int64 [batch, tokens], padded on the right with pad_id.

        Returns:
            float32 [batch, dim].
        """
        hidden = self.backbone.causal(self.backbone.embed(answer_ids))
        return self.project(_at(hidden, _last(answer_ids != self.pad_id)))

    def project(self, hidden: Tensor) -> Tensor:
        """The shared head: [..., d_model] -> float32 unit vectors [..., dim]."""
        with torch.autocast(hidden.device.type, enabled=False):
            dtype = next(self.projection.parameters()).dtype
            return normalize(self.projection(hidden.to(dtype)).float(), dim=-1)

    def _suffix(self, suffix: Suffix, users: int) -> tuple[Tensor, Tensor]:
        """Vectors [users, tokens, d_model] and which of them are not padding."""
        ids = suffix.query_ids
        ids = ids.expand(users, -1) if ids.dim() == 1 else ids
        vectors, valid = self.backbone.embed(ids), ids != self.pad_id
        if suffix.prompt is not None:
            prompt = suffix.prompt.to(vectors.dtype).expand(users, -1, -1)
            vectors = torch.cat([prompt, vectors], dim=1)
            valid = torch.cat([valid.new_ones(users, prompt.shape[1]), valid], dim=1)
        return vectors, valid


def _last(valid: Tensor) -> Tensor:
    """Index of each row's last valid token, int64 [batch]."""
    indices = torch.arange(valid.shape[1], device=valid.device)
    return (valid * indices).amax(dim=1)


def _at(hidden: Tensor, token: Tensor) -> Tensor:
    """One token of each row: [batch, tokens, dim] -> [batch, dim]."""
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), token]
