"""Backfill: every scenario's vectors, with the activity and profile of the same moments, in both stores.

The vectors are computed first, into the cache, where nobody reads them; then `publish` puts them in
service. A run that is killed anywhere is mended by running it again.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.embedding.publish import Edition, Surroundings, publish
from qanchor.embedding.requests import EmbeddingRequests, just_after, pairs_table, union_of, users_before
from qanchor.embedding.spaces import Space, active_spaces
from qanchor.embedding.staging import StagedVectors, VectorRows, what_was_read
from qanchor.errors import InputError, NotReady
from qanchor.events.activity import activity_table, profile_table
from qanchor.events.history import EventArrays, Int64, load_event_arrays, microseconds, slice_histories
from qanchor.events.labels import read_labels
from qanchor.home import Home
from qanchor.names import ACTIVITY_VIEW, AS_OF, PROFILE_VIEW, USER_ID, embedding_view
from qanchor.progress import Progress
from qanchor.registry.jobs import recorded
from qanchor.registry.manifests import active_manifests
from qanchor.registry.tables import EmbeddingManifest
from qanchor.storage.event_log import EventLog
from qanchor.workspace import Workspace

CHUNK_REQUESTS = 2_048
_SHARED_ROWS = 200_000


class Embedder(Protocol):
    """Histories to vectors; `qanchor.model.embedder.UserEmbedder` is one."""

    def embed(
        self, arrays: EventArrays, rows: Int64, cutoffs: Int64, questions: Sequence[Any]
    ) -> NDArray[np.float32]:
        """Unit vectors, float32 [questions, requests, dim]; a row of -1 is a user without events."""
        ...


# The active model with one anchor per space, in their order; called once the cheap checks are done.
LoadEmbedder = Callable[[Sequence[Space]], tuple[Embedder, Sequence[Any]]]


@dataclass(frozen=True)
class BackfillRequest:
    """What is embedded.

    Args:
        scenarios: names.
        as_of: cut-off of the current snapshot, UTC; None: just after the newest event.
        labels_only: only at the labels' own times, no snapshot.
        online: whether the snapshot goes to the online store too.
    """

    scenarios: Sequence[str]
    as_of: datetime | None = None
    labels_only: bool = False
    online: bool = True


@dataclass(frozen=True)
class BackfillResult:
    """What was written.

    Args:
        as_of: the snapshot's cut-off, UTC; None without a snapshot.
        requests: distinct (user, cut-off) pairs whose history was encoded.
        seconds: that encoding took.
        manifests: by scenario.
        current_users: users of the snapshot, by scenario.
        warnings: what is allowed but worth a look, one sentence each.
    """

    as_of: datetime | None
    requests: int
    seconds: float
    manifests: dict[str, EmbeddingManifest]
    current_users: dict[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    arrays: EventArrays
    requests: EmbeddingRequests
    shared: EmbeddingRequests
    as_of: datetime | None


def backfill(
    request: BackfillRequest, place: Surroundings, load: LoadEmbedder, progress: Progress
) -> BackfillResult:
    """Embed users for scenarios and put the vectors in service.

    Args:
        request: what is embedded.
        place: where from and where to.
        load: gives the model and one anchor per space.
        progress: whoever watches.

    Raises:
        NotReady: no model, no events, no labels where they are asked for, or another backfill runs.
        InputError: as_of lies in the future, or before the vectors of another model that are served.
        StateError: the online store took fewer rows than there are.
    """
    workspace, names = place.features.workspace, list(request.scenarios)
    asked = {"scenarios": names, "as_of": str(request.as_of), "labels_only": request.labels_only}
    with _alone(place.home) as scratch, recorded(place.engine, "backfill", progress, parameters=asked) as job:
        spaces = active_spaces(place.engine, workspace, names)
        event_log = EventLog(place.home.events, workspace)
        plan = _plan(request, place, event_log)
        warnings = _check_order(request, place, spaces, plan.as_of)
        embedder, anchors = load(spaces)
        staged = {
            s.scenario: StagedVectors(scratch / s.scenario, s.scenario, s.model.version) for s in spaces
        }
        began = time.monotonic()
        _embed(plan, workspace, embedder, anchors, list(staged.items()), job)
        seconds = time.monotonic() - began
        current = _current_users(plan, names)
        edition = Edition(
            spaces=spaces,
            vectors=staged,
            shared=_shared_views(plan.shared, event_log, workspace),
            as_of=plan.as_of,
            current_users=_online_users(current, workspace) if request.online else {},
        )
        manifests = publish(edition, place, job)
    return BackfillResult(plan.as_of, len(plan.requests), seconds, manifests, current, tuple(warnings))


@contextmanager
def _alone(home: Home) -> Iterator[Any]:
    """A scratch folder that only this backfill uses; what a killed one left in it is deleted."""
    folder = home.cache / "backfill"
    folder.mkdir(parents=True, exist_ok=True)
    with (home.cache / "backfill.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotReady("another backfill is running", "Wait for it, or stop it.") from None
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _plan(request: BackfillRequest, place: Surroundings, event_log: EventLog) -> _Plan:
    workspace, names = place.features.workspace, request.scenarios
    newest = _newest_event(event_log)
    labelled = {name: _label_pairs(place.home, name) for name in workspace.scenarios}
    if request.labels_only:
        _require_labels({name: labelled[name] for name in names})
    as_of = None if request.labels_only else _snapshot_moment(request.as_of, newest)
    others = active_manifests(place.engine, [n for n in workspace.scenarios if n not in set(names)])
    moments = {m.as_of.replace(tzinfo=UTC) for m in others.values() if m.as_of is not None}
    last = max([moment for moment in (as_of, *moments) if moment is not None], default=None)
    arrays = load_event_arrays(event_log, workspace, before=_latest(last, labelled.values()))
    snapshot = [] if as_of is None else [_snapshot(arrays, as_of)]
    if snapshot and not snapshot[0].num_rows:
        raise InputError(f"no user has an event before {as_of:%Y-%m-%d %H:%M:%S}", "Choose a later --as-of.")
    wanted = {number: [labelled[name], *snapshot] for number, name in enumerate(names)}
    # Activity and profile serve every scenario: the times of those that stay untouched stay covered.
    shared = [*labelled.values(), *(_snapshot(arrays, moment) for moment in moments), *snapshot]
    requests = union_of(wanted, len(names))
    return _Plan(arrays, requests, union_of({0: shared}, 1), as_of)


def _newest_event(event_log: EventLog) -> datetime:
    with event_log.connect() as connection:
        found = connection.execute("SELECT epoch_us(max(event_time)) FROM events").fetchone()
    if found is None or found[0] is None:
        raise NotReady(
            "the event log is empty", "Run `qanchor-cli events load FILE` or `qanchor-cli consume`."
        )
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=found[0])


def _label_pairs(home: Home, scenario: str) -> pa.Table:
    if not (home.labels / f"{scenario}.parquet").exists():
        return pairs_table([], np.empty(0, np.int64))
    return read_labels(home, scenario).table.select([USER_ID, AS_OF])


def _require_labels(labelled: dict[str, pa.Table]) -> None:
    for name, table in labelled.items():
        if not table.num_rows:
            raise NotReady(f"scenario {name} has no labels", f"Run `qanchor-cli labels load {name} FILE`.")


def _snapshot_moment(asked: datetime | None, newest: datetime) -> datetime:
    moment = just_after(newest) if asked is None else asked.astimezone(UTC)
    if asked is not None and moment > datetime.now(UTC) + timedelta(days=1):
        raise InputError(f"--as-of {moment:%Y-%m-%d} lies in the future", "Choose a moment up to now.")
    return moment


def _latest(moment: datetime | None, tables: Iterable[pa.Table]) -> datetime:
    times: list[datetime] = [pc.max(table[AS_OF]).as_py() for table in tables if table.num_rows]
    return max([*times, *([moment] if moment else [])])


def _snapshot(arrays: EventArrays, moment: datetime) -> pa.Table:
    users = users_before(arrays, microseconds(moment))
    return pairs_table(users, np.full(len(users), microseconds(moment), np.int64))


def _check_order(
    request: BackfillRequest, place: Surroundings, spaces: Sequence[Space], as_of: datetime | None
) -> list[str]:
    """Warnings; the online store never goes back in time, so another model's vectors must not be newer."""
    warnings = [
        f"the prompt of {s.scenario} was tuned on an earlier model and is left out: "
        f"run `qanchor-cli tune --scenario {s.scenario}`"
        for s in spaces
        if s.stale_prompt
    ]
    active = active_manifests(place.engine, [s.scenario for s in spaces])
    for space in spaces:
        earlier = active.get(space.scenario)
        if earlier is None or earlier.as_of is None or earlier.fingerprint == space.fingerprint:
            continue
        if as_of is None or not request.online:
            warnings.append(
                f"the online store keeps vectors of an earlier model or prompt of {space.scenario}"
            )
        elif earlier.as_of.replace(tzinfo=UTC) > as_of:
            raise InputError(
                f"{space.scenario} has vectors of an earlier model as of {earlier.as_of}, after {as_of}",
                "Choose a later --as-of, or add --no-online.",
            )
    return warnings


