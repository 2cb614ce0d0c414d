"""Many users' histories as tensors: events flat, with their slots in the padded prefix."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qanchor.events.history import EventArrays, HistorySlices
from qanchor.model.config import ModelConfig
from qanchor.model.features import Normaliser, event_features, summary_features
from qanchor.model.tabular import tabular_features
from qanchor.model.tokens import TokenisedTexts
from qanchor.model.window import positions_within

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class EventBatch:
    """The prefixes of a batch of users.

    Events of all users are flat, sorted by (modality, user, time): only the sequence that the backbone reads
    is padded, on the right. A prefix is
    [usr; mdl of every modality; tabular tokens; for every modality: start, events, end].

    Args:
        texts: int64 [texts], the batch's distinct texts as indices of EventArrays.texts.
        text_ids: int64 [texts, tokens], each distinct text of the batch once, padded on the right.
        text_mask: bool [texts, tokens], True where a token is.
        text_index: int64 [events], row of text_ids.
        segment: int64 [events], user * modalities + modality.
        numbers: per modality float32 [events of it, event_feature_width].
        summary: per modality float32 [batch, summary_feature_width].
        tabular: float32 [batch, tabular_width], point-in-time aggregates, NaN where hidden; of width 0 where
            no token is made.
        counts: int64 [batch, modalities], events.
        slot: int64 [tokens of the batch without padding], flat index in [batch * tokens] of, in this order:
            user tokens, modality tokens by (user, modality), tabular tokens by user, start tokens, end tokens
            by (user, modality), events.
        lengths: int64 [batch], prefix tokens of each user; at least 1.
        tokens: the longest of them.
    """

    texts: Tensor
    text_ids: Tensor
    text_mask: Tensor
    text_index: Tensor
    segment: Tensor
    numbers: tuple[Tensor, ...]
    summary: tuple[Tensor, ...]
    tabular: Tensor
    counts: Tensor
    slot: Tensor
    lengths: Tensor
    tokens: int

    @property
    def users(self) -> int:
        """How many users the batch holds."""
        return int(self.counts.shape[0])

    def to(self, device: torch.device | str) -> "EventBatch":
        """The batch on a device."""
        return EventBatch(**{field.name: _moved(getattr(self, field.name), device) for field in fields(self)})


@dataclass(frozen=True)
class EventDropout:
    """Random removal of events, and of aggregates, from a training batch.

    Args:
        share: probability that an event is left out.
        generator: source of the randomness.
        aggregates: probability that a number of the summaries or the aggregates is hidden. If it sees all of
            them, the model memorises users.
    """

    share: float
    generator: np.random.Generator
    aggregates: float = 0.0


def prefix_lengths(slices: HistorySlices, config: ModelConfig) -> Int64:
    """Prefix tokens of each request, int64 [requests], without collating."""
    modalities = slices.start.shape[1]
    lengths: Int64 = (slices.stop - slices.start + 2).sum(axis=1) + _head_tokens(config, modalities)
    return lengths


def collate(
    arrays: EventArrays,
    slices: HistorySlices,
    texts: TokenisedTexts,
    normaliser: Normaliser,
    config: ModelConfig,
    dropout: EventDropout | None = None,
) -> EventBatch:
    """The tensors of a batch of requests, without a loop over users.

    Args:
        arrays: the events.
        slices: what each request of the batch may read.
        texts: arrays.texts as token ids.
        normaliser: scales the numbers.
        config: the model's configuration.
        dropout: leaves events out at random, for training; summaries and aggregates still count them all.
    """
    parts = [_gather(arrays, slices, column, normaliser, config) for column in range(len(arrays.modalities))]
    if dropout is not None and dropout.share > 0:
        kept = [dropout.generator.random(len(part.user)) >= dropout.share for part in parts]
        parts = [part.take(keep) for part, keep in zip(parts, kept, strict=True)]
    summaries, tabular = [part.summary for part in parts], _tabular(arrays, slices, normaliser, config)
    if dropout is not None and dropout.aggregates > 0:
        summaries = [values * _shown(values, dropout) / (1 - dropout.aggregates) for values in summaries]
        tabular = np.where(_shown(tabular, dropout), tabular, np.float32(np.nan))
    users, modalities = slices.start.shape
    counts = np.stack([np.bincount(part.user, minlength=users) for part in parts], axis=1)
    slot, lengths, tokens = _slots([part.user for part in parts], counts, config)
    used, index = np.unique(np.concatenate([part.text for part in parts]), return_inverse=True)
    width = int(texts.lengths[used].max(initial=1))
    text_ids = texts.ids[used, :width]
    segment = np.concatenate([part.user * modalities + m for m, part in enumerate(parts)])
    return EventBatch(
        texts=torch.from_numpy(used.astype(np.int64)),
        text_ids=torch.from_numpy(text_ids),
        text_mask=torch.from_numpy(np.arange(width) < texts.lengths[used, None]),
        text_index=torch.from_numpy(index.astype(np.int64)),
        segment=torch.from_numpy(segment),
        numbers=tuple(torch.from_numpy(part.numbers) for part in parts),
        summary=tuple(torch.from_numpy(values.astype(np.float32)) for values in summaries),
        tabular=torch.from_numpy(tabular),
        counts=torch.from_numpy(counts.astype(np.int64)),
        slot=torch.from_numpy(slot),
        lengths=torch.from_numpy(lengths),
        tokens=tokens,
    )


def _head_tokens(config: ModelConfig, modalities: int) -> int:
    return int(config.use_user_token) + modalities * int(config.use_modality_tokens) + config.tabular_tokens


def _shown(values: NDArray[Any], dropout: EventDropout) -> NDArray[np.bool_]:
    return dropout.generator.random(values.shape) >= dropout.aggregates


def _tabular(
    arrays: EventArrays, slices: HistorySlices, normaliser: Normaliser, config: ModelConfig
) -> Float32:
    if not config.tabular_tokens:
        return np.empty((len(slices.cutoff), 0), np.float32)
    return tabular_features(arrays, slices, normaliser, config)


@dataclass(frozen=True)
class _ModalityEvents:
    """One modality's events of all users, flat.

    Args:
        user: int64 [events], row of the batch.
        text: int32 [events].
        numbers: float32 [events, event_feature_width].
        summary: float32 [batch, summary_feature_width].
    """

    user: Int64
    text: NDArray[np.int32]
    numbers: Float32
    summary: Float32

    def take(self, keep: NDArray[np.bool_]) -> "_ModalityEvents":
        """Some of the events; the summary still counts them all."""
        return _ModalityEvents(self.user[keep], self.text[keep], self.numbers[keep], self.summary)


def _gather(
    arrays: EventArrays, slices: HistorySlices, column: int, normaliser: Normaliser, config: ModelConfig
) -> _ModalityEvents:
    events = arrays.modalities[column]
    spec = config.modalities[events.name]
    start = slices.start[:, column]
    counts = slices.stop[:, column] - start
    user = np.repeat(np.arange(len(counts)), counts)
    within = positions_within(counts)
    rows = start[user] + within
    time = events.time[rows]
    age = slices.cutoff[user] - time
    # The gap is known inside the slice alone, so that it does not depend on how much was loaded.
    gap = np.where(within > 0, time - events.time[np.maximum(rows - 1, 0)], -1) if len(rows) else age
    raw = events.numbers[rows]
    values = normaliser.apply(events.name, spec, raw)
    return _ModalityEvents(
        user,
        events.text[rows],
        event_features(values, age, gap, time, config.window_days),
        summary_features(values, raw, age, user, slices.window_events[:, column]),
    )


def _slots(users: list[Int64], counts: Int64, config: ModelConfig) -> tuple[Int64, Int64, int]:
    """EventBatch.slot, the users' lengths, and the padded length."""
    batch, modalities = counts.shape
    head = _head_tokens(config, modalities)
    groups = counts + 2
    lengths = head + groups.sum(axis=1)
    tokens = int(lengths.max(initial=1))
    base = np.arange(batch)[:, None] * tokens
    starts = base + head + np.cumsum(groups, axis=1) - groups  # [batch, modalities]
    pieces = [base[:, 0]] if config.use_user_token else []
    if config.use_modality_tokens:
        pieces.append((base + int(config.use_user_token) + np.arange(modalities)).ravel())
    if config.tabular_tokens:
        pieces.append((base + head - config.tabular_tokens + np.arange(config.tabular_tokens)).ravel())
    pieces += [starts.ravel(), (starts + counts + 1).ravel()]
    for column, user in enumerate(users):
        pieces.append(starts[user, column] + 1 + positions_within(counts[:, column]))
    return np.concatenate(pieces).astype(np.int64), lengths.astype(np.int64), tokens


def _moved(value: object, device: torch.device | str) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    if not isinstance(value, Tensor):
        return value
    # Only from pinned memory does a copy to a GPU run during other work.
    pinned = torch.device(device).type == "cuda" and value.device.type == "cpu"
    return (value.pin_memory() if pinned else value).to(device, non_blocking=True)
