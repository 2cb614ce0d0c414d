"""Published vectors in a registry and an offline store, as a backfill leaves them."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from qanchor.registry.manifests import begin_manifest, note_manifest, part_name
from qanchor.site import Site
from qanchor.storage.parts import embedding_schema, write_part
from tests.unit.registry.rows import activate_manifest, manifest

DAY = datetime(2026, 1, 1, tzinfo=UTC)


def embed(site: Site, rows: list[tuple[str, int, int]], length: float = 1.0) -> int:
    """Publish (user, axis, day) rows, each the unit vector of that axis, in two parts."""
    row = begin_manifest(site.engine, manifest())
    for number, some in enumerate((rows[::2], rows[1::2])):
        moments = [DAY + timedelta(days=day) for _, _, day in some]
        table = pa.table(
            {
                "user_id": [user for user, _, _ in some],
                "emb_money": [(length * np.eye(128)[axis]).tolist() for _, axis, _ in some],
                "model_version": ["m1"] * len(some),
                "n_events": [1] * len(some),
                "last_event_ts": moments,
                "event_timestamp": moments,
                "created": moments,
            }
        ).cast(embedding_schema("money"))
        write_part(site.home.generation("user_emb_money", row.id), table, part_name(row.id, number))
    folder = site.home.generation("user_emb_money", row.id)
    note_manifest(site.engine, row, path=str(folder.relative_to(site.home.root)))
    activate_manifest(site.engine, row, len(rows), "hash")
    return row.id


def many(number: int) -> list[tuple[str, int, int]]:
    return [(f"u{user:03d}", user % 128, 0) for user in range(number)]
