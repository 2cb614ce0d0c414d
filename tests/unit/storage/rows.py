"""Embedding rows for tests: (user, event_timestamp, created) each."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from qanchor.storage.parts import embedding_schema

VIEW = "user_emb_fraud"
Row = tuple[str, datetime, datetime]


def embedding_rows(
    rows: Sequence[Row], vectors: Sequence[Any] | None = None, scenario: str = "fraud"
) -> pa.Table:
    """A table in the order of the view; row i has n_events i and, unless given, a vector full of i."""
    if vectors is None:
        vectors = [np.full(128, i, np.float32) for i in range(len(rows))]
    users, events, created = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "user_id": users,
            f"emb_{scenario}": list(vectors),
            "model_version": [f"m{i}" for i in range(len(rows))],
            "n_events": range(len(rows)),
            "last_event_ts": [None if i % 2 else event for i, event in enumerate(events)],
            "event_timestamp": events,
            "created": created,
        },
        schema=embedding_schema(scenario),
    )
