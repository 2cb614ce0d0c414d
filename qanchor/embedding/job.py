"""The job of a backfill: the unfinished one of the same request, or a new one that is planned here."""

import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import select

from qanchor.embedding.pairs import Pairs, just_after, pairs_table, union_of
from qanchor.embedding.plan import Plan, plans_folder, read_plan, remove_plan
from qanchor.embedding.spaces import FLOAT32, Space
from qanchor.errors import InputError, NotReady, QAnchorError
from qanchor.events.labels import read_labels
from qanchor.home import Home
from qanchor.names import AS_OF, USER_ID
from qanchor.registry.jobs import (
    INTERRUPTED,
    close_job,
    find_open_job,
    is_worked_on,
    open_job,
    record_failure,
)
from qanchor.registry.manifests import active_manifests
from qanchor.registry.session import transaction
from qanchor.registry.shards import ShardedJob
from qanchor.registry.tables import Job
from qanchor.site import Site
from qanchor.storage.event_log import (
    EventSource,
    UserCopy,
    UserRange,
    keep_copy,
    remove_copies,
    sort_by_user,
)
from qanchor.times import as_utc, from_microseconds, now, to_microseconds
from qanchor.workspace import Workspace

log = logging.getLogger(__name__)

KIND: Final = "backfill"
SHARD_USERS: Final = 8_192
_PART_ROWS: Final = 200_000
_SECOND_US: Final = 1_000_000


@dataclass(frozen=True)
class BackfillRequest:
    """What is embedded.

    Args:
        scenarios: names of the scenarios.
        as_of: cut-off of the current snapshot, UTC; None: just after the newest event.
        labels_only: no snapshot, only the times of the labels.
        online: whether the snapshot goes to the online store too.
        promote: whether vectors that pass their gates are put in service at once.
        force: whether vectors are put in service even where a gate fails.
        shard_users: users of a shard, which is what a kill costs.
        precision: number format of the model: float32, bfloat16 or int8; part of the embedding space.
        copy_events: whether a copy of the log by user is kept in the cache, for refreshes.
        part_rows: rows of one part file of activity and profile.
    """

    scenarios: Sequence[str]
    as_of: datetime | None = None
    labels_only: bool = False
    online: bool = True
    promote: bool = True
    force: bool = False
    shard_users: int = SHARD_USERS
    precision: str = FLOAT32
    copy_events: bool = True
    part_rows: int = _PART_ROWS

    def key(self, spaces: Sequence[Space], label_hashes: Sequence[str]) -> str:
        """A hash of the request: two backfills of one key are one job.

        Promotion is no part of it: the worker that ends the job decides, on the same vectors.

        Args:
            spaces: spaces of the scenarios.
            label_hashes: content hashes of the label files.
        """
        content = [
            *sorted((space.scenario, space.fingerprint) for space in spaces),
            str(self.as_of),
            *label_hashes,
        ]
        options = [self.labels_only, self.online, self.shard_users]
        return hashlib.sha256(json.dumps([content, options]).encode()).hexdigest()

    def parameters(self) -> dict[str, Any]:
        """The request as the registry shows it; JSON."""
        return {
            "scenarios": list(self.scenarios),
            "as_of": str(self.as_of) if self.as_of else None,
            "labels_only": self.labels_only,
        }


@dataclass(frozen=True)
class BackfillJob:
    """An unfinished backfill that this worker takes part in.

    Args:
        shards: leases on the job's shards.
        plan: pairs and events of each shard.
        spaces: one per scenario, in the order of the plan's pairs.
        workspace: the window and its limits.
        warnings: what is allowed but worth a look, one sentence each.
    """

    shards: ShardedJob
    plan: Plan
    spaces: Sequence[Space]
    workspace: Workspace
    warnings: Sequence[str] = ()


def join(site: Site, request: BackfillRequest, spaces: Sequence[Space]) -> BackfillJob:
    """Join the unfinished job of the same request, or plan a new one.

    Args:
        site: registry, event log, labels and cache.
        request: what is embedded.
        spaces: spaces of the scenarios.

    Raises:
        NotReady: no events, no labels although only these were requested, or another backfill runs.
        InputError: as_of lies in the future, or before the served vectors of another model.
    """
    try:
        return _join(site, request, spaces)
    except QAnchorError as error:
        record_failure(site.engine, KIND, request.parameters(), error)
        raise


