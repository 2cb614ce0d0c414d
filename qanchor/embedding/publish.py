"""Putting computed vectors in service: a folder for each set, one switch, then the row that shows them.

Blue/green: the vectors that serve stay where they are until others are whole and have passed their gates. The
view's folder is a link, so the offline store changes from one moment to the next; the online store is brought
up to it; one transaction makes the manifest active. Killed anywhere in between, `promote` or the next
backfill goes on. Readers that need the two to agree compare the view's fingerprint with the manifest's and
refuse in the meantime.
"""

import logging
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from qanchor.embedding.shard import ShardResult
from qanchor.embedding.spaces import Space
from qanchor.errors import NotReady, StateError
from qanchor.files import sync_folder
from qanchor.names import embedding_view
from qanchor.progress import Progress
from qanchor.registry.manifests import (
    ACTIVE,
    CANDIDATE,
    PROMOTING,
    REMOVED,
    RETIRED,
    activate_manifests,
    active_manifests,
    begin_manifest,
    earlier_manifests,
    kept_manifests,
    note_manifest,
    part_name,
)
from qanchor.registry.tables import EmbeddingManifest
from qanchor.site import Site
from qanchor.storage import checksums, parts
from qanchor.storage.generations import current_vectors, generation_checksum, generation_parts
from qanchor.times import as_utc

log = logging.getLogger(__name__)

_BACKFILL_PART = re.compile(r"^\d{8}-\d{5}$")


@dataclass(frozen=True)
class JobOutput:
    """The vectors that a job has computed, before they have a manifest.

    Args:
        job_id: id of the job.
        shards: results of the shards, in their order.
        as_of: the snapshot's cut-off, UTC; None where there is none.
        ingested_until: arrival of the newest event that was read, UTC.
    """

    job_id: int
    shards: Sequence[ShardResult]
    as_of: datetime | None
    ingested_until: datetime


def new_manifest(
    site: Site, space: Space, output: JobOutput, base: EmbeddingManifest | None = None
) -> EmbeddingManifest:
    """A generation of a scenario's vectors: a folder and a manifest, which nobody reads before promotion.

    Args:
        site: registry and home.
        space: space of the scenario.
        output: the vectors.
        base: manifest whose vectors belong to the generation too; its files are linked.
    """
    row = EmbeddingManifest(
        scenario=space.scenario,
        model_version=space.model.version,
        prompt_version=space.prompt.version if space.prompt else None,
        fingerprint=space.fingerprint,
        width=space.width,
        as_of=_without_zone(output.as_of) if output.as_of else None,
        ingested_until=_without_zone(output.ingested_until),
        rows=0,
        content_hash="",
        path="",
        job_id=output.job_id,
    )
    manifest = begin_manifest(site.engine, row)
    if manifest.state == ACTIVE:
        return manifest  # an earlier try got that far
    folder = site.home.generation(embedding_view(space.scenario), manifest.id)
    parts.ensure_part(folder, parts.embedding_schema(space.scenario))
    rows, totals = 0, []
    if base is not None:
        source = site.home.root / base.path
        for path in generation_parts(source):
            parts.link_part(path, folder, path.stem)
        # A manifest of before checksums has a hash of another form.
        known = base.content_hash if "-" in base.content_hash else generation_checksum(source, space.scenario)
        rows, totals = base.rows, [int(known.split("-")[0], 16)]
    for number, shard in enumerate(output.shards):
        if shard.rows.get(space.scenario):
            source = shard.folder / f"{space.scenario}.parquet"
            parts.link_part(source, folder, part_name(manifest.id, number))
            rows += shard.rows[space.scenario]
            totals.append(shard.totals[space.scenario])
    sync_folder(folder)
    note_manifest(
        site.engine,
        manifest,
        state=CANDIDATE,
        rows=rows,
        content_hash=checksums.checksum(checksums.combined(totals), rows),
        path=str(folder.relative_to(site.home.root)),
    )
    return manifest


def _without_zone(moment: datetime) -> datetime:
    """UTC in the form of the registry."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def write_shared(site: Site, tables: Mapping[str, Iterable[pa.Table]], run: int, progress: Progress) -> None:
    """Write the activity and profile views; a later part wins ties, and earlier parts go when all are there.

    Args:
        site: offline store.
        tables: tables by view, read once, part by part.
        run: number in the parts' names; grows from backfill to backfill.
        progress: shows the progress.
    """
    progress.start("activity and profile", len(tables))
    for view, some in tables.items():
        written = set()
        for number, table in enumerate(some):
            written.add(part_name(run, number))
            site.features.write_part(view, table, part_name(run, number))
        _remove_earlier(site, view, written)
        progress.advance()


def _remove_earlier(site: Site, view: str, written: Set[str]) -> None:
    """Remove what earlier backfills wrote; parts of others, such as a consumer's, stay."""
    present = {path.stem for path in site.home.view(view).glob("*.parquet")}
    foreign = {name for name in present if not _BACKFILL_PART.match(name)}
    site.features.remove_parts(view, foreign | written)


