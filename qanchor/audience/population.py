"""The users of a scenario's index: who they are, and which of them may be found."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.audience.features import OfflineFeatures
from qanchor.audience.index import open_scenario_index
from qanchor.names import embedding_view
from qanchor.registry.manifests import part_name
from qanchor.site import Site
from qanchor.storage.sql import connect
from qanchor.storage.vectors import Rows, VectorIndex

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
        scenario: whose space it is.
        index: the vectors.
        version: the index's name in the registry.
        is_behind: the scenario has been embedded anew since the index was built.
        eventless: bool [rows], users without an event inside the history window; None where it is not known.
        features: of the users at the index's cut-off; None where there are none to filter by.
    """

    scenario: str
    index: VectorIndex
    version: str = ""
    is_behind: bool = False
    eventless: Mask | None = None
    features: OfflineFeatures | None = None

    @property
    def fingerprint(self) -> str:
        """Of the embedding space."""
        return self.index.metadata.fingerprint

    @property
    def as_of(self) -> datetime:
        """The newest cut-off of the vectors, UTC."""
        return datetime.fromisoformat(self.index.metadata.as_of).astimezone(UTC)

    def is_eventless(self, rows: Rows) -> Mask:
        """Which rows are users without events, bool [len(rows)]; False where it is not known."""
        if self.eventless is None:
            return np.zeros(len(rows), bool)
        return (rows >= 0) & self.eventless[np.maximum(rows, 0)]

    def mask_of(self, users: Sequence[str] | pa.Array) -> Mask:
        """The rows of some users, bool [rows]; users that the index does not have are none."""
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
        UnknownScenario: there is no such scenario.
        NotReady: no index was built yet; run `qanchor-cli index build --scenario`.
        IndexInvalid: its files are damaged; build it again.
    """
    site.workspace.scenario(scenario)
    served = open_scenario_index(site, scenario)
    opened = Population(scenario, served.index, served.version, served.is_behind)
    return Population(
        scenario,
        served.index,
        served.version,
        served.is_behind,
        _eventless(site, opened),
        OfflineFeatures(site, opened.as_of),
    )


def _eventless(site: Site, population: Population) -> Mask | None:
    """Read from the parts of the manifest that the index was built of, as long as they are there."""
    manifest, view = population.index.metadata.manifest_id, embedding_view(population.scenario)
    pattern = f"{part_name(manifest, 0)[:-5]}*.parquet"
    parts = sorted(site.home.generation(view, manifest).glob(pattern)) or sorted(
        site.home.view(view).glob(pattern)
    )
    if not parts:
        return None
    with connect() as connection:
        found = connection.execute(_EVENTLESS, {"parts": [str(path) for path in parts]}).to_arrow_table()
    return population.mask_of(found["user_id"].combine_chunks())