def _join(site: Site, request: BackfillRequest, spaces: Sequence[Space]) -> BackfillJob:
    key = request.key(spaces, _label_hashes(site.home))
    unfinished = find_open_job(site.engine, key)
    if unfinished is not None:
        plan = read_plan(plans_folder(site.home) / unfinished.parameters["folder"])
        if plan is not None:
            log.info("resumed job=%d", unfinished.id)
            warnings = _check_order(site, request, spaces, plan.as_of)
            shards = ShardedJob(site.engine, unfinished.id)
            return BackfillJob(shards, plan, spaces, site.workspace, warnings)
        close_job(site.engine, unfinished.id, INTERRUPTED)  # its cache was emptied: begin again
    _refuse_others(site)
    plan = _make_plan(site, request)
    try:
        warnings = _check_order(site, request, spaces, plan.as_of)
    except InputError:
        remove_plan(site.home, plan.folder.name)
        raise
    parameters = {**request.parameters(), "folder": plan.folder.name}
    job_id = open_job(site.engine, KIND, key, parameters, plan.sizes)
    if _plan_of(site, job_id) != plan.folder.name:
        remove_plan(site.home, plan.folder.name)
        return _join(site, request, spaces)  # another worker was first: join it
    _refuse_others(site, but=job_id)
    return BackfillJob(ShardedJob(site.engine, job_id), plan, spaces, site.workspace, warnings)


def _label_hashes(home: Home) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(home.labels.glob("*.parquet"))]


def _plan_of(site: Site, job_id: int) -> str:
    with transaction(site.engine) as session:
        return str(session.execute(select(Job.parameters).where(Job.id == job_id)).scalar_one()["folder"])


def _refuse_others(site: Site, but: int | None = None) -> None:
    """Refuse the later of two different backfills; one whose workers are dead is ended.

    Also of other scenarios: activity and profile are written for all of them.
    """
    with transaction(site.engine) as session:
        unfinished = list(session.scalars(select(Job).where(Job.kind == KIND, Job.key.is_not(None))))
    for job in unfinished:
        if but is not None and job.id >= but:
            continue
        if not is_worked_on(site.engine, job.id):
            close_job(site.engine, job.id, INTERRUPTED)
            remove_plan(site.home, job.parameters["folder"])
            continue
        if but is not None:
            close_job(site.engine, but, INTERRUPTED)
        raise NotReady(
            f"another backfill is running, job {job.id}",
            f"Wait for it, or run `qanchor-cli jobs cancel {job.id}`.",
        )


def _check_order(
    site: Site, request: BackfillRequest, spaces: Sequence[Space], as_of: datetime | None
) -> list[str]:
    """Warnings; the online store never goes back in time, so another model's vectors must not be newer."""
    warnings = [
        f"the prompt of {space.scenario} was tuned on an earlier model and is left out: "
        f"run `qanchor-cli tune --scenario {space.scenario}`"
        for space in spaces
        if space.stale_prompt
    ]
    active = active_manifests(site.engine, [space.scenario for space in spaces])
    for space in spaces:
        served = active.get(space.scenario)
        if served is None or served.as_of is None or served.fingerprint == space.fingerprint:
            continue
        if as_of is None or not request.online:
            warnings.append(
                f"the online store keeps vectors of an earlier model or prompt of {space.scenario}"
            )
        elif as_utc(served.as_of) > as_of:
            raise InputError(
                f"{space.scenario} has vectors of an earlier model as of {served.as_of}, after {as_of}",
                "Choose a later --as-of, or add --no-online.",
            )
    return warnings


def _make_plan(site: Site, request: BackfillRequest) -> Plan:
    """Settle what is computed and write it to a new folder of the cache."""
    names, scenarios = list(request.scenarios), site.workspace.scenarios
    copy = _copy_by_user(site, request)
    source = copy or site.event_log
    extent = _extent(source)
    labelled = {name: _label_pairs(site.home, name) for name in scenarios}
    for name in names:
        if request.labels_only and not labelled[name].num_rows:
            raise NotReady(f"scenario {name} has no labels", f"Run `qanchor-cli labels load {name} FILE`.")
    as_of = None if request.labels_only else _snapshot_moment(request.as_of, extent.newest)
    snapshot = [] if as_of is None else [extent.snapshot(as_of)]
    if snapshot and not snapshot[0].num_rows:
        raise InputError(f"no user has an event before {as_of:%Y-%m-%d %H:%M:%S}", "Choose a later --as-of.")
    pairs = union_of({n: [labelled[name], *snapshot] for n, name in enumerate(names)}, len(names))
    # Activity and profile serve every scenario: the moments of scenarios that are not embedded stay covered.
    others = active_manifests(site.engine, [name for name in scenarios if name not in names])
    moments = {as_utc(manifest.as_of) for manifest in others.values() if manifest.as_of is not None}
    shared = [*labelled.values(), *map(extent.snapshot, moments), *snapshot]
    folder, bounds = plans_folder(site.home) / secrets.token_hex(6), _bounds(pairs, request.shard_users)
    folder.mkdir(parents=True)
    try:
        plan = Plan(
            folder,
            pairs,
            union_of({0: shared}, 1),
            as_of,
            bounds,
            _split_events(source, site.workspace, pairs, bounds, folder / "events"),
            extent.ingested_until,
            copy.folder.name if copy else None,
        )
        plan.write()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return plan


