"""Refresh: new vectors for the users whose history has changed, and for nobody else.

A refresh makes a manifest of its own: the files of the one that serves, linked, and one more with the new
vectors. So it is promoted, verified and rolled back as any other, and costs what the changed users cost. A
user's vector says by its event_timestamp how old it is. The nightly backfill brings everybody to one moment
again.
"""

import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.embedding.changes import Changes, find_changes
from qanchor.embedding.publish import promote, without_zone
from qanchor.embedding.requests import EmbeddingRequests, just_after, pairs_table, union_of
from qanchor.embedding.shard import ShardOutcome, ShardWork, targets_of
from qanchor.embedding.spaces import FLOAT32, Space, active_spaces
from qanchor.embedding.worker import LoadEmbedder
from qanchor.errors import InputError, NotReady
from qanchor.events.activity import activity_table, profile_table
from qanchor.events.history import microseconds
from qanchor.files import full_disk_as_error
from qanchor.names import (
    ACTIVITY_VIEW,
    PROFILE_VIEW,
    embedding_view,
)
from qanchor.progress import Progress
from qanchor.registry.manifests import (
    CANDIDATE,
    active_manifest,
    active_manifests,
    begin_manifest,
    note_manifest,
    part_name,
)
from qanchor.registry.open_jobs import DONE, close_job, open_job
from qanchor.registry.shards import ShardedJob
from qanchor.registry.tables import EmbeddingManifest
from qanchor.site import Site
from qanchor.storage import checksums, parts
from qanchor.storage.editions import edition_checksum, edition_parts
from qanchor.storage.event_log import EventLog, LogRows, UserEvents
from qanchor.storage.online import OnlineView

KIND: Final = "refresh"
_ONLINE_ROWS: Final = 20_000


@dataclass(frozen=True)
class RefreshRequest:
    """What is refreshed.

    Args:
        scenarios: names.
        as_of: cut-off of the new vectors, UTC; None: just after the newest event.
        budget: change of a history that is left for later; None: each scenario's refresh_budget.
        online: whether the new vectors go to the online store too.
        expired: whether users count of whom nothing is new, but events have left the window.
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
        manifest: that serves now; the earlier one where no vector was due.
        touched: users whose history is another.
        embedded: of these, whose vector is new.
        pending: of these, whose change lies within the budget; their vectors stay for now.
        largest_pending: the greatest change that was left.
        set_aside: users that could not be embedded, with the reason.
    """

    manifest: EmbeddingManifest
    touched: int
    embedded: int
    pending: int
    largest_pending: float
    set_aside: Mapping[str, str] = field(default_factory=dict)


def refresh(
    request: RefreshRequest, site: Site, load: LoadEmbedder, progress: Progress
) -> dict[str, ScenarioRefresh]:
    """Embed the users whose history has changed since their vectors were made, and put the new ones in
    service.

    Args:
        request: what is refreshed.
        site: where from and where to.
        load: gives the model and one query per space; called only where a vector is due.
        progress: whoever watches.

    Returns:
        By scenario.

    Raises:
        NotReady: a scenario was never embedded, or its vectors are of another space than the active model's;
            or another refresh runs.
        InputError: as_of lies before the vectors that serve.
        DiskFull: free some space and run it again; the vectors that serve stay.
    """
    workspace = site.features.workspace
    spaces = active_spaces(site.engine, workspace, request.scenarios, request.precision)
    with full_disk_as_error(site.home.root), ExitStack() as stack:
        job = stack.enter_context(_alone(site))
        serving = {space.scenario: _serving(space, site) for space in spaces}
        event_log = EventLog(site.home.events, workspace)
        rows = stack.enter_context(closing(LogRows(event_log, site.home.events_by_user)))
        moment = _moment(request, rows.newest(), serving)
        progress.start("looking for changes")
        changes = find_changes(list(serving.values()), moment, rows, site, request.expired)
        budgets = [
            workspace.scenario(s.scenario).refresh_budget if request.budget is None else request.budget
            for s in spaces
        ]
        due = changes.scores > np.array(budgets)[:, None]
        result = {
            space.scenario: _untouched(serving[space.scenario], changes.scores[n], due[n])
            for n, space in enumerate(spaces)
        }
        if due.any():
            chosen = [n for n in range(len(spaces)) if due[n].any()]
            made = _embed(
                [spaces[n] for n in chosen], due[chosen], changes, moment, (site, load, progress, job)
            )
            edition = _Edition(job.id, moment, changes.ingested_until, changes.events, made)
            result |= _put_in_service(edition, [spaces[n] for n in chosen], result, request, site, progress)
    return result


@contextmanager
def _alone(site: Site) -> Iterator[ShardedJob]:
    """The job of the one refresh that runs; one that was killed leaves nothing that matters."""
    job_id = open_job(site.engine, KIND, KIND, {}, [])
    job = ShardedJob(site.engine, job_id)
    job.resume()
    if not job.lead():
        raise NotReady("another refresh is running", "Wait for it, or stop it.")
    try:
        with job.holding(None):
            yield job
        close_job(site.engine, job_id, DONE)
    except BaseException as error:
        job.stop(error)
        raise
    finally:
        shutil.rmtree(_scratch(site, job), ignore_errors=True)


def _scratch(site: Site, job: ShardedJob) -> Path:
    return site.home.cache / KIND / str(job.id)


def _serving(space: Space, site: Site) -> EmbeddingManifest:
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


def _moment(request: RefreshRequest, newest: datetime, serving: Mapping[str, EmbeddingManifest]) -> datetime:
    """The cut-off of the new vectors: never before that of the vectors that serve."""
    served = {name: m.as_of.replace(tzinfo=UTC) for name, m in serving.items() if m.as_of is not None}
    if request.as_of is None:
        return max(just_after(newest), *served.values())
    moment = request.as_of.astimezone(UTC)
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


