"""Populations of made-up vectors, and features written as the offline store writes them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.audience.features import OfflineFeatures
from qanchor.audience.population import Population
from qanchor.home import Home
from qanchor.names import ACTIVITY_VIEW, PROFILE_VIEW
from qanchor.site import Site
from qanchor.storage.parts import view_schemas, write_part
from qanchor.storage.vectors import IndexMetadata, build_index
from tests.unit.embedding.world import make_workspace

AS_OF = datetime(2026, 1, 10, tzinfo=UTC)
WIDTH = 16


def names(users: int, start: int = 0) -> list[str]:
    """Ids that sort by their numbers."""
    return [f"u{number:05d}" for number in range(start, start + users)]


def unit(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of length 1."""
    result: NDArray[np.float32] = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return result


def population_of(
    vectors: NDArray[np.float32],
    eventless: NDArray[np.bool_] | None = None,
    features: OfflineFeatures | None = None,
) -> Population:
    """Users u00000, u00001, ... with these vectors."""
    index = build_index(
        pa.array(names(len(vectors))), vectors, IndexMetadata("fingerprint", 1, AS_OF.isoformat())
    )
    return Population("money", index, "v1", eventless=eventless, features=features)


def clustered(users: int = 600, kind: int = 60, seed: int = 0) -> NDArray[np.float32]:
    """A population around one common direction, the first `kind` users moved together from it."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(users, WIDTH)) * 0.5
    values[:, 0] += 3
    values[:kind, 1] += 1.5
    return unit(values)


def write_features(folder: Path, rows: Sequence[Mapping[str, object]]) -> OfflineFeatures:
    """Features of users at moments: user_id, at, bills, band."""
    home, workspace = Home(folder / "home"), make_workspace(folder / "repo")
    schemas = view_schemas(workspace)
    for view, columns in (
        (ACTIVITY_VIEW, {"act_bill_count_30d": "bills"}),
        (PROFILE_VIEW, {"prof_band": "band"}),
    ):
        table = pa.Table.from_pylist(
            [
                {
                    "user_id": row["user_id"],
                    **{name: row[source] for name, source in columns.items()},
                    "event_timestamp": row["at"],
                    "created": row.get("created", row["at"]),
                }
                for row in rows
            ],
            schema=schemas[view],
        )
        for number, part in enumerate((table.slice(0, len(table) // 2), table.slice(len(table) // 2))):
            write_part(home.view(view), part, f"{number:08d}")
    return OfflineFeatures(Site.at(workspace, home), AS_OF)
