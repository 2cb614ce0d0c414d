"""The straightforward way to embed users, the baseline of the project's way.

Like the public code of arXiv 2602.14492: for every scenario the whole sequence and all event texts are
encoded again, every modality is padded to its maximum of events, every text and query to a fixed length.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qanchor.events.history import EventArrays, HistorySlices, Int64, slice_histories
from qanchor.model.batch import EventBatch, collate
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.tokens import TokenisedTexts

if TYPE_CHECKING:
    from qanchor.model.embedder import Query

BATCH_USERS = 32


class StraightforwardEmbedder:
    """Embeds users as the paper's public code does.

    Two simplifications favour it: texts are tokenised once, and padding events pass through the text encoder
    only, not through the adapters.

    Args:
        loaded: model of the embeddings.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._workspace = loaded.config.workspace()
        limits = [spec.max_events for spec in loaded.config.modalities.values()]
        self._slots = sum(limits)
        # Positions of the modalities' start tokens, after the user, modality and tabular tokens.
        heads = 1 + len(limits) + loaded.config.tabular_tokens
        self._starts = heads + np.cumsum([0, *(limit + 2 for limit in limits)])
        self._tokens = int(self._starts[-1])

    def embed(
        self, arrays: EventArrays, rows: Int64, cutoffs: Int64, queries: Sequence["Query"]
    ) -> NDArray[np.float32]:
        """As UserEmbedder.embed: float32 [queries, requests, dim]."""
        config, tokenizer = self._loaded.config, self._loaded.tokenizer
        texts = tokenizer.tokenise_events(arrays.texts, config.text_encoder.max_tokens)
        ids = tokenizer.encode_queries([query.text for query in queries], config.max_question_tokens)
        slices = slice_histories(arrays, rows, cutoffs, self._workspace)
        result = np.empty((len(queries), len(rows), config.embedding_width), np.float32)
        with torch.inference_mode():
            for number, query in enumerate(queries):
                prompt = None if query.prompt is None else query.prompt.vectors
                for start in range(0, len(rows), BATCH_USERS):
                    members = np.arange(start, min(start + BATCH_USERS, len(rows)))
                    batch = self._padded(arrays, slices.take(members), texts)
                    result[number, members] = self._forward(batch, ids[number], prompt).numpy()
        return result

    def _padded(self, arrays: EventArrays, slices: HistorySlices, texts: TokenisedTexts) -> EventBatch:
        """The batch with one text for every event slot, in a layout that is the same for every user."""
        loaded = self._loaded
        batch = collate(arrays, slices, texts, loaded.normaliser, loaded.config)
        used = batch.texts[batch.text_index].numpy()
        width = loaded.config.text_encoder.max_tokens
        ids = np.full((batch.users * self._slots, width), texts.pad_id)
        ids[: len(used), : texts.ids.shape[1]] = texts.ids[used]
        mask = np.zeros(ids.shape, dtype=bool)
        mask[:, 0] = True
        mask[: len(used)] = np.arange(width) < texts.lengths[used, None]
        return replace(
            batch,
            text_ids=torch.from_numpy(ids),
            text_mask=torch.from_numpy(mask),
            text_index=torch.arange(len(used)),
            slot=torch.from_numpy(self._places(batch.counts.numpy())),
            tokens=self._tokens,
        )

    def _places(self, counts: Int64) -> Int64:
        """As EventBatch.place."""
        users, modalities = counts.shape
        base = np.arange(users)[:, None] * self._tokens
        starts = base + self._starts[:-1]
        tabular = np.arange(self._loaded.config.tabular_tokens)
        heads = [base[:, 0], (base + 1 + np.arange(modalities)).ravel()]
        heads.append((base + 1 + modalities + tabular).ravel())
        ends = base + self._starts[1:] - 1
        events = [
            np.concatenate([start + 1 + np.arange(count) for start, count in zip(*column, strict=True)])
            for column in zip(starts.T, counts.T, strict=True)
        ]
        return np.concatenate([*heads, starts.ravel(), ends.ravel(), *events]).astype(np.int64)

    def _forward(self, batch: EventBatch, query_ids: Tensor, prompt: Tensor | None) -> Tensor:
        model: Any = self._loaded.model
        prefix = model.encoder(batch)
        seen = torch.zeros(batch.users * batch.tokens, dtype=torch.bool)
        seen[batch.slot] = True
        suffix = model.backbone.embed(query_ids.expand(batch.users, -1))
        valid = (query_ids != model.pad_id).expand(batch.users, -1)
        parts, masks = [prefix, suffix], [seen.view(batch.users, -1), valid]
        if prompt is not None:
            parts.insert(1, prompt.expand(batch.users, -1, -1))
            masks.insert(1, torch.ones(batch.users, len(prompt), dtype=torch.bool))
        mask = torch.cat(masks, dim=1)
        hidden = model.backbone.causal(torch.cat(parts, dim=1), mask)
        last = (mask * torch.arange(mask.shape[1])).amax(dim=1)
        result: Tensor = model.project(hidden[torch.arange(batch.users), last])
        return result
