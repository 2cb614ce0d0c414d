"""The prefixes of many requests, encoded once and kept for every scenario with labels of them."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qanchor.events.history import EventArrays, Int64, slice_histories
from qanchor.model.batch import collate, prefix_lengths
from qanchor.model.features import Normaliser
from qanchor.model.prefix_cache import CachedRows, PrefixCache
from qanchor.model.qanchor import QAnchor, Suffix
from qanchor.model.tokens import TextTokenizer
from qanchor.progress import Progress
from qanchor.workspace import Workspace

_BLOCK = 256


class PrefixBank:
    """Keys and values of requests' prefixes, addressed by the request's number.

    Requests are kept in the order of their length, so that little padding is stored.

    Args:
        model: frozen, in evaluation mode.
        tokenizer: tokenizer of the model.
        normaliser: normaliser of the model.
        workspace: gives windows.
        stored: number format to keep them in; None: the model's. float16 rounds to about 1 part in 2,000
            and takes half of the memory.
    """

    def __init__(
        self,
        model: QAnchor,
        tokenizer: TextTokenizer,
        normaliser: Normaliser,
        workspace: Workspace,
        stored: torch.dtype | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._normaliser = normaliser
        self._workspace = workspace
        self._used = next(model.parameters()).dtype
        self._stored = stored or self._used
        self._blocks: list[PrefixCache] = []
        self._position = np.empty(0, np.int64)  # of each request in the order of length

    @torch.inference_mode()
    def fill(self, arrays: EventArrays, rows: Int64, cutoffs: Int64, progress: Progress) -> None:
        """Encode the requests; those kept before are forgotten.

        Args:
            arrays: the events.
            rows: int64 [requests], user rows; -1 is a user without events.
            cutoffs: int64 [requests], microseconds UTC.
            progress: counts the requests.
        """
        config = self._model.config
        slices = slice_histories(arrays, rows, cutoffs, self._workspace)
        texts = self._tokenizer.tokenise_events(arrays.texts, config.text_encoder.max_tokens)
        order = np.argsort(prefix_lengths(slices, config), kind="stable")
        self._position = np.argsort(order, kind="stable")
        self._blocks = []
        progress.start("encoding histories", len(rows))
        for at in range(0, len(rows), _BLOCK):
            batch = collate(arrays, slices.take(order[at : at + _BLOCK]), texts, self._normaliser, config)
            self._blocks.append(self._model.encode_prefix(batch).to(dtype=self._stored))
            progress.advance(batch.users)

    @property
    def stored_bytes(self) -> int:
        """Memory that the keys and values take."""
        layers = [layer for block in self._blocks for layer in (*block.keys, *block.values)]
        return sum(layer.numel() * layer.element_size() for layer in layers)

    def take(self, requests: Int64) -> PrefixCache:
        """The prefixes of some requests, in that order, padded to the longest of them."""
        block, row = np.divmod(self._position[requests], _BLOCK)
        parts = []
        for number in np.unique(block).tolist():
            members = np.flatnonzero(block == number)
            rows, targets = torch.from_numpy(row[members]), torch.from_numpy(members)
            parts.append(CachedRows(self._blocks[number], rows, targets))
        return PrefixCache.gather(parts, len(requests)).to(dtype=self._used)

    @torch.inference_mode()
    def vectors(self, query_ids: Tensor, prompt: Tensor | None, requests: Int64) -> NDArray[np.float32]:
        """Unit vectors of some requests for one query, float32 [requests, dim].

        Args:
            query_ids: int64 [tokens], ending in `<|user_emb|>`.
            prompt: [prompt tokens, d_model], or None.
            requests: int64 [requests].
        """
        result = np.zeros((len(requests), self._model.config.embedding_width), np.float32)
        for members, prefix in self._by_block(requests):
            result[members] = self._model.read_out(prefix, Suffix(query_ids, prompt)).numpy()
        return result

    def _by_block(self, requests: Int64) -> Iterator[tuple[Int64, PrefixCache]]:
        """Requests of one block at a time, so that short prefixes meet short ones."""
        block, row = np.divmod(self._position[requests], _BLOCK)
        for number in np.unique(block).tolist():
            members = np.flatnonzero(block == number)
            prefix = self._blocks[number].take(torch.from_numpy(row[members]))
            yield members, prefix.to(dtype=self._used)
