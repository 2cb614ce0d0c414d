"""A small workspace and event files for tests."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qanchor.events.schema import EventDecoder
from qanchor.settings import EventSettings
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace

START = datetime(2026, 1, 1, tzinfo=UTC)
PAY = ModalitySpec(
    text="{shop}",
    fields={
        "shop": FieldSpec(type="text", max_length=20),
        "amount": FieldSpec(type="number", minimum=0),
        "note": FieldSpec(type="text", optional=True),
        "balance": FieldSpec(type="number", optional=True),
    },
)
VISIT = ModalitySpec(text="{page}", fields={"page": FieldSpec(type="text"), "invoice": FieldSpec(type="key")})
WORKSPACE = Workspace(Path(), 10, {"pay": PAY, "visit": VISIT}, {})


def make_decoder() -> EventDecoder:
    return EventDecoder(WORKSPACE, EventSettings())


def payment(user: str = "u1", hours: float = 0, **changes: Any) -> dict[str, Any]:
    event = {"user_id": user, "event_time": START + timedelta(hours=hours), "modality": "pay"}
    return {**event, "shop": "corner", "amount": 5.0, **changes}


def visit(user: str = "u1", hours: float = 0, **changes: Any) -> dict[str, Any]:
    event = {"user_id": user, "event_time": START + timedelta(hours=hours), "modality": "visit"}
    return {**event, "page": "home", "invoice": "i1", **changes}


def as_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: [row.get(name) for row in rows] for name in columns})


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    pq.write_table(as_table(rows), path)
    return path
