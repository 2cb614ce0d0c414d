"""The FAISS index of a scenario, built from the vectors that its active manifest names."""

import logging
import shutil
import time
from dataclasses import dataclass

from qanchor.errors import FingerprintMismatch, IndexInvalid, NotReady
from qanchor.registry.manifests import active_manifest
from qanchor.registry.tables import EmbeddingManifest, IndexVersion, new_version
from qanchor.registry.versions import active_index, register_index
from qanchor.site import Site
from qanchor.storage.generations import CurrentVectors, current_vectors, generation_rows
from qanchor.storage.vectors import (
    IndexMetadata,
    IndexPlan,
    VectorIndex,
    build_index,
    load_index,
    save_index,
    update_index,
)

log = logging.getLogger(__name__)

# Above this share of changed rows, slower searches cost more than a new index.
_REBUILT_SHARE = 0.1


@dataclass(frozen=True)
class ServedIndex:
    """An index in service.

    Args:
        index: vectors of the users.
        version: version of the index in the registry.
        is_behind: whether newer embeddings than the index's are in service.
        load_seconds: seconds that opening it took.
    """

    index: VectorIndex
    version: str
    is_behind: bool
    load_seconds: float = 0.0


@dataclass(frozen=True)
class Update:
    """The result of an index update.

    Args:
        row: registry row of the index in service.
        changed: number of users who are new or have another vector.
        removed: number of users who are no longer there.
        rebuilt: whether so much had changed that the whole index was built again.
    """

    row: IndexVersion
    changed: int
    removed: int
    rebuilt: bool


def build_scenario_index(site: Site, scenario: str, plan: IndexPlan | None = None) -> IndexVersion:
    """Build the index of a scenario and put it in service; the earlier one serves until that succeeds.

    Args:
        site: offline store, indexes and registry.
        scenario: name of the scenario.
        plan: kind and exactness; None: the defaults.

    Raises:
        NotReady: the scenario has no embeddings yet; run `qanchor-cli backfill --scenario`.
        IndexInvalid: a vector is invalid; run the backfill again. Or the plan's memory is too small; allow
            more.
    """
    manifest = active_manifest(site.engine, scenario)
    current = manifest_vectors(site, manifest)
    index = build_index(current.users, current.vectors, _origin(manifest, current), plan)
    return _serve(site, index, manifest)


def update_scenario_index(site: Site, scenario: str, plan: IndexPlan | None = None) -> Update:
    """Bring the index of a scenario up to its newest vectors; the earlier one serves until that succeeds.

    Only changes are built. An index that cannot be read, is of another embedding space, or of which more
    than a tenth has changed, is built again as a whole.

    Args:
        site: offline store, indexes and registry.
        scenario: name of the scenario.
        plan: kind and exactness; None: the defaults.

    Raises:
        NotReady: the scenario has no embeddings or no index yet.
        IndexInvalid: a vector is invalid; run the backfill again.
    """
    manifest = active_manifest(site.engine, scenario)
    served = active_index(site.engine, scenario)
    if served.manifest_id == manifest.id:
        return Update(served, 0, 0, rebuilt=False)
    current = manifest_vectors(site, manifest)
    origin = _origin(manifest, current)
    try:
        before = load_index(site.home.root / served.path, manifest.fingerprint)
    except (IndexInvalid, FingerprintMismatch) as error:
        log.warning("index rebuilt scenario=%s reason=%s", scenario, error.problem)
        row = _serve(site, build_index(current.users, current.vectors, origin, plan), manifest)
        return Update(row, row.rows, 0, rebuilt=True)
    index = update_index(before, current.users, current.vectors, origin, plan)
    removed = before.population - int((before.rows_of(current.users) >= 0).sum())
    changed = sum(len(segment) for segment in index.segments if segment.metadata.is_update)
    rebuilt = changed + len(index.removed) > _REBUILT_SHARE * index.size
    if rebuilt:
        index = build_index(current.users, current.vectors, origin, plan)
    return Update(_serve(site, index, manifest), changed, removed, rebuilt)


def open_scenario_index(site: Site, scenario: str) -> ServedIndex:
    """The index that serves a scenario.

    Args:
        site: indexes and registry.
        scenario: name of the scenario.

    Raises:
        NotReady: none was built yet; run `qanchor-cli index build --scenario`.
        IndexInvalid: its files are damaged; build it again.
    """
    row = active_index(site.engine, scenario)
    began = time.monotonic()
    try:
        index = load_index(site.home.root / row.path, row.fingerprint)
    except IndexInvalid:
        # Since its row was read another index may have replaced this one and deleted its files.
        newer = active_index(site.engine, scenario)
        if newer.version == row.version:
            raise
        row, index = newer, load_index(site.home.root / newer.path, newer.fingerprint)
    seconds = time.monotonic() - began
    return ServedIndex(
        index, row.version, active_manifest(site.engine, scenario).id != row.manifest_id, seconds
    )


def manifest_vectors(site: Site, manifest: EmbeddingManifest) -> CurrentVectors:
    """The newest vector of each user of a manifest.

    Args:
        site: offline store.
        manifest: embedding manifest of one scenario.

    Raises:
        NotReady: rows of it are missing; run the backfill again.
    """
    folder = site.home.root / manifest.path
    rows = generation_rows(folder)
    if not rows or rows != manifest.rows:
        raise NotReady(
            f"the offline store has {rows:,} of the {manifest.rows:,} embeddings of {manifest.scenario!r}",
            f"Run `qanchor-cli backfill --scenario {manifest.scenario}`.",
        )
    return current_vectors(folder, manifest.scenario)


def _origin(manifest: EmbeddingManifest, current: CurrentVectors) -> IndexMetadata:
    return IndexMetadata(manifest.fingerprint, manifest.id, current.as_of.isoformat())


def _serve(site: Site, index: VectorIndex, manifest: EmbeddingManifest) -> IndexVersion:
    folder = site.home.indexes / manifest.scenario
    version = new_version()
    metadata = save_index(index, folder / version)
    row = register_index(
        site.engine,
        IndexVersion(
            version=version,
            scenario=manifest.scenario,
            manifest_id=manifest.id,
            fingerprint=manifest.fingerprint,
            kind=metadata.kind,
            path=str((folder / version).relative_to(site.home.root)),
            rows=metadata.rows,
            recall=metadata.recall,
        ),
    )
    for other in folder.iterdir():
        if other.name != version:
            shutil.rmtree(other, ignore_errors=True)
    return row