def _copy_by_user(site: Site, request: BackfillRequest) -> UserCopy | None:
    """The log by user; everything else is read from it too, because it need not be searched for repeats."""
    if request.copy_events:
        return keep_copy(site.event_log, site.home.events_by_user)
    remove_copies(site.home.events_by_user)
    return None


@dataclass(frozen=True)
class _Extent:
    """How far an event log reaches.

    Args:
        users: object [users], ascending.
        first: int64 [users], time of each user's first event, microseconds UTC.
        newest: time of the newest event, UTC.
        ingested_until: arrival of the event that arrived last, UTC.
    """

    users: pa.Array
    first: pa.Array
    newest: datetime
    ingested_until: datetime

    def snapshot(self, moment: datetime) -> pa.Table:
        """The pairs of all users with an event before a moment."""
        cutoff = to_microseconds(moment)
        users = self.users.filter(pc.less(self.first, cutoff))
        ids = users.to_numpy(zero_copy_only=False)
        return pairs_table(ids, np.full(len(users), cutoff, np.int64))


def _extent(source: EventSource) -> _Extent:
    query = """
        SELECT user_id, epoch_us(min(event_time)) AS first, epoch_us(max(event_time)) AS last,
            epoch_us(max(_ingested_at)) AS ingested
        FROM events GROUP BY user_id ORDER BY user_id
    """
    with source.connect() as connection:
        table = connection.execute(query).to_arrow_table()
    if not table.num_rows:
        raise NotReady(
            "the event log is empty", "Run `qanchor-cli events load FILE` or `qanchor-cli consume`."
        )
    newest, ingested = (from_microseconds(pc.max(table[name]).as_py()) for name in ("last", "ingested"))
    return _Extent(table["user_id"].combine_chunks(), table["first"].combine_chunks(), newest, ingested)


def _label_pairs(home: Home, scenario: str) -> pa.Table:
    if not (home.labels / f"{scenario}.parquet").exists():
        return pairs_table([], np.empty(0, np.int64))
    return read_labels(home, scenario).table.select([USER_ID, AS_OF])


def _snapshot_moment(as_of: datetime | None, newest: datetime) -> datetime:
    if as_of is None:
        return just_after(newest)
    if as_utc(as_of) > now() + timedelta(days=1):
        raise InputError(f"--as-of {as_utc(as_of):%Y-%m-%d} lies in the future", "Choose a moment up to now.")
    return as_utc(as_of)


def _bounds(pairs: Pairs, shard_users: int) -> list[int]:
    """Rows at which shards begin: no user is in two of them, so that a history is loaded once."""
    if not len(pairs):
        return [0]
    first = np.flatnonzero(np.concatenate([[True], pairs.users[1:] != pairs.users[:-1]]))
    return [*first[::shard_users].tolist(), len(pairs)]


def _split_events(
    source: EventSource | UserCopy, workspace: Workspace, pairs: Pairs, bounds: Sequence[int], folder: Path
) -> list[UserRange]:
    """The events of every shard, from one scan of the log: later arrivals cannot change half of a job."""
    if not len(pairs):
        return []
    firsts = [str(pairs.users[bound]) for bound in bounds[:-1]]
    before = from_microseconds((int(pairs.cutoffs.max()) // _SECOND_US + 1) * _SECOND_US)
    oldest = from_microseconds(int(pairs.cutoffs.min()) // _SECOND_US * _SECOND_US)
    after = oldest - timedelta(days=workspace.window_days)
    events = source.parts if isinstance(source, UserCopy) else source
    return sort_by_user(events, workspace, folder, firsts, before=before, after=after)


def current_users(plan: Plan, scenarios: Sequence[str]) -> dict[str, int]:
    """Users with a cut-off up to the snapshot's, who belong in the online store, by scenario."""
    if plan.as_of is None:
        return dict.fromkeys(scenarios, 0)
    due = plan.pairs.cutoffs <= to_microseconds(plan.as_of)
    return {
        name: len(set(plan.pairs.users[due & plan.pairs.scenarios[:, number]]))
        for number, name in enumerate(scenarios)
    }