def _embed(
    spaces: Sequence[Space],
    due: NDArray[np.bool_],
    changes: Changes,
    moment: datetime,
    means: tuple[Site, LoadEmbedder, Progress, ShardedJob],
) -> tuple[EmbeddingRequests, ShardOutcome, Path]:
    site, load, progress, job = means
    wanted = {}
    for number in range(len(spaces)):
        users = changes.users[due[number]]
        wanted[number] = [pairs_table(users, np.full(len(users), microseconds(moment), np.int64))]
    requests = union_of(wanted, len(spaces))
    embedder, queries = load(spaces)
    targets = targets_of(spaces, queries)
    folder = _scratch(site, job)
    progress.start(f"refreshing {len(spaces)} scenarios", len(requests))
    work = ShardWork(
        changes.arrays,
        site.features.workspace,
        embedder,
        targets,
        folder,
        threading.Event(),
        progress.advance,
    )
    outcome = work.run(requests)
    job.note(len(requests))
    return requests, outcome, folder


@dataclass(frozen=True)
class _Edition:
    """What a refresh has computed."""

    job_id: int
    moment: datetime
    ingested_until: datetime
    events: UserEvents
    made: tuple[EmbeddingRequests, ShardOutcome, Path]


def _put_in_service(
    edition: _Edition,
    spaces: Sequence[Space],
    before: Mapping[str, ScenarioRefresh],
    request: RefreshRequest,
    site: Site,
    progress: Progress,
) -> dict[str, ScenarioRefresh]:
    requests, outcome, folder = edition.made
    manifests = {
        space.scenario: _candidate(before[space.scenario].manifest, edition, site)
        for space in spaces
        if outcome.rows[space.scenario]
    }
    run = min((manifest.id for manifest in manifests.values()), default=0)
    delta = {embedding_view(name): pq.read_table(folder / f"{name}.parquet") for name in manifests}
    delta |= _shared_rows(requests, edition.events, run, site) if manifests else {}
    if request.online:
        # Before the switch: a row that is newer than its manifest harms nobody, a missing one might.
        for view, table in delta.items():
            online = OnlineView(site.features, view)
            for start in range(0, len(table), _ONLINE_ROWS):
                online.write(table.slice(start, _ONLINE_ROWS))
    _require_same(before, site)
    if manifests:
        promote(manifests, site, progress, online=False)
    return {
        space.scenario: ScenarioRefresh(
            manifests.get(space.scenario, before[space.scenario].manifest),
            before[space.scenario].touched,
            outcome.rows[space.scenario],
            before[space.scenario].pending,
            before[space.scenario].largest_pending,
            outcome.set_aside,
        )
        for space in spaces
    }


def _candidate(serving: EmbeddingManifest, edition: _Edition, site: Site) -> EmbeddingManifest:
    """The files that serve and the new one, under a manifest of their own."""
    scenario, view = serving.scenario, embedding_view(serving.scenario)
    _, outcome, made = edition.made
    manifest = begin_manifest(
        site.engine,
        EmbeddingManifest(
            scenario=scenario,
            model_version=serving.model_version,
            prompt_version=serving.prompt_version,
            fingerprint=serving.fingerprint,
            width=serving.width,
            as_of=without_zone(edition.moment),
            ingested_until=without_zone(edition.ingested_until),
            rows=0,
            content_hash="",
            path="",
            job_id=edition.job_id,
        ),
    )
    source, folder = site.home.root / serving.path, site.home.edition(view, manifest.id)
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier try
    parts.ensure_part(folder, parts.embedding_schema(scenario))
    for path in edition_parts(source):
        parts.link_part(path, folder, path.stem)
    parts.link_part(made / f"{scenario}.parquet", folder, part_name(manifest.id, 0))
    parts.sync_folder(folder)
    rows = serving.rows + outcome.rows[scenario]
    known = serving.content_hash if "-" in serving.content_hash else edition_checksum(source, scenario)
    total = checksums.combined([int(known.split("-")[0], 16), outcome.totals[scenario]])
    note_manifest(
        site.engine,
        manifest,
        state=CANDIDATE,
        rows=rows,
        content_hash=checksums.checksum(total, rows),
        path=str(folder.relative_to(site.home.root)),
    )
    return manifest


def _shared_rows(
    requests: EmbeddingRequests, events: UserEvents, run: int, site: Site
) -> dict[str, pa.Table]:
    """Activity and profile of the same users and moment, written to the offline store."""
    workspace = site.features.workspace
    tables = {ACTIVITY_VIEW: activity_table(events, workspace, requests.table())}
    if workspace.profile_columns:
        tables[PROFILE_VIEW] = profile_table(events, workspace, requests.table())
    for view, table in tables.items():
        site.features.write_part(view, table, part_name(run, 0))
    return tables


def _require_same(before: Mapping[str, ScenarioRefresh], site: Site) -> None:
    """A backfill that was promoted meanwhile has newer vectors of everybody: this refresh is of no use."""
    serving = active_manifests(site.engine, list(before))
    for scenario, found in before.items():
        if serving.get(scenario) is None or serving[scenario].id != found.manifest.id:
            raise NotReady(f"the vectors of {scenario} were replaced meanwhile", "Run the refresh again.")


def staleness_seconds(manifest: EmbeddingManifest, now: float | None = None) -> float:
    """How long ago the moment lies up to which a manifest's users were last looked at."""
    if manifest.as_of is None:
        return float("inf")
    return (time.time() if now is None else now) - manifest.as_of.replace(tzinfo=UTC).timestamp()
