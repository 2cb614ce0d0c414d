"""Pre-training batches: which cells meet at a step, and their tensors.

A step's batch depends on the seed and the step alone, so that a resumed run sees the same batches.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from qanchor.events.history import EventArrays, HistorySlices, slice_histories
from qanchor.model.batch import EventBatch, EventDropout, collate
from qanchor.model.config import ModelConfig
from qanchor.model.features import Normaliser
from qanchor.model.hierarchy import HierarchicalEncoder
from qanchor.model.tabular import tabular_features
from qanchor.model.text_encoder import BagTextEncoder
from qanchor.model.tokens import TextTokenizer, TokenisedTexts
from qanchor.training.useru.pairs import PairSet
from qanchor.training.useru.topics import co_occurrence_vectors
from qanchor.workspace import Workspace

Int64 = NDArray[np.int64]
_SEEDING_POINTS = 6_000


@dataclass(frozen=True)
class PairBatch:
    """Some points, each with all of its questions.

    Args:
        events: the points' histories, [points].
        question_ids: int64 [points, questions, tokens], each ends in <|user_emb|>.
        answer_ids: int64 [points, questions, tokens], each ends in the end token.
        users: int64 [points], the users' rows.
        summaries: float32 [points, questions, numbers], what happened in each question's span.
    """

    events: EventBatch
    question_ids: Tensor
    answer_ids: Tensor
    users: Tensor
    summaries: Tensor

    def to(self, device: torch.device | str) -> "PairBatch":
        """The batch on a device."""
        ids = self.question_ids.to(device), self.answer_ids.to(device)
        others = self.users.to(device), self.summaries.to(device)
        return PairBatch(self.events.to(device), *ids, *others)


def steps_per_epoch(pairs: PairSet, points: int) -> int:
    """Steps in which every full cell is seen once."""
    return max(1, (pairs.trained // pairs.cell) // max(1, points // pairs.cell))


def points_of_step(pairs: PairSet, points: int, step: int, seed: int) -> Int64:
    """The points of one step, int64; cells are shuffled again in every epoch."""
    epoch, at = divmod(step, steps_per_epoch(pairs, points))
    cells = max(1, pairs.trained // pairs.cell)
    order = np.random.default_rng([seed, epoch]).permutation(cells)
    per_batch = min(cells, max(1, points // pairs.cell))
    chosen = order[at * per_batch : (at + 1) * per_batch]
    members = chosen[:, None] * pairs.cell + np.arange(pairs.cell)
    return np.sort(members.ravel()[members.ravel() < pairs.trained])


class BatchBuilder:
    """Builds batches of one set of pairs.

    Args:
        arrays: the visible events.
        workspace: gives windows.
        pairs: made from the same arrays.
        tokenizer: tokenizer of questions, answers and event texts.
        normaliser: scales the numbers.
        config: the model's configuration.
    """

    def __init__(
        self,
        arrays: EventArrays,
        workspace: Workspace,
        pairs: PairSet,
        tokenizer: TextTokenizer,
        normaliser: Normaliser,
        config: ModelConfig,
    ) -> None:
        self._arrays = arrays
        self.pairs = pairs
        self._normaliser = normaliser
        self._config = config
        self._slices: HistorySlices = slice_histories(
            arrays, pairs.points.rows, pairs.points.cutoffs, workspace
        )
        days = sorted(pairs.summaries)
        self._summaries = np.stack([pairs.summaries[span] for span in days])  # [spans, points, numbers]
        self._span = np.searchsorted(days, pairs.days)
        self._texts: TokenisedTexts = tokenizer.tokenise_events(arrays.texts, config.text_encoder.max_tokens)
        self._questions = tokenizer.encode_queries(pairs.questions, config.max_question_tokens)
        self._answers, self._pad = _encoded_answers(pairs, tokenizer, config), tokenizer.pad_id

    def build(self, points: Int64, dropout: EventDropout | None = None) -> PairBatch:
        """The tensors of some points, cut to the longest question and answer among them."""
        events = collate(
            self._arrays, self._slices.take(points), self._texts, self._normaliser, self._config, dropout
        )
        rows = torch.from_numpy(points)
        questions = self._questions[torch.from_numpy(self.pairs.question[points].astype(np.int64))]
        answers = self._answers[rows].to(torch.int64)
        users = torch.from_numpy(self.pairs.points.rows[points])
        summaries = torch.from_numpy(self._summaries[self._span[points], points[:, None]])
        return PairBatch(events, _cut(questions, self._pad), _cut(answers, self._pad), users, summaries)

    def fit_tabular(self, encoder: HierarchicalEncoder) -> None:
        """Let the encoder standardise aggregates by those of the points, or of a sample."""
        if self._config.tabular_tokens:
            sample = self._slices.take(np.arange(min(len(self.pairs.points), _SEEDING_POINTS)))
            values = tabular_features(self._arrays, sample, self._normaliser, self._config)
            encoder.tabular.fit(torch.from_numpy(values))

    def seed_texts(self, encoder: BagTextEncoder) -> None:
        """Begin with token vectors that are alike where the same users have the tokens at the same time.

        A pre-trained text encoder knows such likeness; here it is read from the log.
        """
        events = self._slices.take(np.arange(min(len(self.pairs.points), _SEEDING_POINTS)))
        used = np.arange(self._texts.ids.shape[1]) < self._texts.lengths[:, None]
        rows = np.repeat(np.arange(len(used)), self._texts.lengths)
        shape = (len(used), encoder.embedding.num_embeddings)
        tokens = csr_matrix((np.ones(len(rows), np.int32), (rows, self._texts.ids[used])), shape=shape)
        counts = csr_matrix((len(events.cutoff), shape[1]), dtype=np.int32)
        for column, modality in enumerate(self._arrays.modalities):
            lengths = events.stop[:, column] - events.start[:, column]
            pointers = np.concatenate([[0], np.cumsum(lengths)])
            index = np.arange(pointers[-1]) + np.repeat(events.start[:, column] - pointers[:-1], lengths)
            texts = (np.ones(len(index), np.int32), modality.text[index], pointers)
            counts = counts + csr_matrix(texts, shape=(len(lengths), shape[0])) @ tokens
        vectors = co_occurrence_vectors(counts, encoder.embedding.embedding_dim)
        with torch.no_grad():
            scale = float(encoder.embedding.weight.norm(dim=1).mean())
            seen = torch.from_numpy(np.linalg.norm(vectors, axis=1) > 0)
            known = torch.from_numpy(vectors[seen.numpy()] * scale)
            encoder.embedding.weight[seen] = known.to(encoder.embedding.weight.dtype)


def _encoded_answers(pairs: PairSet, tokenizer: TextTokenizer, config: ModelConfig) -> Tensor:
    """Token ids of every answer, int32 [points, questions, tokens]."""
    shape = pairs.question.shape
    texts = [pairs.answer_text(point, slot) for point in range(shape[0]) for slot in range(shape[1])]
    distinct = sorted(set(texts))
    row = {text: i for i, text in enumerate(distinct)}
    ids = tokenizer.encode_answers(distinct, config.max_answer_tokens).to(torch.int32)
    return ids[torch.tensor([row[text] for text in texts]).reshape(shape)]


def part_of(batch: PairBatch, points: range, pad_id: int) -> PairBatch:
    """The points of a range as a batch; the batch itself where that is all of them.

    A part is cut out of the whole batch, not built again, so that it holds the same events whatever was left
    out at random; and it is cut to its longest text, question and answer.

    Args:
        batch: the whole, on any device.
        points: indices of points of the whole.
        pad_id: padding id of questions and answers.
    """
    if len(points) == len(batch.users):
        return batch
    some = slice(points.start, points.stop)
    return PairBatch(
        _events_of(batch.events, points),
        _cut(batch.question_ids[some], pad_id),
        _cut(batch.answer_ids[some], pad_id),
        batch.users[some],
        batch.summaries[some],
    )


def _cut(ids: Tensor, pad_id: int) -> Tensor:
    return ids[..., : int((ids != pad_id).sum(dim=-1).max())]


def _events_of(events: EventBatch, points: range) -> EventBatch:
    modalities = events.counts.shape[1]
    user = events.segment // modalities
    kept = (user >= points.start) & (user < points.stop)
    sizes = [len(part) for part in events.numbers]
    numbers = [part[keep] for part, keep in zip(events.numbers, torch.split(kept, sizes), strict=True)]
    used, index = torch.unique(events.text_index[kept], return_inverse=True)
    text_mask = events.text_mask[used]
    width = max(1, int(text_mask.sum(dim=1).max())) if len(used) else 1
    some = slice(points.start, points.stop)
    lengths = events.lengths[some]
    tokens = int(lengths.max())
    first, last = points.start * events.tokens, points.stop * events.tokens
    slot = events.slot[(events.slot >= first) & (events.slot < last)]
    flat: dict[str, Any] = {
        "texts": events.texts[used],
        "text_ids": events.text_ids[used, :width],
        "text_mask": text_mask[:, :width],
        "text_index": index,
        "segment": events.segment[kept] - points.start * modalities,
        "numbers": tuple(numbers),
        "slot": (slot // events.tokens - points.start) * tokens + slot % events.tokens,
        "tokens": tokens,
    }
    # What is left has a row for each user.
    by_user = {f.name: _rows(getattr(events, f.name), some) for f in fields(events) if f.name not in flat}
    return replace(events, **flat, **by_user)


def _rows(value: Tensor | tuple[Tensor, ...], some: slice) -> Any:
    return tuple(part[some] for part in value) if isinstance(value, tuple) else value[some]
