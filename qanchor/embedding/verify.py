"""Whether the three stores of vectors - offline store, online store, index - hold the same."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

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
from qanchor.storage.generations import CurrentVectors, current_vectors, generation_checksum, generation_rows
from qanchor.storage.vectors import load_index
from qanchor.times import as_utc, to_microseconds

_USERS_PER_READ: Final = 5_000
_INDEX_TOLERANCE: Final = 1e-5  # an index normalises unit vectors once more


@dataclass(frozen=True)
class StoreCheck:
    """What one store holds, compared with a manifest.

    Args:
        scenario: name of the scenario.
        store: "offline", "online" or "index".
        expected: vectors that should be there.
        missing: vectors of these that are not.
        different: vectors of these that are another vector or of another moment.
        problem: what is wrong with the store as a whole.
        remedy: what to do about it; empty where nothing is wrong.
    """

    scenario: str
    store: str
    expected: int
    missing: int = 0
    different: int = 0
    problem: str = ""
    remedy: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the store holds what the manifest names."""
        return not (self.missing or self.different or self.problem)


def verify(site: Site, scenario: str) -> list[StoreCheck]:
    """Compare the three stores with a scenario's active manifest.

    Args:
        site: registry and stores.
        scenario: name of the scenario.

    Raises:
        NotReady: the scenario has no embeddings yet.
    """
    manifest = active_manifest(site.engine, scenario)
    folder = site.home.root / manifest.path
    checks = [_offline(site, manifest, folder)]
    current = current_vectors(folder, scenario)
    if manifest.as_of is not None:
        checks.append(_online(site, manifest, folder))
    index = active_by_scenario(site.engine, IndexVersion, [scenario]).get(scenario)
    if index is not None:
        checks.append(_index(site, manifest, index, current))
    return checks


def _offline(site: Site, manifest: EmbeddingManifest, folder: Path) -> StoreCheck:
    scenario, rows = manifest.scenario, generation_rows(folder)
    check = StoreCheck(scenario, "offline", manifest.rows)
    bad = replace(check, remedy=f"Run `qanchor-cli backfill --scenario {scenario}`.")
    if rows < manifest.rows:
        return replace(bad, missing=manifest.rows - rows)
    if rows > manifest.rows:
        return replace(bad, problem=f"{rows - manifest.rows:,} rows too many")
    if site.home.view(embedding_view(scenario)).resolve() != folder.resolve():
        return replace(bad, problem="the view shows other vectors than the manifest names")
    # Manifests of before checksums have a hash of another form, which says nothing here.
    if "-" in manifest.content_hash and generation_checksum(folder, scenario) != manifest.content_hash:
        return replace(bad, problem="the rows are not those that were written")
    return check


def _online(site: Site, manifest: EmbeddingManifest, folder: Path) -> StoreCheck:
    assert manifest.as_of is not None
    moment, view = as_utc(manifest.as_of), embedding_view(manifest.scenario)
    field = embedding_field(manifest.scenario)
    due = current_vectors(folder, manifest.scenario, moment)
    # The reader applies the time to live; here it must not hide a row.
    alive_from = to_microseconds(moment - site.features.ttl(view))
    due = due.take(np.flatnonzero(due.moments >= alive_from).astype(np.int64))
    missing = different = 0
    for some in _blocks(due):
        table = site.features.online(some.users.to_pylist(), [f"{view}:{field}"], at=moment)
        served = table[field].combine_chunks()
        present = np.asarray(pc.is_valid(served))
        missing += int((~present).sum())
        rows = np.flatnonzero(present).astype(np.int64)
        if len(rows):
            flat = served.take(pa.array(rows)).flatten().to_numpy(zero_copy_only=False)
            vectors, kept = np.asarray(flat, np.float32).reshape(len(rows), -1), some.take(rows)
            different += int((row_hashes(kept.users, kept.moments, vectors) != kept.hashes()).sum())
    remedy = "Run `qanchor-cli verify --repair`." if missing or different else ""
    return StoreCheck(manifest.scenario, "online", len(due), missing, different, remedy=remedy)


def _blocks(vectors: CurrentVectors) -> Iterator[CurrentVectors]:
    for start in range(0, len(vectors), _USERS_PER_READ):
        yield vectors.take(np.arange(start, min(start + _USERS_PER_READ, len(vectors)), dtype=np.int64))


def _index(
    site: Site, manifest: EmbeddingManifest, version: IndexVersion, current: CurrentVectors
) -> StoreCheck:
    check = StoreCheck(manifest.scenario, "index", len(current))
    bad = replace(check, remedy=f"Run `qanchor-cli index build --scenario {manifest.scenario}`.")
    if version.manifest_id != manifest.id:
        return replace(bad, problem=f"built of manifest {version.manifest_id}, {manifest.id} serves")
    try:
        index = load_index(site.home.root / version.path, manifest.fingerprint)
    except QAnchorError as error:
        return replace(bad, problem=error.problem)
    missing = different = 0
    for some in _blocks(current):
        rows = index.rows_of(some.users)
        present = np.flatnonzero(rows >= 0).astype(np.int64)
        missing += len(rows) - len(present)
        apart = np.abs(index.vectors(rows[present]) - some.vectors[present]).max(axis=1, initial=0.0)
        different += int((apart > _INDEX_TOLERANCE).sum())
    if missing or different:
        return replace(bad, missing=missing, different=different)
    if index.population != len(current):
        return replace(bad, problem=f"it has {index.population - len(current):,} users too many")
    return check


def repair_online(site: Site, scenario: str) -> None:
    """Write a scenario's current vectors to the online store again, over whatever is there.

    Args:
        site: registry and stores.
        scenario: name of the scenario.

    Raises:
        NotReady: the scenario has no embeddings yet.
        StateError: the online store took nothing.
    """
    manifest = active_manifest(site.engine, scenario)
    if manifest.as_of is None:
        return
    site.features.clear_online(embedding_view(scenario))
    site.features.materialize([embedding_view(scenario)], as_utc(manifest.as_of))
