"""What a backfill computes, settled once and kept on disk, so that every worker and every later try agree."""

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qanchor.embedding.requests import EmbeddingRequests, just_after, pairs_table, union_of
from qanchor.embedding.spaces import FLOAT32, Space
from qanchor.errors import InputError, NotReady
from qanchor.events.history import microseconds
from qanchor.events.labels import read_labels
from qanchor.home import Home
from qanchor.names import AS_OF, USER_ID
from qanchor.registry.manifests import active_manifests
from qanchor.site import Site
from qanchor.storage.event_log import (
    EventLog,
    EventSource,
    UserCopy,
    UserRange,
    keep_copy,
    open_copy,
    ranges_of_sorted,
    remove_copies,
    sort_by_user,
)
from qanchor.workspace import Workspace

_WANTED: Final = "wanted"
_FORGOTTEN_SECONDS: Final = 86_400
SHARD_USERS: Final = 8_192


@dataclass(frozen=True)
class BackfillRequest:
    """What is embedded.

    Args:
        scenarios: names.
        as_of: cut-off of the current snapshot, UTC; None: just after the newest event.
        labels_only: only at the labels' own times, no snapshot.
        online: whether the snapshot goes to the online store too.
        promote: whether what passes its gates is put in service at once.
        force: whether it is put in service even where a gate fails.
        shard_users: users of a shard, which is what a kill costs.
        precision: number format of the model: float32, bfloat16 or int8; part of the embedding space.
        copy_events: whether a copy of the log by user is kept in the cache, for refreshes.
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

    def key(self, spaces: Sequence[Space], labels: Sequence[str]) -> str:
        """A hash of what is asked: two backfills of one key are one job.

        Args:
            spaces: that are written to.
            labels: content hashes of the scenarios' labels.
        """
        asked = [*sorted((s.scenario, s.fingerprint) for s in spaces), str(self.as_of), *labels]
        # Whoever ends the job decides on promotion: what was computed is the same.
        options = [self.labels_only, self.online, self.shard_users]
        return hashlib.sha256(json.dumps([asked, options]).encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """Which pairs a backfill computes.

    Args:
        folder: where it lies, with what the shards leave.
        requests: (user, cut-off) pairs by user.
        shared: the pairs that activity and profile are computed for.
        as_of: the snapshot's cut-off, UTC; None without one.
        bounds: shard n has the requests bounds[n] to bounds[n + 1].
        events: of each shard's users, as they were when the plan was made.
        ingested_until: the newest event's arrival then, UTC.
        events_copy: name of the copy of the log as it was then; None where none was made.
    """

    folder: Path
    requests: EmbeddingRequests
    shared: EmbeddingRequests
    as_of: datetime | None
    bounds: Sequence[int]
    events: Sequence[UserRange]
    ingested_until: datetime
    events_copy: str | None = None

    @property
    def sizes(self) -> list[int]:
        """Requests of every shard."""
        return np.diff(self.bounds).tolist()

    def shard(self, number: int) -> EmbeddingRequests:
        """The requests of one shard."""
        part = slice(self.bounds[number], self.bounds[number + 1])
        whole = self.requests
        return EmbeddingRequests(whole.users[part], whole.cutoffs[part], whole.wanted[part])


def make_plan(request: BackfillRequest, site: Site) -> Plan:
    """Settle what is computed and write it to a new folder of the cache.

    Raises:
        NotReady: no events, or no labels where they are asked for.
        InputError: as_of lies in the future, or no user has an event before it.
    """
    workspace, names = site.features.workspace, list(request.scenarios)
    event_log = EventLog(site.home.events, workspace)
    copy = _copy_by_user(request, site, event_log)
    source = copy or event_log
    first_events, newest, ingested_until = first_and_last_events(source)
    labelled = {name: label_pairs(site.home, name) for name in workspace.scenarios}
    if request.labels_only:
        _require_labels({name: labelled[name] for name in names})
    as_of = None if request.labels_only else _snapshot_moment(request.as_of, newest)
    others = active_manifests(site.engine, [n for n in workspace.scenarios if n not in set(names)])
    moments = {m.as_of.replace(tzinfo=UTC) for m in others.values() if m.as_of is not None}
    snapshot = [] if as_of is None else [_snapshot(first_events, as_of)]
    if snapshot and not snapshot[0].num_rows:
        raise InputError(f"no user has an event before {as_of:%Y-%m-%d %H:%M:%S}", "Choose a later --as-of.")
    wanted = {number: [labelled[name], *snapshot] for number, name in enumerate(names)}
    # Activity and profile serve every scenario: the times of those that stay untouched stay covered.
    shared = [*labelled.values(), *(_snapshot(first_events, moment) for moment in moments), *snapshot]
    requests = union_of(wanted, len(names))
    folder = site.home.cache / "backfill" / secrets.token_hex(6)
    bounds = _bounds(requests, request.shard_users)
    folder.mkdir(parents=True)
    try:
        parts = _split_events(source, workspace, requests, bounds, folder)
        together, name = union_of({0: shared}, 1), copy.folder.name if copy else None
        plan = Plan(folder, requests, together, as_of, bounds, parts, ingested_until, name)
        _write(plan)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return plan


def _copy_by_user(request: BackfillRequest, site: Site, event_log: EventLog) -> UserCopy | None:
    """The log by user; everything else is read from it too, because it need not be searched for repeats."""
    if request.copy_events:
        return keep_copy(event_log, site.home.events_by_user)
    remove_copies(site.home.events_by_user)
    return None


def plan_events(plan: Plan, site: Site) -> EventSource:
    """The events that a plan was made from; where they are gone, the log as it is now."""
    event_log = EventLog(site.home.events, site.features.workspace)
    copy = None
    if plan.events_copy is not None:
        copy = open_copy(site.home.events_by_user, event_log, plan.events_copy)
    return copy or event_log


def _split_events(
    source: EventSource | UserCopy,
    workspace: Workspace,
    requests: EmbeddingRequests,
    bounds: Sequence[int],
    folder: Path,
) -> list[UserRange]:
    """The events of every shard, from one scan of the log; what comes in later cannot change half a job."""
    if not len(requests):
        return []
    firsts = [str(requests.users[bound]) for bound in bounds[:-1]]
    newest = datetime.fromtimestamp(int(requests.cutoffs.max()) // 1_000_000 + 1, tz=UTC)
    oldest = datetime.fromtimestamp(int(requests.cutoffs.min()) // 1_000_000, tz=UTC)
    after, parts_folder = oldest - timedelta(days=workspace.window_days), folder / "events"
    if isinstance(source, UserCopy):
        return ranges_of_sorted(source.parts, workspace, parts_folder, firsts, before=newest, after=after)
    return sort_by_user(source, workspace, parts_folder, firsts, before=newest, after=after)


def first_and_last_events(source: EventSource) -> tuple[pa.Table, datetime, datetime]:
    """Every user with the time of the first event, by user; the newest event's time, and the last arrival."""
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
    newest, ingested = (
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=pc.max(table[column]).as_py())
        for column in ("last", "ingested")
    )
    return table, newest, ingested


