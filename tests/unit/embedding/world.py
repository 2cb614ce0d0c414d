"""A small workspace with events and labels, an embedder of hashes, and a feature store without Feast."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sqlalchemy import Engine

from qanchor.embedding.backfill import BackfillResult, backfill
from qanchor.embedding.job import BackfillRequest
from qanchor.embedding.spaces import Space
from qanchor.embedding.worker import LocalEngine
from qanchor.events.history import EventArrays, Int64, slice_histories
from qanchor.events.label_rows import LABEL_SCHEMA
from qanchor.home import Home
from qanchor.progress import Silent
from qanchor.registry.migrate import prepare
from qanchor.registry.session import open_engine
from qanchor.registry.versions import register_model
from qanchor.site import Site
from qanchor.storage.event_log import EventLog
from qanchor.storage.features import FeatureRepository
from qanchor.workspace import Workspace, load_workspace
from tests.unit.registry.rows import model

START = datetime(2026, 1, 1, tzinfo=UTC)
SCENARIOS = ("money", "takeout", "quiet")


class Killed(BaseException):
    """The sudden end of a process."""


def day(number: float) -> datetime:
    """A moment counted in days from the start."""
    return START + timedelta(days=number)


_MODALITIES = """
window_days: 90
modalities:
  bill:
    text: "{shop}"
    fields: {shop: {type: text}, amount: {type: number, amount: true}}
  card:
    text: "{band}"
    profile: true
    max_events: 2
    fields: {band: {type: text}}
"""


def make_workspace(repo: Path) -> Workspace:
    """Two modalities, one of them the profile; three scenarios."""
    repo.mkdir(parents=True, exist_ok=True)
    (repo / "modalities.yaml").write_text(_MODALITIES)
    lines = [f'  {name}: {{domain: risk, query: "Will this be about {name}?"}}' for name in SCENARIOS]
    (repo / "scenarios.yaml").write_text("\n".join(["scenarios:", *lines]))
    return load_workspace(repo)


def site_with_model(folder: Path) -> Site:
    """An empty home, and a registry with one model."""
    home = Home(folder)
    url = f"sqlite:///{home.database}"
    engine = open_engine(url)
    prepare(engine, url)
    register_model(engine, model())
    return Site.at(make_workspace(folder / "repo"), home, engine)


def add_events(
    home: Home, workspace: Workspace, rows: Sequence[tuple[str, float, str]], arrived: float | None = None
) -> None:
    """Append (user, day, modality) events to the log; they arrive when they happen, or on day `arrived`."""
    log = EventLog(home.events, workspace)
    table = pa.Table.from_pylist(
        [
            {
                "event_id": f"{user}-{moment}-{modality}",
                "user_id": user,
                "event_time": day(moment),
                "modality": modality,
                "shop": "corner" if modality == "bill" else None,
                "amount": 5.0 if modality == "bill" else None,
                "band": "young" if modality == "card" else None,
                "_partition": 0,
                "_offset": 0,
                "_ingested_at": day(moment if arrived is None else arrived),
            }
            for user, moment, modality in rows
        ],
        schema=log.schema,
    )
    log.publish(log.stage(table))
    log.close()


def add_labels(home: Home, scenario: str, rows: Sequence[tuple[str, float]]) -> None:
    """Put (user, day) labels in use."""
    home.labels.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(
        [
            {"user_id": user, "as_of": day(moment), "label": number % 2, "fold": None, "split": None}
            for number, (user, moment) in enumerate(rows)
        ],
        schema=LABEL_SCHEMA,
    )
    pq.write_table(table, home.labels / f"{scenario}.parquet")


@dataclass
class HashEmbedder:
    """A unit vector of what may be read: the query and the times of the history's events."""

    workspace: Workspace
    calls: list[tuple[int, int]] = field(default_factory=list)

    def embed(
        self, arrays: EventArrays, rows: Int64, cutoffs: Int64, queries: Sequence[Any]
    ) -> NDArray[np.float32]:
        """Unit vectors, float32 [queries, requests, 128]."""
        self.calls.append((len(queries), len(rows)))
        slices = slice_histories(arrays, rows, cutoffs, self.workspace)
        result = np.empty((len(queries), len(rows), 128), np.float32)
        for number, query in enumerate(queries):
            for request in range(len(rows)):
                read = [
                    events.time[slices.start[request, m] : slices.stop[request, m]].tobytes()
                    for m, events in enumerate(arrays.modalities)
                ]
                seed = hashlib.sha256(repr((query, cutoffs[request] if any(read) else 0, read)).encode())
                vector = np.random.default_rng(list(seed.digest())).normal(size=128)
                result[number, request] = vector / np.linalg.norm(vector)
        return result


