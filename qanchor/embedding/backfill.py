"""Backfill: every scenario's vectors, with the activity and profile of the same moments, in both stores.

The work is a job in shards. Its plan lies in the cache; workers lease shards, and what a finished shard left
is never computed again. A worker that is killed costs its shard; whoever runs the same backfill goes on, on
this machine or on another one with the same home and database. The last one puts the vectors in service.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import pyarrow as pa
from sqlalchemy import select

from qanchor.embedding.gates import GateResult, ScoreShift, failed_gates, judge
from qanchor.embedding.joining import join
from qanchor.embedding.plan import BackfillRequest, Plan, plan_events, remove_plan
from qanchor.embedding.publish import (
    Edition,
    FinishedShard,
    promote,
    write_candidates,
    write_shared,
)
from qanchor.embedding.requests import EmbeddingRequests
from qanchor.embedding.spaces import Space, active_spaces
from qanchor.embedding.worker import WAIT_SECONDS, Engine, ShardTask, Tally, redo_lost_shards, shard_folder
from qanchor.errors import NotReady
from qanchor.events.activity import activity_table, profile_table
from qanchor.events.history import microseconds
from qanchor.files import full_disk_as_error
from qanchor.names import ACTIVITY_VIEW, PROFILE_VIEW
from qanchor.progress import Progress
from qanchor.registry.manifests import ACTIVE, note_manifest
from qanchor.registry.open_jobs import DONE
from qanchor.registry.session import transaction
from qanchor.registry.shards import ShardedJob
from qanchor.registry.tables import EmbeddingManifest, Job
from qanchor.site import Site
from qanchor.storage.event_log import EventSource
from qanchor.workspace import Workspace

log = logging.getLogger(__name__)

_SHARED_ROWS: Final = 200_000


@dataclass(frozen=True)
class BackfillResult:
    """What was written.

    Args:
        job_id: of the backfill.
        as_of: the snapshot's cut-off, UTC; None without a snapshot.
        requests: distinct (user, cut-off) pairs of the job.
        embedded: of these, how many this run encoded.
        seconds: that took.
        manifests: by scenario.
        current_users: users of the snapshot, by scenario.
        set_aside: users that could not be embedded, with the reason.
        blocked: gates that kept a scenario's vectors from service, by scenario.
        warnings: what is allowed but worth a look, one sentence each.
    """

    job_id: int
    as_of: datetime | None
    requests: int
    embedded: int
    seconds: float
    manifests: dict[str, EmbeddingManifest]
    current_users: dict[str, int]
    set_aside: dict[str, str]
    blocked: dict[str, list[GateResult]]
    warnings: tuple[str, ...]


@dataclass
class _Work:
    """One worker's run."""

    request: BackfillRequest
    site: Site
    spaces: Sequence[Space]
    plan: Plan
    job: ShardedJob
    tally: Tally
    blocked: dict[str, list[GateResult]] = field(default_factory=dict)

    @property
    def workspace(self) -> Workspace:
        return self.site.workspace

    @property
    def progress(self) -> Progress:
        return self.tally.progress


def backfill(
    request: BackfillRequest,
    site: Site,
    engine: Engine,
    progress: Progress,
    score_shift: ScoreShift | None = None,
) -> BackfillResult:
    """Embed users for scenarios and put the vectors in service.

    Args:
        request: what is embedded.
        site: where from and where to.
        engine: computes the shards.
        progress: whoever watches.
        score_shift: how far a head's scores move; a gate where it is given.

    Raises:
        NotReady: no model, no events, no labels where they are asked for, or another backfill of the same
            scenarios runs.
        InputError: as_of lies in the future, or before the vectors of another model that are served.
        StateError: the online store took fewer rows than there are.
        DiskFull: free some space and run it again; what is finished stays.
    """
    spaces = active_spaces(site.engine, site.features.workspace, request.scenarios, request.precision)
    progress.start("reading events")
    job, plan, warnings = join(request, site, spaces)
    work = _Work(request, site, spaces, plan, job, Tally(job, progress))
    try:
        job.resume()
        progress.start(f"embedding {len(spaces)} scenarios", len(plan.requests))
        redo_lost_shards(job, plan)
        work.tally.catch_up()
        engine.run(ShardTask(job, plan, site.features.workspace, spaces), work.tally)
        if _lead(work):
            with job.holding(None), full_disk_as_error(site.home.root):
                _put_in_service(work, score_shift)
                job.end()
            remove_plan(site.home, plan.folder.name)
    except BaseException as error:
        job.stop(error)
        raise
    return _result(work, warnings)


