"""Some points of a batch as a batch of their own.

A part is cut out of the whole batch, not built anew, so that it holds the same events whatever was left out
at random; and it is cut to its own longest text, question and answer.
"""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from qanchor.model.batch import EventBatch
from qanchor.training.batches import PairBatch


def part_of(batch: PairBatch, points: range, pad_id: int) -> PairBatch:
    """The points of a range; the batch itself where that is all of them.

    Args:
        batch: the whole, on any device.
        points: in the whole's order.
        pad_id: what questions and answers are filled up with.
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
    numbers = [part[own] for part, own in zip(events.numbers, torch.split(kept, sizes), strict=True)]
    used, index = torch.unique(events.text_index[kept], return_inverse=True)
    text_mask = events.text_mask[used]
    width = max(1, int(text_mask.sum(dim=1).max())) if len(used) else 1
    some = slice(points.start, points.stop)
    lengths = events.lengths[some]
    tokens = int(lengths.max())
    own_place = (events.place >= points.start * events.tokens) & (events.place < points.stop * events.tokens)
    place = events.place[own_place]
    flat: dict[str, Any] = {
        "texts": events.texts[used],
        "text_ids": events.text_ids[used, :width],
        "text_mask": text_mask[:, :width],
        "text_index": index,
        "segment": events.segment[kept] - points.start * modalities,
        "numbers": tuple(numbers),
        "place": (place // events.tokens - points.start) * tokens + place % events.tokens,
        "tokens": tokens,
    }
    # What is left has a row for each user.
    by_user = {f.name: _rows(getattr(events, f.name), some) for f in fields(events) if f.name not in flat}
    return replace(events, **flat, **by_user)


def _rows(value: Any, some: slice) -> Any:
    return tuple(part[some] for part in value) if isinstance(value, tuple) else value[some]
