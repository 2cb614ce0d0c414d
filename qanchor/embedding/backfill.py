"""Backfill: every scenario's vectors, with the activity and profile of the same moments, in both stores.

The work is a job in shards. Its plan is kept in the cache; workers lease shards, and what a finished shard
has written is never computed again. A worker that is killed costs its shard; the same backfill, run again on
this machine or on another one with the same home and database, goes on. The last worker puts the vectors in
service.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import pyarrow as pa
from sqlalchemy import select

from qanchor.embedding.gates import GateResult, ScoreShift, failed_gates, judge
from qanchor.embedding.job import BackfillJob, BackfillRequest, current_users, join
from qanchor.embedding.plan import remove_plan
from qanchor.embedding.publish import JobOutput, new_manifest, promote, write_shared
from qanchor.embedding.spaces import active_spaces, load_embedder
from qanchor.embedding.worker import (
    WAIT_SECONDS,
    Engine,
    LocalEngine,
    WorkerProgress,
    finished_shards,
    redo_lost_shards,
)
from qanchor.errors import NotReady
from qanchor.events.activity import activity_table, profile_table
from qanchor.files import full_disk_as_error
from qanchor.names import ACTIVITY_VIEW, PROFILE_VIEW
from qanchor.progress import Progress
from qanchor.registry.jobs import DONE
from qanchor.registry.manifests import ACTIVE, note_manifest
from qanchor.registry.session import transaction
from qanchor.registry.tables import EmbeddingManifest, Job
from qanchor.site import Site
from qanchor.storage.event_log import EventSource
from qanchor.workspace import Workspace


@dataclass(frozen=True)
class BackfillResult:
    """What was written.

    Args:
        job_id: id of the job.
        as_of: the snapshot's cut-off, UTC; None without a snapshot.
        pairs: distinct (user, cut-off) pairs of the job.
        embedded: pairs of these that this run has embedded.
        seconds: time that took.
        manifests: manifests by scenario.
        current_users: users of the snapshot, by scenario.
        set_aside: users that could not be embedded, with the reason.
        blocked: gates that kept a scenario's vectors from service, by scenario.
        warnings: what is allowed but worth a look, one sentence each.
    """

    job_id: int
    as_of: datetime | None
    pairs: int
    embedded: int
    seconds: float
    manifests: dict[str, EmbeddingManifest]
    current_users: dict[str, int]
    set_aside: dict[str, str]
    blocked: dict[str, list[GateResult]]
    warnings: tuple[str, ...]


def backfill(
    site: Site,
    request: BackfillRequest,
    progress: Progress,
    engine: Engine | None = None,
    score_shift: ScoreShift | None = None,
) -> BackfillResult:
    """Embed users for scenarios and put the vectors in service.

    Args:
        site: event log, registry and both stores.
        request: what is embedded.
        progress: shows the progress.
        engine: computes the shards; default: this process, with the registered model.
        score_shift: how far a head's scores move, which is a gate; default: no such gate.

    Raises:
        NotReady: no model, no events, no labels although only these were requested, or another backfill
            runs.
        InputError: as_of lies in the future, or before the served vectors of another model.
        StateError: the online store took fewer rows than there are.
        DiskFull: free some space and run it again; what is finished stays.
    """
    spaces = active_spaces(site, request.scenarios, request.precision)
    progress.start("reading events")
    job = join(site, request, spaces)
    shards, plan = job.shards, job.plan
    worker, blocked = WorkerProgress(shards, progress), dict[str, list[GateResult]]()
    try:
        shards.resume()
        progress.start(f"embedding {len(spaces)} scenarios", len(plan.pairs))
        redo_lost_shards(job)
        worker.catch_up()
        (engine or LocalEngine(partial(load_embedder, site))).run(job, worker)
        if _lead(site, job):
            with shards.holding(None), full_disk_as_error(site.home.root):
                blocked = _put_in_service(site, request, job, progress, score_shift)
                shards.end()
            remove_plan(site.home, plan.folder.name)
    except BaseException as error:
        shards.stop(error)
        raise
    manifests = _manifests_of(site, shards.id)
    return BackfillResult(
        job_id=shards.id,
        as_of=plan.as_of,
        pairs=len(plan.pairs),
        embedded=worker.embedded,
        seconds=worker.seconds,
        manifests={name: manifests[name] for name in request.scenarios},
        current_users=current_users(plan, request.scenarios),
        set_aside={
            user: reason
            for result in finished_shards(job).values()
            for user, reason in result.set_aside.items()
        },
        blocked=blocked,
        warnings=tuple(job.warnings),
    )


def _lead(site: Site, job: BackfillJob) -> bool:
    """Whether this worker ends the job; otherwise wait until another one has.

    Raises:
        NotReady: the job was cancelled, or given up for another one.
    """
    while not job.shards.lead():
        with transaction(site.engine) as session:
            key, state = session.execute(select(Job.key, Job.state).where(Job.id == job.shards.id)).one()
        if key is None and state == DONE:
            return False
        if key is None:
            raise NotReady(f"job {job.shards.id} was {state}", "Start it again.")
        time.sleep(WAIT_SECONDS)
    return True


def _put_in_service(
    site: Site,
    request: BackfillRequest,
    job: BackfillJob,
    progress: Progress,
    score_shift: ScoreShift | None,
) -> dict[str, list[GateResult]]:
    """The gates that keep vectors from service, by scenario."""
    plan = job.plan
    output = JobOutput(job.shards.id, list(finished_shards(job).values()), plan.as_of, plan.ingested_until)
    manifests = {space.scenario: new_manifest(site, space, output) for space in job.spaces}
    views = _shared_views(plan.shared.table(), plan.source(site), site.workspace, request.part_rows)
    write_shared(site, views, min(manifest.id for manifest in manifests.values()), progress)
    blocked = _judge(site, manifests, current_users(plan, request.scenarios), progress, score_shift)
    if request.promote:
        allowed = {n: m for n, m in manifests.items() if request.force or n not in blocked}
        due = {name: manifest for name, manifest in allowed.items() if manifest.state != ACTIVE}
        if due:
            shared = [] if plan.as_of is None else list(views)
            promote(site, due, progress, online=request.online, shared=shared)
    return blocked


def _judge(
    site: Site,
    manifests: Mapping[str, EmbeddingManifest],
    users: Mapping[str, int],
    progress: Progress,
    score_shift: ScoreShift | None,
) -> dict[str, list[GateResult]]:
    blocked = {}
    progress.start("gates", len(manifests))
    for scenario, manifest in manifests.items():
        results = judge(site, manifest, users[scenario], score_shift)
        note_manifest(site.engine, manifest, gates={"results": [result.as_json() for result in results]})
        if failed := failed_gates(results):
            blocked[scenario] = failed
        progress.advance()
    return blocked


def _shared_views(
    pairs: pa.Table, source: EventSource, workspace: Workspace, part_rows: int
) -> dict[str, Iterator[pa.Table]]:
    """Activity and profile, part by part, by view."""

    def tables(compute: Callable[[EventSource, Workspace, pa.Table], pa.Table]) -> Iterator[pa.Table]:
        for start in range(0, len(pairs), part_rows):
            yield compute(source, workspace, pairs.slice(start, part_rows))

    views = {ACTIVITY_VIEW: tables(activity_table)}
    if workspace.profile_columns:
        views[PROFILE_VIEW] = tables(profile_table)
    return views


def _manifests_of(site: Site, job_id: int) -> dict[str, EmbeddingManifest]:
    query = select(EmbeddingManifest).where(EmbeddingManifest.job_id == job_id)
    with transaction(site.engine) as session:
        rows: Sequence[EmbeddingManifest] = session.scalars(query.order_by(EmbeddingManifest.id)).all()
    return {row.scenario: row for row in rows}
