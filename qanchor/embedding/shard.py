"""One shard of a backfill: its users' histories in, one part file of vectors per scenario out.

A user whose data breaks the encoder is set aside with the reason; the shard goes on without.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.embedding.requests import EmbeddingRequests
from qanchor.embedding.spaces import Space
from qanchor.embedding.vector_rows import VectorRows, what_was_read
from qanchor.errors import QAnchorError, StateError
from qanchor.events.history import EventArrays, Int64, slice_histories
from qanchor.model.space import narrowed
from qanchor.names import EMBEDDING_WIDTH
from qanchor.storage import checksums, parts
from qanchor.threads import ahead
from qanchor.workspace import Workspace

CHUNK_REQUESTS: Final = 2_048
_MOST_SET_ASIDE: Final = 100
_REASON_LENGTH: Final = 200


class Embedder(Protocol):
    """Histories to vectors; `qanchor.model.embedder.UserEmbedder` is one."""

    def embed(
        self, arrays: EventArrays, rows: Int64, cutoffs: Int64, queries: Sequence[Any]
    ) -> NDArray[np.float32]:
        """Unit vectors, float32 [queries, requests, dim]; a row of -1 is a user without events."""
        ...


@dataclass(frozen=True)
class Target:
    """A scenario that a shard writes vectors of.

    Args:
        scenario: its name.
        model_version: that makes the vectors.
        query: text and soft prompt that the embedder takes.
        width: first numbers of a vector that are kept.
    """

    scenario: str
    model_version: str
    query: Any
    width: int = EMBEDDING_WIDTH


def targets_of(spaces: Sequence[Space], queries: Sequence[Any]) -> list[Target]:
    """What a shard writes, in the order of the spaces."""
    return [
        Target(space.scenario, space.model.version, query, space.width)
        for space, query in zip(spaces, queries, strict=True)
    ]


@dataclass
class ShardOutcome:
    """What a shard left behind.

    Args:
        rows: vectors by scenario.
        totals: of their checksums, by scenario.
        set_aside: reason by user.
    """

    rows: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For the registry."""
        totals = {name: f"{value:x}" for name, value in self.totals.items()}
        return {"rows": self.rows, "totals": totals, "set_aside": self.set_aside}


class StopShard(Exception):
    """The lease is lost or the job cancelled: what was computed is of no use."""


@dataclass
class ShardWork:
    """Computes one shard.

    Args:
        arrays: events of at least the shard's users.
        workspace: the window and its limits.
        embedder: the model.
        targets: in the order of the requests' scenarios.
        folder: where the part files go; made anew.
        stop: set when the work has become useless.
        advance: called with the number of requests that are done.
    """

    arrays: EventArrays
    workspace: Workspace
    embedder: Embedder
    targets: Sequence[Target]
    folder: Path
    stop: threading.Event
    advance: Callable[[int], None]

    def run(self, requests: EmbeddingRequests) -> ShardOutcome:
        """Embed the requests and write the parts.

        Raises:
            StateError: so many users break the encoder that it is no user's fault.
            StopShard: `stop` was set.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        outcome = ShardOutcome({t.scenario: 0 for t in self.targets}, {t.scenario: 0 for t in self.targets})
        writers: dict[str, Any] = {}
        rows = self.arrays.user_rows(requests.users)
        # Vectors are written while the next ones are made.
        made = ahead(self._chunks(requests, rows, outcome))
        try:
            for scenarios, some, found in made:
                for members, vectors in found:
                    self._write(requests, rows, scenarios, (members, vectors), (outcome, writers))
                self.advance(len(some))
        finally:
            made.close()
            for writer in writers.values():
                writer.close()
        parts.sync_folder(self.folder)
        return outcome

    def _chunks(
        self, requests: EmbeddingRequests, rows: Int64, outcome: ShardOutcome
    ) -> Iterator[tuple[Int64, Int64, list[tuple[Int64, NDArray[np.float32]]]]]:
        """Scenarios, requests, and the vectors of those that could be embedded."""
        for scenarios, members in requests.groups():
            for start in range(0, len(members), CHUNK_REQUESTS):
                if self.stop.is_set():
                    raise StopShard
                some = members[start : start + CHUNK_REQUESTS]
                yield scenarios, some, self._embedded(requests, rows, scenarios, some, outcome)

    def _write(
        self,
        requests: EmbeddingRequests,
        rows: Int64,
        scenarios: Int64,
        made: tuple[Int64, NDArray[np.float32]],
        into: tuple[ShardOutcome, dict[str, Any]],
    ) -> None:
        (members, vectors), (outcome, writers) = made, into
        cutoffs, users = requests.cutoffs[members], requests.users[members]
        slices = slice_histories(self.arrays, rows[members], cutoffs, self.workspace)
        events, last = what_was_read(self.arrays, slices)
        for number, whole in zip(scenarios, vectors, strict=True):
            target = self.targets[number]
            found = narrowed(whole, target.width)
            table = VectorRows(users, cutoffs, found, events, last).table(
                target.scenario, target.model_version
            )
            if target.scenario not in writers:
                path = self.folder / f"{target.scenario}.parquet"
                writers[target.scenario] = parts.part_writer(path, parts.embedding_schema(target.scenario))
            writers[target.scenario].write_table(table)
            total = checksums.total(checksums.row_hashes(users, cutoffs, found))
            outcome.rows[target.scenario] += len(users)
            outcome.totals[target.scenario] = checksums.combined([outcome.totals[target.scenario], total])

    def _embedded(
        self,
        requests: EmbeddingRequests,
        rows: Int64,
        scenarios: Int64,
        some: Int64,
        outcome: ShardOutcome,
    ) -> list[tuple[Int64, NDArray[np.float32]]]:
        """The vectors of the requests that can be embedded; where one cannot, its user is found by
        halving."""
        queries = [self.targets[number].query for number in scenarios]
        try:
            vectors = self.embedder.embed(self.arrays, rows[some], requests.cutoffs[some], queries)
        except (QAnchorError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  # whatever one user's data may do to an encoder
            if len(some) == 1:
                self._set_aside(requests.users[some[0]], f"{type(error).__name__}: {error}", outcome)
                return []
            half = len(some) // 2
            return [
                *self._embedded(requests, rows, scenarios, some[:half], outcome),
                *self._embedded(requests, rows, scenarios, some[half:], outcome),
            ]
        sound = np.isfinite(vectors).all(axis=(0, 2))
        for user in requests.users[some[~sound]]:
            self._set_aside(user, "the vector is not finite", outcome)
        return [(some[sound], vectors[:, sound])] if sound.any() else []

    @staticmethod
    def _set_aside(user: str, reason: str, outcome: ShardOutcome) -> None:
        outcome.set_aside[user] = " ".join(reason.split())[:_REASON_LENGTH]
        if len(outcome.set_aside) > _MOST_SET_ASIDE:
            raise StateError(
                f"the encoder fails for more than {_MOST_SET_ASIDE} users of a shard, last: {reason}",
                "This is no user's fault: look at the model and at the machine.",
            )


def rows_in(folder: Path, scenario: str) -> int:
    """Rows of a shard's part file; 0 where it has none."""
    path = folder / f"{scenario}.parquet"
    return int(pq.read_metadata(path).num_rows) if path.exists() else 0
