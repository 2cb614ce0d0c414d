"""Histories to vectors: every user's prefix once, then every scenario's suffix."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from qanchor.errors import CheckpointInvalid
from qanchor.events.history import EventArrays, HistorySlices, Int64, slice_histories
from qanchor.model.batch import collate, prefix_lengths
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.event_texts import EventTexts, PreparedTexts
from qanchor.model.qanchor import Suffix
from qanchor.model.soft_prompt import SoftPrompt
from qanchor.model.suffixes import SuffixBlock

# Prefix tokens of one batch: many enough for long products, few enough to stay in a core's cache.
BATCH_TOKENS = 4_096


@dataclass(frozen=True)
class Query:
    """A scenario's query, and the soft prompt that sharpens it.

    Args:
        text: the query in words.
        prompt: soft prompt tuned on the same model; None without one.
    """

    text: str
    prompt: SoftPrompt | None = None


def query_suffix(loaded: LoadedModel, query: Query) -> Suffix:
    """What a model reads after every prefix for a query.

    Raises:
        CheckpointInvalid: the prompt is of another width; tune the scenario on this model.
    """
    ids = loaded.tokenizer.encode_queries([query.text], loaded.config.max_question_tokens)[0]
    if query.prompt is None:
        return Suffix(ids.to(loaded.runtime.device))
    width = query.prompt.vectors.shape[1]
    if width != loaded.config.backbone.width:
        raise CheckpointInvalid(
            f"the soft prompt has width {width}, and the model {loaded.config.backbone.width}",
            "Tune the scenario on this model.",
        )
    return Suffix(ids.to(loaded.runtime.device), query.prompt.vectors.to(loaded.runtime.device))


class UserEmbedder:
    """Embeds users as of their cut-offs for any number of queries.

    Args:
        loaded: the model.
        batch_tokens: prefix tokens of one batch, padding included.
        text_cache: folder that keeps vectors of event texts where encoding one is slow; None: none is kept.
    """

    def __init__(
        self, loaded: LoadedModel, batch_tokens: int = BATCH_TOKENS, text_cache: Path | None = None
    ) -> None:
        self.loaded = loaded
        self._workspace = loaded.config.workspace()
        self._batch_tokens = batch_tokens
        self._texts = EventTexts(loaded, text_cache)

    def embed(
        self, arrays: EventArrays, rows: Int64, cutoffs: Int64, queries: Sequence[Query]
    ) -> NDArray[np.float32]:
        """One unit vector for each query and request.

        A vector depends on its user's history and its query alone, whatever else is in the batch.

        Args:
            arrays: the events; a request reads those before its cut-off.
            rows: int64 [requests], rows of arrays.users; -1 is a user without events.
            cutoffs: int64 [requests], microseconds UTC.
            queries: one embedding of every user for each.

        Returns:
            float32 [queries, requests, dim].

        Raises:
            CheckpointInvalid: the events' modalities are not the model's, or a prompt is of another width.
        """
        config = self.loaded.config
        if [events.name for events in arrays.modalities] != list(config.modalities):
            raise CheckpointInvalid(
                f"the model reads the modalities {', '.join(config.modalities)} and the events have others",
                "Restore modalities.yaml, or run `qanchor-cli pretrain` again.",
            )
        slices = slice_histories(arrays, rows, cutoffs, self._workspace)
        result = np.empty((len(queries), len(rows), config.embedding_width), dtype=np.float32)
        if not queries:
            return result
        with torch.inference_mode(), self.loaded.runtime.autocast():
            block = self.loaded.model.suffix_block([query_suffix(self.loaded, query) for query in queries])
            texts = self._texts.prepare(arrays.texts)

        def embed_batch(members: Int64) -> None:
            # Both contexts hold for one thread.
            with torch.inference_mode(), self.loaded.runtime.autocast():
                result[:, members] = self._vectors(arrays, slices.take(members), texts, block)

        _at_once(embed_batch, self._batches(slices), self.loaded.runtime.device)
        return result

    def _vectors(
        self,
        arrays: EventArrays,
        slices: HistorySlices,
        texts: PreparedTexts,
        block: SuffixBlock,
    ) -> NDArray[np.float32]:
        """Vectors of one batch, float32 [queries, requests, dim]."""
        loaded = self.loaded
        batch = collate(arrays, slices, texts.tokens, loaded.normaliser, loaded.config)
        batch = batch.to(loaded.runtime.device)
        # The prefix is encoded once; each scenario pays only for its suffix.
        prefix = loaded.model.encode_prefix(batch, texts.vectors)
        result: NDArray[np.float32] = loaded.model.read_out_block(prefix, block).cpu().numpy()
        return result

    def _batches(self, slices: HistorySlices) -> Iterator[Int64]:
        """Requests of similar length, as many as the token budget allows."""
        lengths = prefix_lengths(slices, self.loaded.config)
        order = np.argsort(lengths, kind="stable")
        start = 0
        while start < len(order):
            # Ascending lengths: the last of a batch is its longest.
            sizes = np.arange(1, len(order) - start + 1) * lengths[order[start:]]
            count = max(1, int(np.searchsorted(sizes, self._batch_tokens, side="right")))
            yield order[start : start + count]
            start += count


def _at_once(work: Callable[[Int64], None], batches: Iterable[Int64], device: torch.device) -> None:
    """Work on several batches at once: on a CPU one on each core, on a GPU one while the next is prepared.

    The products of one batch are too short to be divided: of tiny, two cores on one batch do 1.2 times
    the work of one, and two cores on a batch each 1.6 times.
    """
    cores = torch.get_num_threads()
    if device.type == "cpu" and cores == 1:
        for batch in batches:
            work(batch)
        return
    try:
        if device.type == "cpu":
            with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                for _ in pool.map(work, batches):
                    pass
        else:
            # This thread's stream put on the device what the batches share.
            torch.cuda.synchronize(device)
            with ThreadPoolExecutor(2, initializer=_use_new_stream, initargs=(device,)) as pool:
                for _ in pool.map(work, batches):
                    pass
    finally:
        torch.set_num_threads(cores)


def _use_new_stream(device: torch.device) -> None:
    """Let this thread's copies and products run at the same time as those of other threads."""
    torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