def _embed(
    plan: _Plan,
    workspace: Workspace,
    embedder: Embedder,
    anchors: Sequence[Any],
    staged: Sequence[tuple[str, StagedVectors]],
    progress: Progress,
) -> None:
    requests, arrays = plan.requests, plan.arrays
    progress.start(f"embedding {len(staged)} scenarios", len(requests))
    rows = arrays.user_rows(requests.users)
    for scenarios, members in requests.groups():
        questions = [anchors[number] for number in scenarios]
        for start in range(0, len(members), CHUNK_REQUESTS):
            some = members[start : start + CHUNK_REQUESTS]
            cutoffs = requests.cutoffs[some]
            vectors = embedder.embed(arrays, rows[some], cutoffs, questions)
            events, last = what_was_read(arrays, slice_histories(arrays, rows[some], cutoffs, workspace))
            for number, found in zip(scenarios, vectors, strict=True):
                staged[number][1].add(VectorRows(requests.users[some], cutoffs, found, events, last))
            progress.advance(len(some))


def _current_users(plan: _Plan, names: Sequence[str]) -> dict[str, int]:
    """Users that the online store will hold: those with a cut-off up to the snapshot's."""
    if plan.as_of is None:
        return dict.fromkeys(names, 0)
    due = plan.requests.cutoffs <= microseconds(plan.as_of)
    return {
        name: len(set(plan.requests.users[due & plan.requests.wanted[:, number]]))
        for number, name in enumerate(names)
    }


def _online_users(current: dict[str, int], workspace: Workspace) -> dict[str, int]:
    if not any(current.values()):
        return {}
    everyone = max(current.values())
    shared = [ACTIVITY_VIEW, *([PROFILE_VIEW] if workspace.profile_columns else [])]
    return {**dict.fromkeys(shared, everyone), **{embedding_view(n): users for n, users in current.items()}}


def _shared_views(
    requests: EmbeddingRequests, event_log: EventLog, workspace: Workspace
) -> dict[str, Iterator[pa.Table]]:
    def tables(compute: Callable[[EventLog, Workspace, pa.Table], pa.Table]) -> Iterator[pa.Table]:
        for start in range(0, len(requests), _SHARED_ROWS):
            yield compute(event_log, workspace, requests.table().slice(start, _SHARED_ROWS))

    views = {ACTIVITY_VIEW: tables(activity_table)}
    if workspace.profile_columns:
        views[PROFILE_VIEW] = tables(profile_table)
    return views