def promote(
    site: Site,
    manifests: Mapping[str, EmbeddingManifest],
    progress: Progress,
    *,
    online: bool = True,
    shared: Sequence[str] = (),
) -> None:
    """Put manifests in service, all at once.

    Args:
        site: registry and both stores.
        manifests: whole manifests by scenario; the caller has judged them.
        progress: shows the progress.
        online: whether the online store is brought up to them.
        shared: views other than the embeddings' that go to the online store with them.

    Raises:
        StateError: the online store took fewer rows than there are; the earlier manifests stay active.
        NotReady: a manifest's files are gone.
    """
    for scenario, manifest in manifests.items():
        if not (site.home.root / manifest.path).is_dir():
            raise NotReady(
                f"the vectors of manifest {manifest.id} are gone",
                f"Run `qanchor-cli backfill --scenario {scenario}`.",
            )
    before = active_manifests(site.engine, list(manifests))
    for manifest in before.values():
        _move_out_of_view(site, manifest)
    for manifest in manifests.values():
        note_manifest(site.engine, manifest, state=PROMOTING)
    _switch(site, manifests)
    if online:
        _materialize(site, manifests, before, shared, progress)
    activate_manifests(site.engine, manifests)
    for scenario in manifests:
        prune(site, scenario)
    log.info("promoted manifests=%s", {name: row.id for name, row in manifests.items()})


def _move_out_of_view(site: Site, manifest: EmbeddingManifest) -> None:
    """Earlier versions kept the vectors that serve in the view's folder itself."""
    view = embedding_view(manifest.scenario)
    folder, target = site.home.view(view), site.home.generation(view, manifest.id)
    if folder.is_symlink() or site.home.root / manifest.path != folder:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)
    parts.switch_folder(folder, target)
    note_manifest(site.engine, manifest, path=str(target.relative_to(site.home.root)))


def _switch(site: Site, manifests: Mapping[str, EmbeddingManifest]) -> None:
    features = site.features
    changed = [m for name, m in manifests.items() if features.fingerprint(name) != m.fingerprint]
    for manifest in changed:
        features.set_fingerprint(manifest.scenario, manifest.fingerprint, manifest.width)
    for scenario, manifest in manifests.items():
        parts.switch_folder(site.home.view(embedding_view(scenario)), site.home.root / manifest.path)
    if changed or not site.home.feast_registry.exists():
        features.apply()


def _materialize(
    site: Site,
    manifests: Mapping[str, EmbeddingManifest],
    before: Mapping[str, EmbeddingManifest],
    shared: Sequence[str],
    progress: Progress,
) -> None:
    """Bring the online store up to the snapshots; views of one moment go together."""
    due: dict[datetime, dict[str, int]] = {}
    for scenario, manifest in manifests.items():
        if manifest.as_of is None:
            continue
        moment = as_utc(manifest.as_of)
        users = len(current_vectors(site.home.root / manifest.path, scenario, moment))
        due.setdefault(moment, {})[embedding_view(scenario)] = users
        served = before.get(scenario)
        if served is not None and served.as_of is not None and served.as_of > manifest.as_of:
            # The online store takes no row that is older than the one it has: a rollback starts it again.
            site.features.clear_online(embedding_view(scenario))
    progress.start("online store", sum(map(len, due.values())) + len(shared))
    for moment, views in due.items():
        online = site.features.materialize([*views, *shared], moment)
        for view, users in views.items():
            if online.get(view, 0) < users:
                raise StateError(
                    f"the online store took {online.get(view, 0):,} of {users:,} users of {view}",
                    "Look at batch_engine in feature_store.yaml, then run the backfill again.",
                )
        progress.advance(len(views) + len(shared))
        shared = ()


def rollback_target(site: Site, scenario: str) -> EmbeddingManifest:
    """The manifest that a rollback returns to.

    Raises:
        NotReady: none has served before, or its files are gone.
    """
    earlier = earlier_manifests(site.engine, [scenario]).get(scenario)
    if earlier is None or not (site.home.root / earlier.path).is_dir():
        raise NotReady(
            f"{scenario} has no earlier embeddings to go back to",
            f"Run `qanchor-cli backfill --scenario {scenario}`.",
        )
    return earlier


def prune(site: Site, scenario: str) -> None:
    """Delete the files of manifests that nothing needs.

    The active one, the one before it, and candidates that are newer than the active one stay.
    """
    kept = kept_manifests(site.engine, scenario)
    active = next((m for m in reversed(kept) if m.state == ACTIVE), None)
    before = earlier_manifests(site.engine, [scenario]).get(scenario)
    served = site.home.view(embedding_view(scenario)).resolve()
    for manifest in kept:
        old_candidate = manifest.state == CANDIDATE and active is not None and manifest.id < active.id
        old_retired = manifest.state == RETIRED and (before is None or manifest.id != before.id)
        folder = site.home.root / manifest.path
        if (old_candidate or old_retired) and folder.resolve() != served:
            note_manifest(site.engine, manifest, state=REMOVED)
            shutil.rmtree(folder, ignore_errors=True)
