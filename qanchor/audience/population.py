"""The users of a scenario's index, and the seed users among them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.audience.features import OfflineFeatures
from qanchor.audience.index import open_scenario_index
from qanchor.errors import SeedsInvalid
from qanchor.names import embedding_view
from qanchor.registry.manifests import part_name
from qanchor.site import Site
from qanchor.storage.sql import connect
from qanchor.storage.vectors import Rows, VectorIndex, Vectors
from qanchor.times import read_moment

Mask = NDArray[np.bool_]

_EVENTLESS = """
    SELECT user_id FROM read_parquet($parts)
    WHERE user_id IN (SELECT user_id FROM read_parquet($parts) WHERE n_events = 0)
    GROUP BY user_id HAVING max_by(n_events, event_timestamp) = 0
"""


@dataclass(frozen=True)
class Population:
    """The users that one scenario's index holds.

    Args:
        scenario: name of the scenario.
        index: vectors of the users.
        version: version of the index in the registry.
        is_behind: whether newer embeddings than the index's are in service.
        eventless: bool [rows], users without an event inside the history window; None where that is unknown.
        features: features of the users at the index's cut-off; None where there are none to filter by.
    """

    scenario: str
    index: VectorIndex
    version: str = ""
    is_behind: bool = False
    eventless: Mask | None = None
    features: OfflineFeatures | None = None

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the embedding space."""
        return self.index.metadata.fingerprint

    @property
    def as_of(self) -> datetime:
        """The newest cut-off of the vectors, UTC."""
        return read_moment(self.index.metadata.as_of)

    def is_eventless(self, rows: Rows) -> Mask:
        """Which rows are users without events, bool [len(rows)]; False where that is unknown."""
        if self.eventless is None:
            return np.zeros(len(rows), bool)
        return (rows >= 0) & self.eventless[np.maximum(rows, 0)]

    def mask_of(self, users: Sequence[str] | pa.ChunkedArray) -> Mask:
        """Which rows are some users', bool [rows]; users that the index does not have are ignored."""
        mask = np.zeros(self.index.size, bool)
        rows = self.index.rows_of(users)
        mask[rows[rows >= 0]] = True
        return mask


def open_population(site: Site, scenario: str) -> Population:
    """The users of the index that serves a scenario.

    Args:
        site: index, offline store, registry and workspace.
        scenario: name of the scenario.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        NotReady: no index was built yet; run `qanchor-cli index build --scenario`.
        IndexInvalid: its files are damaged; build it again.
    """
    site.workspace.scenario(scenario)
    served = open_scenario_index(site, scenario)
    population = Population(scenario, served.index, served.version, served.is_behind)
    return replace(
        population,
        eventless=_eventless(site, population),
        features=OfflineFeatures(site, population.as_of),
    )


def _eventless(site: Site, population: Population) -> Mask | None:
    """Read from the parts of the manifest that the index was built from, while they exist."""
    manifest, view = population.index.metadata.manifest_id, embedding_view(population.scenario)
    pattern = f"{part_name(manifest, 0)[:-5]}*.parquet"
    parts = sorted(site.home.generation(view, manifest).glob(pattern)) or sorted(
        site.home.view(view).glob(pattern)
    )
    if not parts:
        return None
    with connect() as connection:
        table = connection.execute(_EVENTLESS, {"parts": [str(path) for path in parts]}).to_arrow_table()
    return population.mask_of(table["user_id"])


@dataclass(frozen=True)
class Seeds:
    """Seed users that the index knows, and those that a search cannot use.

    Args:
        users: string [seeds], distinct, in the order of the request.
        rows: int64 [seeds], their rows in the index.
        vectors: float32 [seeds, width].
        unknown: users that the index does not have, in the order of the request.
        without_events: users whose history is empty at the index's cut-off: all of them share one vector,
            which says nothing about them.
        duplicates: number of repetitions in the request.
    """

    users: pa.Array
    rows: Rows
    vectors: Vectors
    unknown: tuple[str, ...]
    without_events: tuple[str, ...]
    duplicates: int

    def take(self, positions: Rows) -> "Seeds":
        """The seeds at some positions, int64; unknown ones and repetitions are not counted again."""
        users = self.users.take(pa.array(positions, pa.int64()))
        return Seeds(users, self.rows[positions], self.vectors[positions], (), (), 0)


def find_seeds(population: Population, user_ids: Sequence[str]) -> Seeds:
    """Look seeds up in the index; each is either usable or reported.

    Args:
        population: users of the index.
        user_ids: requested seeds, repetitions and unknown ones included.

    Raises:
        SeedsInvalid: none is usable, or all have the same vector; the message says which.
    """
    distinct = list(dict.fromkeys(user_ids))
    rows = population.index.rows_of(distinct)
    known = rows >= 0
    empty = known & population.is_eventless(rows)
    unknown, without_events = (
        tuple(user for user, applies in zip(distinct, mask, strict=True) if applies)
        for mask in (~known, empty)
    )
    _refuse_unusable(distinct, unknown, without_events)
    usable = rows[known & ~empty]
    vectors = population.index.vectors(usable)
    if len(distinct) == 1 < len(user_ids):
        raise SeedsInvalid(
            f"the {len(user_ids):,} seeds are all the same user", "Give other users, or this one once."
        )
    if len(usable) > 1 and not np.any(np.ptp(vectors, axis=0) > 1e-7):
        raise SeedsInvalid(
            f"the {len(usable):,} seeds are identical: all have the same vector", "Give seeds that differ."
        )
    users = population.index.user_ids(usable)
    return Seeds(users, usable, vectors, unknown, without_events, len(user_ids) - len(distinct))


def _refuse_unusable(distinct: Sequence[str], unknown: Sequence[str], without_events: Sequence[str]) -> None:
    if len(unknown) + len(without_events) < len(distinct):
        return
    first = f", the first is {distinct[0]!r}" if distinct else ""
    if without_events:
        raise SeedsInvalid(
            f"no seed is usable: {len(without_events):,} have no events at the embeddings'"
            f" cut-off and {len(unknown):,} have no embedding{first}",
            "Give users with events inside the history window.",
        )
    raise SeedsInvalid(
        f"none of the {len(distinct):,} seeds has an embedding{first}",
        "Use ids of users in the event log, or run `qanchor-cli backfill` and `index build` again.",
    )
