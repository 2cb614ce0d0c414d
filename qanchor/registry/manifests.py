"""Embedding manifests: the row that makes a set of vectors visible to readers.

'building' while its parts are written, 'candidate' when they are whole, 'promoting' while the stores are
switched to it, 'active' once every store holds it, 'retired' when another replaced it (and kept for a
rollback), 'failed' when the run that built it never ended, 'removed' when its files are deleted.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Engine, select, update

from qanchor.errors import NotReady
from qanchor.registry.session import transaction
from qanchor.registry.tables import EmbeddingManifest, utc_now

BUILDING, CANDIDATE, PROMOTING = "building", "candidate", "promoting"
ACTIVE, RETIRED, FAILED, REMOVED = "active", "retired", "failed", "removed"
_KEPT = (CANDIDATE, PROMOTING, ACTIVE, RETIRED)


def part_name(manifest_id: int, number: int) -> str:
    """The name of one part file; names sort by manifest, so a later one wins ties."""
    return f"{manifest_id:08d}-{number:05d}"


def active_manifest(engine: Engine, scenario: str) -> EmbeddingManifest:
    """The vectors that serve a scenario.

    Raises:
        NotReady: none were written yet; run `qanchor-cli backfill --scenario`.
    """
    active = active_manifests(engine, [scenario])
    if scenario not in active:
        raise NotReady(
            f"there are no embeddings of {scenario!r} yet",
            f"Run `qanchor-cli backfill --scenario {scenario}`.",
        )
    return active[scenario]


def active_manifests(engine: Engine, scenarios: Sequence[str]) -> dict[str, EmbeddingManifest]:
    """The active manifest of every scenario that has one, in the order of `scenarios`."""
    return _newest(engine, scenarios, (ACTIVE,))


def waiting_manifests(engine: Engine, scenarios: Sequence[str]) -> dict[str, EmbeddingManifest]:
    """The newest manifest of each scenario that is complete but not active: never promoted, or interrupted
    while it was promoted."""
    return _newest(engine, scenarios, (CANDIDATE, PROMOTING))


def earlier_manifests(engine: Engine, scenarios: Sequence[str]) -> dict[str, EmbeddingManifest]:
    """The manifest that served each scenario before the active one and still has its files."""
    query = select(EmbeddingManifest).where(EmbeddingManifest.state == RETIRED)
    with transaction(engine) as session:
        rows = session.scalars(query.order_by(EmbeddingManifest.activated_at, EmbeddingManifest.id)).all()
    earlier = {row.scenario: row for row in rows if row.activated_at is not None}
    return {name: earlier[name] for name in scenarios if name in earlier}


def kept_manifests(engine: Engine, scenario: str) -> list[EmbeddingManifest]:
    """Manifests of a scenario whose files are kept, the oldest first."""
    query = select(EmbeddingManifest).where(
        EmbeddingManifest.scenario == scenario, EmbeddingManifest.state.in_(_KEPT)
    )
    with transaction(engine) as session:
        return list(session.scalars(query.order_by(EmbeddingManifest.id)))


def find_manifest(engine: Engine, manifest_id: int) -> EmbeddingManifest:
    """The manifest of an id.

    Raises:
        NotReady: there is none.
    """
    with transaction(engine) as session:
        row = session.get(EmbeddingManifest, manifest_id)
    if row is None:
        raise NotReady(f"there is no manifest {manifest_id}", "`qanchor-cli manifests list` shows them.")
    return row


def _newest(engine: Engine, scenarios: Sequence[str], states: Sequence[str]) -> dict[str, EmbeddingManifest]:
    query = (
        select(EmbeddingManifest).where(EmbeddingManifest.state.in_(states)).order_by(EmbeddingManifest.id)
    )
    with transaction(engine) as session:
        rows = {row.scenario: row for row in session.scalars(query)}
    return {name: rows[name] for name in scenarios if name in rows}


def begin_manifest(engine: Engine, manifest: EmbeddingManifest) -> EmbeddingManifest:
    """Record a set of vectors that is about to be written; readers do not see it yet.

    A manifest that the same job began is continued, in whatever state; others that are being built have
    failed.
    """
    with transaction(engine) as session:
        of_scenario = EmbeddingManifest.scenario == manifest.scenario
        begun = session.scalar(
            select(EmbeddingManifest).where(
                of_scenario,
                EmbeddingManifest.state.in_((BUILDING, *_KEPT)),
                EmbeddingManifest.job_id.is_not(None),
                EmbeddingManifest.job_id == manifest.job_id,
                EmbeddingManifest.fingerprint == manifest.fingerprint,
            )
        )
        session.execute(
            update(EmbeddingManifest)
            .where(of_scenario, EmbeddingManifest.state == BUILDING)
            .where(EmbeddingManifest.id != (begun.id if begun else 0))
            .values(state=FAILED)
        )
        if begun is not None:
            return begun
        manifest.state = BUILDING
        session.add(manifest)
    return manifest


def note_manifest(engine: Engine, manifest: EmbeddingManifest, **values: object) -> None:
    """Change columns of a manifest's row, and of the object."""
    for name, value in values.items():
        setattr(manifest, name, value)
    with transaction(engine) as session:
        session.execute(update(EmbeddingManifest).where(EmbeddingManifest.id == manifest.id).values(**values))


def activate_manifests(engine: Engine, manifests: Mapping[str, EmbeddingManifest]) -> None:
    """Make whole sets visible and retire the earlier ones, all in one transaction."""
    now = utc_now()
    with transaction(engine) as session:
        for scenario, manifest in manifests.items():
            session.execute(
                update(EmbeddingManifest)
                .where(
                    EmbeddingManifest.scenario == scenario,
                    EmbeddingManifest.state.in_((ACTIVE, PROMOTING)),
                    EmbeddingManifest.id != manifest.id,
                )
                .values(state=RETIRED)
            )
            session.execute(
                update(EmbeddingManifest)
                .where(EmbeddingManifest.id == manifest.id)
                .values(state=ACTIVE, activated_at=now)
            )
            manifest.state, manifest.activated_at = ACTIVE, now
