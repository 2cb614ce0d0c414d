"""Embedding manifests: the row that makes a set of vectors visible to readers.

'building' while its parts are written, 'active' once every store holds it, 'retired' when a later
one took over, 'failed' when the run that built it never ended.
"""

from collections.abc import Sequence

from sqlalchemy import Engine, Update, select, update

from qanchor.errors import NotReady
from qanchor.registry.session import transaction
from qanchor.registry.tables import EmbeddingManifest

BUILDING, ACTIVE, RETIRED, FAILED = "building", "active", "retired", "failed"


def part_name(manifest_id: int, number: int) -> str:
    """The name of one part file of a manifest's vectors; names sort by manifest, so a later one wins ties."""
    return f"{manifest_id:08d}-{number:05d}"


def active_manifest(engine: Engine, scenario: str) -> EmbeddingManifest:
    """The vectors that serve a scenario.

    Raises:
        NotReady: none were written yet; run `qanchor-cli backfill --scenario`.
    """
    found = active_manifests(engine, [scenario])
    if scenario not in found:
        raise NotReady(
            f"there are no embeddings of {scenario!r} yet",
            f"Run `qanchor-cli backfill --scenario {scenario}`.",
        )
    return found[scenario]


def active_manifests(engine: Engine, scenarios: Sequence[str]) -> dict[str, EmbeddingManifest]:
    """The active manifest of every scenario that has one, in the order asked for."""
    query = select(EmbeddingManifest).where(EmbeddingManifest.state == ACTIVE).order_by(EmbeddingManifest.id)
    with transaction(engine) as session:
        rows = {row.scenario: row for row in session.scalars(query)}
    return {name: rows[name] for name in scenarios if name in rows}


def begin_manifest(engine: Engine, manifest: EmbeddingManifest) -> EmbeddingManifest:
    """Record a set of vectors that is about to be written; readers do not see it yet."""
    manifest.state = BUILDING
    with transaction(engine) as session:
        session.execute(_of(manifest.scenario, BUILDING).values(state=FAILED))
        session.add(manifest)
    return manifest


def activate_manifest(engine: Engine, manifest: EmbeddingManifest, rows: int, content_hash: str) -> None:
    """Make a finished set visible and retire the earlier one, in one transaction."""
    manifest.state, manifest.rows, manifest.content_hash = ACTIVE, rows, content_hash
    with transaction(engine) as session:
        session.execute(_of(manifest.scenario, ACTIVE).values(state=RETIRED))
        session.execute(
            update(EmbeddingManifest)
            .where(EmbeddingManifest.id == manifest.id)
            .values(state=ACTIVE, rows=rows, content_hash=content_hash)
        )


def withdraw_manifest(engine: Engine, scenario: str) -> None:
    """Retire the active set before its successor is whole, where the two must not be seen together."""
    with transaction(engine) as session:
        session.execute(_of(scenario, ACTIVE).values(state=RETIRED))


def _of(scenario: str, state: str) -> Update:
    return update(EmbeddingManifest).where(
        EmbeddingManifest.scenario == scenario, EmbeddingManifest.state == state
    )