class PlainFeatures(FeatureRepository):
    """The real offline store; what goes to Feast is only noted down."""

    def __init__(self, workspace: Workspace, home: Home) -> None:
        super().__init__(workspace, home)
        self.applied = 0
        self.online_rows: dict[str, dict[str, datetime]] = {}
        self.cleared: list[str] = []
        self.takes_all = True

    def apply(self) -> list[str]:
        """Note it down."""
        self.applied += 1
        self.home.feast_registry.touch()
        return list(self.views)

    def clear_online(self, view: str) -> None:
        """Forget the view."""
        self.cleared.append(view)
        self.online_rows.pop(view, None)

    def materialize(self, views: Sequence[str], end: datetime) -> dict[str, int]:
        """Note the newest row of each user down."""
        for view in views:
            table = pq.read_table(self.home.view(view)).select(["user_id", "event_timestamp"])
            rows = self.online_rows.setdefault(view, {})
            for row in table.to_pylist():
                if row["event_timestamp"] <= end:
                    rows[row["user_id"]] = max(row["event_timestamp"], rows.get(row["user_id"], START))
        return {view: len(self.online_rows[view]) if self.takes_all else 0 for view in views}


@dataclass
class World:
    """Everything a backfill needs."""

    workspace: Workspace
    home: Home
    engine: Engine
    features: PlainFeatures
    embedder: HashEmbedder
    limits: dict[str, int] = field(default_factory=dict)

    @property
    def site(self) -> Site:
        """Where it reads and writes."""
        return Site.at(self.workspace, self.home, self.engine, self.features)

    def load(self, spaces: Sequence[Space]) -> tuple[HashEmbedder, list[Any]]:
        """The embedder, and the fingerprint of each space as its query."""
        return self.embedder, [space.fingerprint for space in spaces]

    def backfill(self, *scenarios: str, **options: Any) -> BackfillResult:
        """Run one, for all scenarios unless some are named."""
        request = BackfillRequest(scenarios or SCENARIOS, **options)
        return backfill(self.site, request, Silent(), LocalEngine(self.load, **self.limits))

    def rows(self, view: str) -> list[dict[str, Any]]:
        """The offline rows of a view, by user and time."""
        paths = [p for p in sorted(self.home.view(view).glob("*.parquet")) if p.stem != "empty"]
        rows = [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]
        return sorted(rows, key=lambda row: (row["user_id"], row["event_timestamp"]))

    def pairs(self, view: str) -> list[tuple[str, float]]:
        """(user, day) of the offline rows of a view."""
        return [
            (row["user_id"], round((row["event_timestamp"] - START).total_seconds() / 86_400, 6))
            for row in self.rows(view)
        ]


def make_world(folder: Path) -> World:
    """Three users with events, one label set with a user who has none."""
    home = Home(folder / "home")
    workspace = make_workspace(folder / "repo")
    url = f"sqlite:///{home.database}"
    engine = open_engine(url)
    prepare(engine, url)
    register_model(engine, model("m1"))
    add_events(
        home,
        workspace,
        [("ann", 1, "bill"), ("ann", 9, "bill"), ("ann", 2, "card"), ("bob", 3, "bill"), ("cyd", 10, "bill")],
    )
    add_labels(home, "money", [("ann", 5), ("bob", 5), ("nil", 5), ("ann", 8)])
    return World(workspace, home, engine, PlainFeatures(workspace, home), HashEmbedder(workspace))