def _lead(work: _Work) -> bool:
    """Whether this worker ends the job; otherwise wait until another one has.

    Raises:
        NotReady: the job was cancelled, or given up for another one.
    """
    while not work.job.lead():
        with transaction(work.site.engine) as session:
            key, state = session.execute(select(Job.key, Job.state).where(Job.id == work.job.id)).one()
        if key is None and state == DONE:
            return False
        if key is None:
            raise NotReady(f"job {work.job.id} was {state}", "Start it anew.")
        time.sleep(WAIT_SECONDS)
    return True


def _put_in_service(work: _Work, score_shift: ScoreShift | None) -> None:
    site, request = work.site, work.request
    shards = [
        FinishedShard(
            shard_folder(work.plan, r.result),
            r.result["rows"],
            {name: int(total, 16) for name, total in r.result["totals"].items()},
        )
        for r in work.job.results()
    ]
    edition = Edition(work.job.id, work.spaces, shards, work.plan.as_of, work.plan.ingested_until)
    manifests = write_candidates(edition, site)
    views = _shared_views(work.plan.shared, plan_events(work.plan, site), work.workspace)
    write_shared(views, min(m.id for m in manifests.values()), site, work.progress)
    wanted = current_users(work.plan, request.scenarios)
    work.progress.start("gates", len(manifests))
    for scenario, manifest in manifests.items():
        results = judge(manifest, wanted[scenario], site, score_shift)
        note_manifest(site.engine, manifest, gates={"results": [result.as_json() for result in results]})
        if failed := failed_gates(results):
            work.blocked[scenario] = failed
        work.progress.advance()
    if not request.promote:
        return
    allowed = {n: m for n, m in manifests.items() if request.force or n not in work.blocked}
    due = {name: manifest for name, manifest in allowed.items() if manifest.state != ACTIVE}
    snapshot = work.plan.as_of is not None
    if due:
        promote(due, site, work.progress, online=request.online, shared=list(views) if snapshot else ())


def current_users(plan: Plan, names: Sequence[str]) -> dict[str, int]:
    """Users with a cut-off up to the snapshot's, whom the online store should hold, by scenario."""
    if plan.as_of is None:
        return dict.fromkeys(names, 0)
    due = plan.requests.cutoffs <= microseconds(plan.as_of)
    return {
        name: len(set(plan.requests.users[due & plan.requests.wanted[:, number]]))
        for number, name in enumerate(names)
    }


def _shared_views(
    requests: EmbeddingRequests, source: EventSource, workspace: Workspace
) -> dict[str, Iterator[pa.Table]]:
    def tables(compute: Callable[[EventSource, Workspace, pa.Table], pa.Table]) -> Iterator[pa.Table]:
        for start in range(0, len(requests), _SHARED_ROWS):
            yield compute(source, workspace, requests.table().slice(start, _SHARED_ROWS))

    views = {ACTIVITY_VIEW: tables(activity_table)}
    if workspace.profile_columns:
        views[PROFILE_VIEW] = tables(profile_table)
    return views


def _result(work: _Work, warnings: Sequence[str]) -> BackfillResult:
    with transaction(work.site.engine) as session:
        query = select(EmbeddingManifest).where(EmbeddingManifest.job_id == work.job.id)
        rows = session.scalars(query.order_by(EmbeddingManifest.id)).all()
    found = {row.scenario: row for row in rows}
    aside: dict[str, str] = {}
    for result in work.job.results():
        aside |= result.result["set_aside"]
    return BackfillResult(
        job_id=work.job.id,
        as_of=work.plan.as_of,
        requests=len(work.plan.requests),
        embedded=work.tally.embedded,
        seconds=work.tally.seconds,
        manifests={name: found[name] for name in work.request.scenarios},
        current_users=current_users(work.plan, work.request.scenarios),
        set_aside=aside,
        blocked=work.blocked,
        warnings=tuple(warnings),
    )
