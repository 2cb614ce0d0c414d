"""Tiny models and random events for the tests of the model."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.events.history import (
    EventArrays,
    HistorySlices,
    arrays_from_table,
    slice_histories,
)
from qanchor.model.batch import EventBatch, collate
from qanchor.model.build import build_model, make_tokenizer
from qanchor.model.config import BackboneConfig, ModelConfig, TextEncoderConfig, preset_config
from qanchor.model.features import Normaliser
from qanchor.model.qanchor import QAnchor
from qanchor.model.tokens import TextTokenizer
from qanchor.times import to_microseconds
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace

HOUR = 3_600_000_000
START = to_microseconds(datetime(2024, 1, 1, tzinfo=UTC))
QUERIES = ("will the user buy tea?", "will they leave", "Ob der Nutzer ☕ bestellt, und wann genau?")
WORKSPACE = Workspace(
    Path(),
    30,
    {
        "pay": ModalitySpec(
            text="paid {shop}",
            max_events=6,
            fields={
                "shop": FieldSpec(type="text"),
                "amount": FieldSpec(type="number", amount=True),
                "balance": FieldSpec(type="number", optional=True, transform="linear"),
            },
        ),
        "visit": ModalitySpec(text="{page}", max_events=4, fields={"page": FieldSpec(type="text")}),
        "profile": ModalitySpec(
            text="{tier}",
            max_events=1,
            profile=True,
            fields={
                "tier": FieldSpec(type="text"),
                "tenure": FieldSpec(type="number", transform="log", optional=True),
            },
        ),
    },
    {},
)
FIELDS = {"pay": "shop", "visit": "page", "profile": "tier"}
WORDS = ("tea", "coffee house", "rent", "home", "tickets", "gold")


@dataclass(frozen=True)
class World:
    """A model and what it was made for."""

    config: ModelConfig
    tokenizer: TextTokenizer
    normaliser: Normaliser
    model: QAnchor

    def batch(self, arrays: EventArrays, slices: HistorySlices) -> EventBatch:
        texts = self.tokenizer.tokenise_events(arrays.texts, self.config.text_encoder.max_tokens)
        return collate(arrays, slices, texts, self.normaliser, self.config)


def event_table(seed: int = 0, users: int = 5, events: int = 60) -> pa.Table:
    """Random events of users u0, u1, ... within 40 days."""
    chance = np.random.default_rng(seed)
    kinds = chance.choice(list(FIELDS), events, p=[0.5, 0.4, 0.1])
    words = chance.choice(WORDS, events)
    numbers = np.round(chance.normal(0, 50, events), 2)

    def column(values: NDArray[Any], kind: str) -> list[Any]:
        return [value if k == kind else None for value, k in zip(values.tolist(), kinds, strict=True)]

    times = START + chance.integers(0, 40 * 24, events) * HOUR
    return pa.table(
        {
            "event_id": [f"e{i:05d}" for i in range(events)],
            "user_id": [f"u{i}" for i in chance.integers(0, users, events)],
            "event_time": pa.array(times, pa.int64()).cast(pa.timestamp("us", "UTC")),
            "modality": pa.array(kinds.tolist(), pa.string()),
            **{field: pa.array(column(words, kind), pa.string()) for kind, field in FIELDS.items()},
            "amount": pa.array(column(numbers, "pay"), pa.float64()),
            "balance": pa.array(
                [v if v is not None and v > 0 else None for v in column(numbers, "pay")], pa.float64()
            ),
            "tenure": pa.array(column(np.abs(numbers), "profile"), pa.float64()),
        }
    )


@cache
def random_arrays(seed: int = 0, users: int = 5, events: int = 60) -> EventArrays:
    """`event_table` as arrays; made once, not to be changed."""
    return arrays_from_table(event_table(seed, users, events), WORKSPACE)


def slices_at(arrays: EventArrays, rows: list[int], hours: list[int]) -> HistorySlices:
    """Slices of users as of hours after the start."""
    cutoffs = START + np.array(hours, dtype=np.int64) * HOUR
    return slice_histories(arrays, np.array(rows, dtype=np.int64), cutoffs, WORKSPACE)


def make_world(seed: int = 0, **changes: Any) -> World:
    """A model with 16 dimensions, in evaluation mode."""
    sizes: dict[str, Any] = {
        "backbone": BackboneConfig(width=16, layers=2, heads=2, key_value_heads=1, feed_forward=24),
        "text_encoder": TextEncoderConfig(width=12),
        "vocabulary": 320,
        "projection_width": 24,
        "embedding_width": 8,
    }
    config = preset_config("tiny", WORKSPACE, **{**sizes, **changes})
    tokenizer = make_tokenizer(config, [*QUERIES, *WORDS, "paid tea"])
    normaliser = Normaliser.fit(random_arrays(99), WORKSPACE.modalities)
    return World(config, tokenizer, normaliser, build_model(config, tokenizer, seed).eval())
