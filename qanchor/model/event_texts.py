"""Event texts as the model takes them: token ids and, where encoding a text is slow, its vector."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qanchor.model.checkpoint import LoadedModel
from qanchor.model.text_cache import TextVectorCache
from qanchor.model.tokens import TokenisedTexts

MOST_CACHE_BYTES = 4 * 2**30
# Tokens of one batch of texts, padding included.
_BATCH_TOKENS = 8_192


@dataclass(frozen=True)
class PreparedTexts:
    """The texts of one set of events.

    Args:
        tokens: token ids.
        vectors: [texts, width] where encoding is slow; None: they are made with each batch.
    """

    tokens: TokenisedTexts
    vectors: Tensor | None


class EventTexts:
    """Prepares the texts of one set of events at a time, and remembers the last.

    A bag of tokens is cheaper to compute than to look up (1% of embedding a user with preset tiny): its
    vectors are made with each batch of users. A transformer's are made here, each distinct text once.

    Args:
        loaded: the model.
        folder: keeps a transformer's vectors for other runs and processes; None: they are not kept.
    """

    def __init__(self, loaded: LoadedModel, folder: Path | None = None) -> None:
        self._loaded = loaded
        self._texts: tuple[str, ...] | None = None
        self._prepared: PreparedTexts | None = None
        self._cache: TextVectorCache | None = None
        self._is_slow = loaded.config.text_encoder.kind == "transformer"
        if folder is not None and self._is_slow:
            version, width = encoder_version(loaded), loaded.config.text_encoder.width
            self._cache = TextVectorCache(folder, version, width, MOST_CACHE_BYTES)

    def prepare(self, texts: tuple[str, ...]) -> PreparedTexts:
        """Token ids and, where encoding is slow, vectors; to be called in inference mode."""
        if self._prepared is None or self._texts is not texts:
            config = self._loaded.config.text_encoder
            tokens = self._loaded.tokenizer.tokenise_events(texts, config.max_tokens)
            self._prepared = PreparedTexts(tokens, self._vectors(tokens) if self._is_slow else None)
            self._texts = texts
        return self._prepared

    def _vectors(self, texts: TokenisedTexts) -> Tensor:
        def encode(some: NDArray[np.int64]) -> NDArray[np.float32]:
            return self._encoded(texts, some)

        if self._cache is None:
            vectors = encode(np.arange(len(texts.lengths)))
        else:
            rows = zip(texts.ids, texts.lengths, strict=True)
            vectors = self._cache.vectors([ids[:length].tobytes() for ids, length in rows], encode)
        return torch.from_numpy(vectors).to(self._loaded.runtime.device)

    def _encoded(self, texts: TokenisedTexts, some: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of some texts, [some, width], in batches of similar length."""
        device, width = self._loaded.runtime.device, self._loaded.config.text_encoder.width
        result = np.empty((len(some), width), np.float32)
        order = np.argsort(texts.lengths[some], kind="stable")
        start = 0
        while start < len(order):
            lengths = texts.lengths[some[order[start:]]]
            # Ascending lengths: the last of a batch is its longest.
            count = int(np.searchsorted(np.arange(1, len(lengths) + 1) * lengths, _BATCH_TOKENS, "right"))
            members = order[start : start + max(1, count)]
            longest = int(texts.lengths[some[members]].max())
            mask = torch.from_numpy(np.arange(longest) < texts.lengths[some[members], None]).to(device)
            ids = torch.from_numpy(texts.ids[some[members], :longest]).to(device)
            result[members] = self._loaded.model.encoder.encode_texts(ids, mask).float().cpu().numpy()
            start += len(members)
        return result


def encoder_version(loaded: LoadedModel) -> str:
    """A hash of what changes a text's vector: the encoder's weights, adapters included, and its format."""
    digest = hashlib.blake2b(str(loaded.runtime.dtype).encode(), digest_size=32)
    for name, weight in loaded.model.encoder.text_encoder.state_dict().items():
        if isinstance(weight, Tensor):
            digest.update(f"{name}:{weight.dtype}:{tuple(weight.shape)};".encode())
            digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
