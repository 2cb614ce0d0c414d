"""The plan of a backfill: its pairs and events, kept on disk, so that all workers and later tries agree."""

import json
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.embedding.pairs import Pairs
from qanchor.files import atomic_file, write_atomically
from qanchor.home import Home
from qanchor.names import AS_OF, USER_ID
from qanchor.site import Site
from qanchor.storage.event_log import EventSource, UserRange, open_copy
from qanchor.times import DAY_SECONDS, column_microseconds

# Names of the stored form.
_SCENARIOS: Final = "wanted"
_PAIRS, _SHARED, _PLAN = "requests.parquet", "shared.parquet", "plan.json"


def plans_folder(home: Home) -> Path:
    """The folder with one folder for each plan."""
    return home.cache / "backfill"


@dataclass(frozen=True)
class Plan:
    """Which pairs a backfill embeds, and from which events.

    Args:
        folder: folder of the plan and of its shards' results.
        pairs: all pairs.
        shared: pairs that activity and profile are computed for.
        as_of: the snapshot's cut-off, UTC; None without one.
        bounds: shard n has the pairs bounds[n] to bounds[n + 1].
        events: of each shard's users, as they were when the plan was made.
        ingested_until: arrival of the newest event then, UTC.
        events_copy: name of the copy of the log as it was then; None where none was made.
    """

    folder: Path
    pairs: Pairs
    shared: Pairs
    as_of: datetime | None
    bounds: Sequence[int]
    events: Sequence[UserRange]
    ingested_until: datetime
    events_copy: str | None = None

    @property
    def sizes(self) -> list[int]:
        """Pairs of every shard."""
        return np.diff(self.bounds).tolist()

    def shard(self, number: int) -> Pairs:
        """The pairs of one shard."""
        return self.pairs.between(self.bounds[number], self.bounds[number + 1])

    def source(self, site: Site) -> EventSource:
        """The events that the plan was made from; where they are gone, the log as it is now."""
        copy = None
        if self.events_copy is not None:
            copy = open_copy(site.home.events_by_user, site.event_log, self.events_copy)
        return copy or site.event_log

    def write(self) -> None:
        """Write the plan to its folder."""
        packed = np.packbits(self.pairs.scenarios, axis=1)
        flags = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(packed.shape[1]), len(packed), [None, pa.py_buffer(packed.tobytes())]
        )
        tables = {
            _PAIRS: self.pairs.table().append_column(_SCENARIOS, flags),
            _SHARED: self.shared.table(),
        }
        for name, table in tables.items():
            with atomic_file(self.folder / name) as staged:
                pq.write_table(table, staged)
        parts = [
            {**asdict(part), "folder": str(part.folder.relative_to(self.folder))} for part in self.events
        ]
        content = {
            "as_of": self.as_of.isoformat() if self.as_of else None,
            "bounds": list(self.bounds),
            "ingested_until": self.ingested_until.isoformat(),
            "events_copy": self.events_copy,
            "scenarios": self.pairs.scenarios.shape[1],
            "events": parts,
        }
        write_atomically(self.folder / _PLAN, json.dumps(content))


def read_plan(folder: Path) -> Plan | None:
    """The plan of a folder; None where the cache has been emptied since."""
    path = folder / _PLAN
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    table = pq.read_table(folder / _PAIRS)
    packed = np.frombuffer(b"".join(table[_SCENARIOS].to_pylist()), np.uint8).reshape(table.num_rows, -1)
    flags = np.unpackbits(packed, axis=1, count=content["scenarios"]).astype(bool)
    shared = pq.read_table(folder / _SHARED)
    events = [
        UserRange(
            folder / part["folder"],
            tuple((name, kind) for name, kind in part["columns"]),
            part.get("where", "true"),
        )
        for part in content["events"]
    ]
    return Plan(
        folder,
        _pairs(table, flags),
        _pairs(shared, np.ones((shared.num_rows, 1), dtype=bool)),
        datetime.fromisoformat(content["as_of"]) if content["as_of"] else None,
        content["bounds"],
        events,
        datetime.fromisoformat(content["ingested_until"]),
        content.get("events_copy"),
    )


def _pairs(table: pa.Table, scenarios: NDArray[np.bool_]) -> Pairs:
    users = np.array(table[USER_ID].to_pylist(), dtype=object)
    return Pairs(users, column_microseconds(table[AS_OF]), scenarios)


def remove_plan(home: Home, name: str) -> None:
    """Delete the plan of a job that will not be resumed, and plans that were left more than a day ago."""
    for folder in plans_folder(home).glob("*"):
        # Other workers clean up at the same moment: what is gone already is as it should be.
        with suppress(FileNotFoundError):
            if folder.name == name or folder.stat().st_mtime < time.time() - DAY_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
