"""Do the three places where a vector lies - offline store, online store, index - hold the same thing?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.errors import QAnchorError
from qanchor.names import embedding_field, embedding_view
from qanchor.registry.manifests import active_manifest
from qanchor.registry.tables import EmbeddingManifest, IndexVersion
from qanchor.registry.versions import active_by_scenario
from qanchor.site import Site
from qanchor.storage.checksums import row_hashes
from qanchor.storage.editions import CurrentVectors, current_vectors, edition_checksum, edition_rows
from qanchor.storage.vectors import load_index

_USERS_PER_READ: Final = 5_000
_INDEX_TOLERANCE: Final = 1e-5  # an index keeps unit vectors, made so once more


@dataclass(frozen=True)
class SinkCheck:
    """What one store was found to hold.

    Args:
        scenario: its name.
        sink: "offline", "online" or "index".
        expected: vectors that should be there.
        missing: of these, how many are not.
        different: of these, how many are another vector or of another moment.
        problem: why the store as a whole does not hold, if so.
        remedy: what mends it; empty where nothing is wrong.
    """

    scenario: str
    sink: str
    expected: int
    missing: int = 0
    different: int = 0
    problem: str = ""
    remedy: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the store holds what the manifest says."""
        return not (self.missing or self.different or self.problem)


def verify(scenario: str, site: Site) -> list[SinkCheck]:
    """Hold the three stores against a scenario's active manifest.

    Args:
        scenario: its name.
        site: where the stores are.

    Raises:
        NotReady: the scenario has no embeddings yet.
    """
    manifest = active_manifest(site.engine, scenario)
    folder = site.home.root / manifest.path
    checks = [_offline(manifest, folder, site)]
    current = current_vectors(folder, scenario)
    if manifest.as_of is not None:
        checks.append(_online(manifest, folder, site))
    index = active_by_scenario(site.engine, IndexVersion, [scenario]).get(scenario)
    if index is not None:
        checks.append(_index(manifest, index, current, site))
    return checks


def _offline(manifest: EmbeddingManifest, folder: Path, site: Site) -> SinkCheck:
    scenario, remedy = manifest.scenario, f"Run `qanchor-cli backfill --scenario {manifest.scenario}`."
    rows = edition_rows(folder)
    found = SinkCheck(scenario, "offline", manifest.rows, missing=max(0, manifest.rows - rows), remedy=remedy)
    if rows != manifest.rows:
        return found if rows < manifest.rows else _broken(found, f"{rows - manifest.rows:,} rows too many")
    view = site.home.view(embedding_view(scenario))
    if view.resolve() != folder.resolve():
        return _broken(found, "the view shows other vectors than the manifest names")
    # Manifests of before checksums have a hash of another form, which says nothing here.
    if "-" in manifest.content_hash and edition_checksum(folder, scenario) != manifest.content_hash:
        return _broken(found, "the rows are not those that were written")
    return SinkCheck(scenario, "offline", manifest.rows)


def _broken(found: SinkCheck, problem: str) -> SinkCheck:
    return replace(found, problem=problem)


def _online(manifest: EmbeddingManifest, folder: Path, site: Site) -> SinkCheck:
    moment = (manifest.as_of or datetime.min).replace(tzinfo=UTC)
    due = current_vectors(folder, manifest.scenario, moment)
    # Time to live is judged by the reader; here it must not hide a row.
    due_from = moment - site.features.ttl(embedding_view(manifest.scenario))
    due = due.take(np.flatnonzero(due.moments >= int(due_from.timestamp() * 1e6)).astype(np.int64))
    missing = different = 0
    for some, served in _served(due, manifest.scenario, moment, site):
        there = np.asarray(pc.is_valid(served))
        missing += int((~there).sum())
        rows = np.flatnonzero(there).astype(np.int64)
        if len(rows):
            found = served.take(pa.array(rows)).flatten().to_numpy(zero_copy_only=False)
            vectors = np.asarray(found, np.float32).reshape(len(rows), -1)
            kept = some.take(rows)
            different += int((row_hashes(kept.users, kept.moments, vectors) != kept.hashes()).sum())
    remedy = "Run `qanchor-cli verify --repair`." if missing or different else ""
    return SinkCheck(manifest.scenario, "online", len(due), missing, different, remedy=remedy)


def _served(
    due: CurrentVectors, scenario: str, moment: datetime, site: Site
) -> Iterator[tuple[CurrentVectors, Any]]:
    field = embedding_field(scenario)
    for start in range(0, len(due), _USERS_PER_READ):
        some = due.take(np.arange(start, min(start + _USERS_PER_READ, len(due)), dtype=np.int64))
        table = site.features.online(
            some.users.to_pylist(), [f"{embedding_view(scenario)}:{field}"], at=moment
        )
        yield some, table[field].combine_chunks()


def _index(manifest: EmbeddingManifest, row: IndexVersion, current: CurrentVectors, site: Site) -> SinkCheck:
    remedy = f"Run `qanchor-cli index build --scenario {manifest.scenario}`."
    found = SinkCheck(manifest.scenario, "index", len(current), remedy=remedy)
    if row.manifest_id != manifest.id:
        return _broken(found, f"built of manifest {row.manifest_id}, {manifest.id} serves")
    try:
        index = load_index(site.home.root / row.path, manifest.fingerprint)
    except QAnchorError as error:
        return _broken(found, error.problem)
    missing = different = 0
    for start in range(0, len(current), _USERS_PER_READ):
        some = current.take(np.arange(start, min(start + _USERS_PER_READ, len(current)), dtype=np.int64))
        rows = index.rows_of(some.users)
        there = np.flatnonzero(rows >= 0).astype(np.int64)
        missing += len(rows) - len(there)
        apart = np.abs(index.vectors(rows[there]) - some.vectors[there]).max(axis=1, initial=0.0)
        different += int((apart > _INDEX_TOLERANCE).sum())
    if missing or different:
        return replace(found, missing=missing, different=different)
    if index.population != len(current):
        return replace(found, problem=f"it has {index.population - len(current):,} users too many")
    return replace(found, remedy="")


def repair_online(scenario: str, site: Site) -> None:
    """Write a scenario's current vectors to the online store again, over whatever is there.

    Args:
        scenario: its name.
        site: where the stores are.

    Raises:
        NotReady: the scenario has no embeddings yet.
        StateError: the online store took nothing.
    """
    manifest = active_manifest(site.engine, scenario)
    if manifest.as_of is None:
        return
    site.features.clear_online(embedding_view(scenario))
    site.features.materialize([embedding_view(scenario)], manifest.as_of.replace(tzinfo=UTC))
