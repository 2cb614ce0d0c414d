"""Putting computed vectors in service: offline parts, online rows, then the manifest that shows them.

The order is what makes a kill harmless. Vectors of the space that serves already may stand beside
their predecessors for a while: names sort by manifest, so the later row wins. Vectors of another
space may not: their scenario is withdrawn first, so that readers are told to run the backfill, and comes
back when the earlier parts are gone.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
from sqlalchemy import Engine

from qanchor.embedding.spaces import Space
from qanchor.embedding.staging import StagedVectors
from qanchor.errors import StateError
from qanchor.home import Home
from qanchor.names import embedding_view
from qanchor.progress import Progress
from qanchor.registry.manifests import (
    activate_manifest,
    active_manifests,
    begin_manifest,
    part_name,
    withdraw_manifest,
)
from qanchor.registry.tables import EmbeddingManifest
from qanchor.storage.features import FeatureRepository

log = logging.getLogger(__name__)

_OUR_PART = re.compile(r"^\d{8}-\d{5}$")


@dataclass(frozen=True)
class Surroundings:
    """Where a backfill reads and writes.

    Args:
        home: of all state.
        engine: the registry.
        features: Feast.
    """

    home: Home
    engine: Engine
    features: FeatureRepository


@dataclass(frozen=True)
class Edition:
    """Everything that one backfill puts in service at once.

    Args:
        spaces: one per scenario.
        vectors: computed rows, by scenario.
        shared: tables of the activity and profile views, by view; read once, part by part.
        as_of: the snapshot's cut-off, UTC; None where there is none.
        current_users: users of the snapshot, by view; what the online store must hold. Empty: not written.
    """

    spaces: Sequence[Space]
    vectors: Mapping[str, StagedVectors]
    shared: Mapping[str, Iterable[pa.Table]]
    as_of: datetime | None
    current_users: Mapping[str, int] = field(default_factory=dict)


def publish(edition: Edition, place: Surroundings, progress: Progress) -> dict[str, EmbeddingManifest]:
    """Put an edition in service.

    Returns:
        The active manifest of each scenario.

    Raises:
        StateError: the online store took fewer rows than there are; the earlier manifests stay active.
    """
    active = active_manifests(place.engine, [space.scenario for space in edition.spaces])
    same = {s.scenario for s in edition.spaces if _serves_already(s, active.get(s.scenario))}
    manifests = _begin(edition, place, same)
    _declare_spaces(edition.spaces, place)
    run = min(manifest.id for manifest in manifests.values())
    written = _write(edition, place, manifests, run, progress)
    for scenario in manifests.keys() - same:
        _remove_earlier(place, embedding_view(scenario), written[embedding_view(scenario)])
    if edition.current_users and edition.as_of is not None:
        _materialize(edition, place, edition.as_of, progress)
    for scenario, manifest in manifests.items():
        staged = edition.vectors[scenario]
        activate_manifest(place.engine, manifest, staged.rows, staged.content_hash)
    for view, names in written.items():
        _remove_earlier(place, view, names)
    log.info("published run=%d scenarios=%d", run, len(manifests))
    return manifests


def _serves_already(space: Space, active: EmbeddingManifest | None) -> bool:
    return active is not None and active.fingerprint == space.fingerprint


def _begin(edition: Edition, place: Surroundings, same: Set[str]) -> dict[str, EmbeddingManifest]:
    manifests = {}
    for space in edition.spaces:
        if space.scenario not in same:
            withdraw_manifest(place.engine, space.scenario)
        as_of = edition.as_of.astimezone(UTC).replace(tzinfo=None) if edition.as_of else None
        folder = place.home.view(embedding_view(space.scenario))
        row = EmbeddingManifest(
            scenario=space.scenario,
            model_version=space.model.version,
            prompt_version=space.prompt.version if space.prompt else None,
            fingerprint=space.fingerprint,
            as_of=as_of,
            rows=edition.vectors[space.scenario].rows,
            content_hash="",
            path=str(folder.relative_to(place.home.root)),
        )
        manifests[space.scenario] = begin_manifest(place.engine, row)
    return manifests


def _declare_spaces(spaces: Sequence[Space], place: Surroundings) -> None:
    changed = [s for s in spaces if place.features.fingerprint(s.scenario) != s.fingerprint]
    for space in changed:
        place.features.set_fingerprint(space.scenario, space.fingerprint)
    if changed or not place.home.feast_registry.exists():
        place.features.apply()


def _write(
    edition: Edition,
    place: Surroundings,
    manifests: Mapping[str, EmbeddingManifest],
    run: int,
    progress: Progress,
) -> dict[str, set[str]]:
    """Write all parts; the names of each view's."""
    progress.start("offline store", len(edition.vectors) + len(edition.shared))
    written: dict[str, set[str]] = {}
    sources: list[tuple[str, int, Iterable[pa.Table]]] = [
        *((view, run, tables) for view, tables in edition.shared.items()),
        *((embedding_view(name), manifests[name].id, rows.parts()) for name, rows in edition.vectors.items()),
    ]
    for view, owner, tables in sources:
        names = written.setdefault(view, set())
        for number, table in enumerate(tables):
            names.add(part_name(owner, number))
            place.features.write_part(view, table, part_name(owner, number))
        progress.advance()
    return written


def _materialize(edition: Edition, place: Surroundings, end: datetime, progress: Progress) -> None:
    progress.start("online store", len(edition.current_users))
    online = place.features.materialize(list(edition.current_users), end)
    for view, users in edition.current_users.items():
        if online.get(view, 0) < users:
            raise StateError(
                f"the online store took {online.get(view, 0):,} of {users:,} users of {view}",
                "Look at batch_engine in feature_store.yaml, then run the backfill again.",
            )
        progress.advance()


def _remove_earlier(place: Surroundings, view: str, written: Set[str]) -> None:
    """Remove what earlier backfills wrote; parts of others, such as a consumer's, stay."""
    parts = {path.stem for path in place.home.view(view).glob("*.parquet")}
    foreign = {name for name in parts if not _OUR_PART.match(name)}
    place.features.remove_parts(view, foreign | written)
