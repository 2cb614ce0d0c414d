"""Refresh: new vectors for the users whose history has changed, and for nobody else.

A refresh makes a manifest of its own: the files of the one that serves, linked, and one more with the new
vectors. So it is promoted, verified and rolled back as any other, and costs what the changed users cost. A
user's vector says by its event_timestamp how old it is. The nightly backfill brings everybody to one moment
again.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.embedding.changes import Changes, find_changes
from qanchor.embedding.pairs import Pairs, just_after, pairs_table, union_of
from qanchor.embedding.publish import JobOutput, new_manifest, promote
from qanchor.embedding.shard import Shard, ShardResult, ShardRunner, targets_of
from qanchor.embedding.spaces import FLOAT32, Space, active_spaces, load_embedder
from qanchor.embedding.worker import LoadEmbedder
from qanchor.errors import InputError, NotReady
from qanchor.events.activity import activity_table, profile_table
from qanchor.files import full_disk_as_error
from qanchor.names import ACTIVITY_VIEW, PROFILE_VIEW, embedding_view
from qanchor.progress import Progress
from qanchor.registry.jobs import INTERRUPTED, RUNNING, close_job, find_open_job, is_worked_on, open_job
from qanchor.registry.manifests import active_manifest, active_manifests, part_name
from qanchor.registry.shards import ShardedJob
from qanchor.registry.tables import EmbeddingManifest
from qanchor.site import Site
from qanchor.storage.event_log import LogRows
from qanchor.storage.online import OnlineView
from qanchor.times import as_utc, to_microseconds

KIND: Final = "refresh"
_ONLINE_ROWS: Final = 20_000


@dataclass(frozen=True)
class RefreshRequest:
    """What is refreshed.

    Args:
        scenarios: names of the scenarios.
        as_of: cut-off of the new vectors, UTC; None: just after the newest event.
        budget: change of a history that is left for later; None: each scenario's refresh_budget.
        online: whether the new vectors go to the online store too.
        expired: whether users count who have no new events, but events that have left the window.
        precision: number format of the model: float32, bfloat16 or int8; that of the vectors that serve.
    """

    scenarios: Sequence[str]
    as_of: datetime | None = None
    budget: float | None = None
    online: bool = True
    expired: bool = False
    precision: str = FLOAT32


@dataclass(frozen=True)
class ScenarioRefresh:
    """What a refresh did for a scenario.

    Args:
        manifest: manifest that serves now; the earlier one where no vector was due.
        touched: users whose history has changed.
        embedded: users of these whose vector is new.
        pending: users of these whose change is within the budget; their vectors stay for now.
        largest_pending: greatest change that was left.
        set_aside: users that could not be embedded, with the reason.
    """

    manifest: EmbeddingManifest
    touched: int
    embedded: int
    pending: int
    largest_pending: float
    set_aside: Mapping[str, str] = field(default_factory=dict)


def refresh(
    site: Site, request: RefreshRequest, progress: Progress, load: LoadEmbedder | None = None
) -> dict[str, ScenarioRefresh]:
    """Embed the users whose history has changed since their vectors were made, and put the new ones in
    service.

    Args:
        site: event log, registry and both stores.
        request: what is refreshed.
        progress: shows the progress.
        load: loads the model, only where a vector is due; default: the registered one.

    Returns:
        By scenario.

    Raises:
        NotReady: a scenario was never embedded, or its vectors are of another space than the active model's;
            or another refresh runs.
        InputError: as_of lies before the vectors that serve.
        DiskFull: free some space and run it again; the vectors that serve stay.
    """
    spaces = active_spaces(site, request.scenarios, request.precision)
    with full_disk_as_error(site.home.root), ExitStack() as stack:
        job = stack.enter_context(_only_refresh(site))
        serving = {space.scenario: _serving(site, space) for space in spaces}
        rows = stack.enter_context(closing(LogRows(site.event_log, site.home.events_by_user)))
        moment = _cutoff(request, rows.newest(), serving)
        progress.start("looking for changes")
        changes = find_changes(site, list(serving.values()), moment, rows, request.expired)
        mask = changes.scores > _budgets(site, request)[:, None]
        result = {
            space.scenario: _untouched(serving[space.scenario], changes.scores[n], mask[n])
            for n, space in enumerate(spaces)
        }
        if mask.any():
            due = _what_is_due(spaces, mask, changes, moment)
            made = _embed(site, due, _scratch(site, job), progress, load)
            job.note(len(due.pairs))
            output = JobOutput(job.id, [made], moment, changes.ingested_until)
            manifests = {
                space.scenario: new_manifest(site, space, output, serving[space.scenario])
                for space in due.spaces
                if made.rows[space.scenario]
            }
            if manifests:
                tables = _new_rows(site, due, made.folder, manifests)
                if request.online:
                    # Before the switch: a row newer than its manifest harms nobody, a missing one might.
                    _write_online(site, tables)
            _require_same(site, serving)
            if manifests:
                promote(site, manifests, progress, online=False)
            for name, embedded in made.rows.items():
                serves = manifests.get(name, serving[name])
                result[name] = replace(
                    result[name], manifest=serves, embedded=embedded, set_aside=made.set_aside
                )
    return result


def _budgets(site: Site, request: RefreshRequest) -> NDArray[np.float64]:
    """The change that may wait, float64 [scenarios]."""
    specs = map(site.workspace.scenario, request.scenarios)
    return np.array([spec.refresh_budget if request.budget is None else request.budget for spec in specs])


@contextmanager
def _only_refresh(site: Site) -> Iterator[ShardedJob]:
    """The job of the one refresh that runs; one that was killed leaves nothing to go on with."""
    unfinished = find_open_job(site.engine, KIND)
    if unfinished is not None and not is_worked_on(site.engine, unfinished.id):
        # Its manifests may serve already: they must not be written again under the same job.
        ended = INTERRUPTED if unfinished.state == RUNNING else unfinished.state
        close_job(site.engine, unfinished.id, ended)
    job = ShardedJob(site.engine, open_job(site.engine, KIND, KIND, {}, []))
    if not job.lead():
        raise NotReady("another refresh is running", "Wait for it, or stop it.")
    try:
        with job.holding(None):
            yield job
        job.end()
    except BaseException as error:
        job.stop(error)
        raise
    finally:
        shutil.rmtree(_scratch(site, job), ignore_errors=True)


def _scratch(site: Site, job: ShardedJob) -> Path:
    return site.home.cache / KIND / str(job.id)


def _serving(site: Site, space: Space) -> EmbeddingManifest:
    manifest = active_manifest(site.engine, space.scenario)
    remedy = f"Run `qanchor-cli backfill --scenario {space.scenario}`."
    if manifest.fingerprint != space.fingerprint:
        raise NotReady(
            f"{space.scenario} has vectors of an earlier model or prompt, of another number format or width",
            remedy,
        )
    if manifest.as_of is None or manifest.ingested_until is None:
        raise NotReady(f"{space.scenario} has no vectors of a snapshot that could be refreshed", remedy)
    return manifest


def _cutoff(request: RefreshRequest, newest: datetime, serving: Mapping[str, EmbeddingManifest]) -> datetime:
    """The cut-off of the new vectors: never before that of the vectors that serve."""
    served = {name: as_utc(m.as_of) for name, m in serving.items() if m.as_of is not None}
    if request.as_of is None:
        return max(just_after(newest), *served.values())
    moment = as_utc(request.as_of)
    for scenario, known in served.items():
        if known > moment:
            raise InputError(
                f"{scenario} has vectors as of {known:%Y-%m-%d %H:%M:%S}, after {moment:%Y-%m-%d %H:%M:%S}",
                "Choose a later --as-of.",
            )
    return moment


def _untouched(
    manifest: EmbeddingManifest, scores: NDArray[np.float64], due: NDArray[np.bool_]
) -> ScenarioRefresh:
    waiting = scores[~due & (scores > 0)]
    return ScenarioRefresh(
        manifest, int((scores > 0).sum()), 0, len(waiting), float(waiting.max(initial=0.0))
    )


@dataclass(frozen=True)
class _Due:
    """What a refresh has to embed.

    Args:
        spaces: spaces of the scenarios with a user whose vector is due.
        pairs: these users at the cut-off, for the scenarios in the order of `spaces`.
        moment: cut-off, UTC.
        changes: events of the users.
    """

    spaces: Sequence[Space]
    pairs: Pairs
    moment: datetime
    changes: Changes


def _what_is_due(spaces: Sequence[Space], due: NDArray[np.bool_], changes: Changes, moment: datetime) -> _Due:
    """The scenarios and users of a mask, bool [scenarios, users]."""
    chosen = np.flatnonzero(due.any(axis=1)).tolist()
    users = [changes.users[due[number]] for number in chosen]
    cutoff = to_microseconds(moment)
    tables = {n: [pairs_table(some, np.full(len(some), cutoff, np.int64))] for n, some in enumerate(users)}
    return _Due([spaces[n] for n in chosen], union_of(tables, len(chosen)), moment, changes)


def _embed(site: Site, due: _Due, folder: Path, progress: Progress, load: LoadEmbedder | None) -> ShardResult:
    embedder, queries = (load or partial(load_embedder, site))(due.spaces)
    progress.start(f"refreshing {len(due.spaces)} scenarios", len(due.pairs))
    runner = ShardRunner(site.workspace, embedder, targets_of(due.spaces, queries), progress.advance)
    return runner.run(Shard(due.pairs, due.changes.arrays, folder))


def _new_rows(
    site: Site, due: _Due, folder: Path, manifests: Mapping[str, EmbeddingManifest]
) -> dict[str, pa.Table]:
    """The new rows by view; those of activity and profile are written to the offline store here."""
    shared = {ACTIVITY_VIEW: activity_table(due.changes.events, site.workspace, due.pairs.table())}
    if site.workspace.profile_columns:
        shared[PROFILE_VIEW] = profile_table(due.changes.events, site.workspace, due.pairs.table())
    run = min(manifest.id for manifest in manifests.values())
    for view, table in shared.items():
        site.features.write_part(view, table, part_name(run, 0))
    return {embedding_view(name): pq.read_table(folder / f"{name}.parquet") for name in manifests} | shared


def _write_online(site: Site, rows: Mapping[str, pa.Table]) -> None:
    for view, table in rows.items():
        online = OnlineView(site.features, view)
        for start in range(0, len(table), _ONLINE_ROWS):
            online.write(table.slice(start, _ONLINE_ROWS))


def _require_same(site: Site, serving: Mapping[str, EmbeddingManifest]) -> None:
    """A backfill that was promoted meanwhile has newer vectors of everybody: this refresh is of no use."""
    active = active_manifests(site.engine, list(serving))
    for scenario, manifest in serving.items():
        if scenario not in active or active[scenario].id != manifest.id:
            raise NotReady(f"the vectors of {scenario} were replaced meanwhile", "Run the refresh again.")


def staleness_seconds(manifest: EmbeddingManifest, now: float | None = None) -> float:
    """Age of a manifest's cut-off.

    Args:
        manifest: vectors of a scenario.
        now: seconds since the epoch; default: the current time.
    """
    if manifest.as_of is None:
        return float("inf")
    return (time.time() if now is None else now) - as_utc(manifest.as_of).timestamp()