def label_pairs(home: Home, scenario: str) -> pa.Table:
    """The (user, cut-off) pairs of a scenario's labels; none where it has no labels."""
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


def _snapshot(first_events: pa.Table, moment: datetime) -> pa.Table:
    known = first_events.filter(pc.less(first_events["first"], microseconds(moment)))[USER_ID]
    users = np.array(known.to_pylist(), dtype=object)
    return pairs_table(users, np.full(len(users), microseconds(moment), np.int64))


def _bounds(requests: EmbeddingRequests, shard_users: int) -> list[int]:
    """Where shards begin: no user is in two of them, so that a history is loaded once."""
    if not len(requests):
        return [0]
    first = np.flatnonzero(np.concatenate([[True], requests.users[1:] != requests.users[:-1]]))
    return [*first[::shard_users].tolist(), len(requests)]


def _write(plan: Plan) -> None:
    packed = np.packbits(plan.requests.wanted, axis=1)
    bits = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(packed.shape[1]), len(packed), [None, pa.py_buffer(packed.tobytes())]
    )
    pq.write_table(plan.requests.table().append_column(_WANTED, bits), plan.folder / "requests.parquet")
    pq.write_table(plan.shared.table(), plan.folder / "shared.parquet")
    about = {
        "as_of": plan.as_of.isoformat() if plan.as_of else None,
        "bounds": list(plan.bounds),
        "ingested_until": plan.ingested_until.isoformat(),
        "events_copy": plan.events_copy,
        "scenarios": plan.requests.wanted.shape[1],
        "events": [
            {**asdict(part), "folder": str(part.folder.relative_to(plan.folder))} for part in plan.events
        ],
    }
    (plan.folder / "plan.json").write_text(json.dumps(about), encoding="utf-8")


def read_plan(folder: Path) -> Plan | None:
    """The plan of a folder; None where the cache has been emptied since."""
    path = folder / "plan.json"
    if not path.exists():
        return None
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    table, shared = (pq.read_table(folder / f"{name}.parquet") for name in ("requests", "shared"))
    packed = np.frombuffer(b"".join(table[_WANTED].to_pylist()), np.uint8).reshape(table.num_rows, -1)
    wanted = np.unpackbits(packed, axis=1, count=about["scenarios"]).astype(bool)
    as_of = datetime.fromisoformat(about["as_of"]) if about["as_of"] else None
    events = [
        UserRange(
            folder / part["folder"],
            tuple((name, kind) for name, kind in part["columns"]),
            part.get("where", "true"),
        )
        for part in about["events"]
    ]
    return Plan(
        folder,
        _requests(table, wanted),
        _requests(shared, None),
        as_of,
        about["bounds"],
        events,
        datetime.fromisoformat(about["ingested_until"]),
        about.get("events_copy"),
    )


def _requests(table: pa.Table, wanted: Any) -> EmbeddingRequests:
    users = np.array(table[USER_ID].to_pylist(), dtype=object)
    cutoffs = np.asarray(table[AS_OF].cast(pa.int64())).astype(np.int64)
    everything = np.ones((len(users), 1), dtype=bool) if wanted is None else wanted
    return EmbeddingRequests(users, cutoffs, everything)


def remove_plan(home: Home, name: str) -> None:
    """Delete the folder of a job that will not be resumed, and those that were left behind more than a day
    ago."""
    root = home.cache / "backfill"
    for folder in root.glob("*"):
        # Other workers clean up at the same moment: what is gone already is as it should be.
        with suppress(FileNotFoundError):
            if folder.name == name or folder.stat().st_mtime < time.time() - _FORGOTTEN_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
