"""One shard: histories of its users in, one part file of vectors per scenario out.

A user whose data breaks the encoder is set aside with the reason; the shard goes on without.
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qanchor.embedding.pairs import Pairs, VectorRows, events_read
from qanchor.embedding.spaces import Space
from qanchor.errors import QAnchorError, StateError
from qanchor.events.history import EventArrays, Int64, slice_histories
from qanchor.files import sync_folder
from qanchor.model.space import narrowed
from qanchor.names import EMBEDDING_WIDTH
from qanchor.storage import checksums, parts
from qanchor.threads import ahead
from qanchor.workspace import Workspace

if TYPE_CHECKING:
    from qanchor.model.embedder import Query

CHUNK_PAIRS: Final = 2_048
MAX_SET_ASIDE: Final = 100
_REASON_LENGTH: Final = 200


class Embedder(Protocol):
    """Histories to vectors; `qanchor.model.embedder.UserEmbedder` is one."""

    def embed(
        self, arrays: EventArrays, rows: Int64, cutoffs: Int64, queries: "Sequence[Query]"
    ) -> NDArray[np.float32]:
        """Unit vectors, float32 [queries, pairs, dim]; a row of -1 is a user without events."""
        ...


@dataclass(frozen=True)
class Target:
    """A scenario that a shard writes vectors of.

    Args:
        scenario: name of the scenario.
        model_version: version of the model that makes the vectors.
        query: query and soft prompt, as the embedder takes them.
        width: first numbers of a vector that are kept.
    """

    scenario: str
    model_version: str
    query: "Query"
    width: int = EMBEDDING_WIDTH


def targets_of(spaces: Sequence[Space], queries: "Sequence[Query]") -> list[Target]:
    """What a shard writes, in the order of the spaces."""
    return [
        Target(space.scenario, space.model.version, query, space.width)
        for space, query in zip(spaces, queries, strict=True)
    ]


@dataclass
class ShardResult:
    """What a finished shard has written.

    Args:
        folder: folder with one part file per scenario that has rows.
        rows: number of vectors by scenario.
        totals: totals of the vectors' checksums by scenario.
        set_aside: reason by user.
    """

    folder: Path
    rows: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For the registry."""
        totals = {name: f"{total:x}" for name, total in self.totals.items()}
        return {
            "folder": self.folder.name,
            "rows": self.rows,
            "totals": totals,
            "set_aside": self.set_aside,
        }

    @classmethod
    def from_json(cls, parent: Path, content: Mapping[str, Any]) -> "ShardResult":
        """From the registry.

        Args:
            parent: folder of the job's shards.
            content: from `as_json`.
        """
        totals = {name: int(total, 16) for name, total in content["totals"].items()}
        return cls(parent / content["folder"], content["rows"], totals, content["set_aside"])


class StopShard(Exception):
    """The lease is lost or the job cancelled: what was computed is of no use."""


@dataclass(frozen=True)
class Shard:
    """Pairs that one worker embeds at a time.

    Args:
        pairs: the pairs.
        arrays: events of at least their users.
        folder: folder of the part files; emptied first.
        stop: set when the result has become useless.
    """

    pairs: Pairs
    arrays: EventArrays
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)


class _Vectors(NamedTuple):
    """Vectors of some pairs: their rows, int64 [rows], and float32 [scenarios, rows, dim]."""

    rows: Int64
    vectors: NDArray[np.float32]


class _Chunk(NamedTuple):
    """Pairs that were embedded together: scenarios, number of pairs, and the vectors that could be made."""

    scenarios: Int64
    size: int
    made: list[_Vectors]


@dataclass(frozen=True)
class ShardRunner:
    """Embeds shards.

    Args:
        workspace: the window and its limits.
        embedder: the model.
        targets: scenarios in the order of the pairs'.
        advance: called with the number of pairs that are done.
        chunk_pairs: pairs of one call of the embedder.
        max_set_aside: users of a shard that may break the encoder.
    """

    workspace: Workspace
    embedder: Embedder
    targets: Sequence[Target]
    advance: Callable[[int], None]
    chunk_pairs: int = CHUNK_PAIRS
    max_set_aside: int = MAX_SET_ASIDE

    def run(self, shard: Shard) -> ShardResult:
        """Embed a shard and write its part files.

        Raises:
            StateError: too many users break the encoder: the fault is not in their data.
            StopShard: the shard's `stop` was set.
        """
        shutil.rmtree(shard.folder, ignore_errors=True)
        shard.folder.mkdir(parents=True)
        names = [target.scenario for target in self.targets]
        result = ShardResult(shard.folder, dict.fromkeys(names, 0), dict.fromkeys(names, 0))
        return _Run(self, shard, result).run()


@dataclass
class _Run:
    """The run of one shard."""

    runner: ShardRunner
    shard: Shard
    result: ShardResult
    writers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.histories = self.shard.arrays.user_rows(self.shard.pairs.users)

    def run(self) -> ShardResult:
        # Vectors are written while the next ones are made.
        chunks = ahead(self._chunks())
        try:
            for chunk in chunks:
                for some in chunk.made:
                    self._write(chunk.scenarios, some)
                self.runner.advance(chunk.size)
        finally:
            chunks.close()
            for writer in self.writers.values():
                writer.close()
        sync_folder(self.shard.folder)
        return self.result

    def _chunks(self) -> Iterator[_Chunk]:
        size = self.runner.chunk_pairs
        for scenarios, rows in self.shard.pairs.groups():
            for start in range(0, len(rows), size):
                if self.shard.stop.is_set():
                    raise StopShard
                some = rows[start : start + size]
                yield _Chunk(scenarios, len(some), self._embed(scenarios, some))

    def _embed(self, scenarios: Int64, rows: Int64) -> list[_Vectors]:
        """The vectors that can be made; a user who breaks the encoder is singled out by halving."""
        pairs, arrays = self.shard.pairs, self.shard.arrays
        queries = [self.runner.targets[number].query for number in scenarios]
        try:
            vectors = self.runner.embedder.embed(arrays, self.histories[rows], pairs.cutoffs[rows], queries)
        except (QAnchorError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  # whatever one user's data may do to an encoder
            if len(rows) == 1:
                self._set_aside(pairs.users[rows[0]], f"{type(error).__name__}: {error}")
                return []
            half = len(rows) // 2
            return [*self._embed(scenarios, rows[:half]), *self._embed(scenarios, rows[half:])]
        sound = np.isfinite(vectors).all(axis=(0, 2))
        for user in pairs.users[rows[~sound]]:
            self._set_aside(user, "the vector is not finite")
        return [_Vectors(rows[sound], vectors[:, sound])] if sound.any() else []

    def _set_aside(self, user: str, reason: str) -> None:
        self.result.set_aside[user] = " ".join(reason.split())[:_REASON_LENGTH]
        most = self.runner.max_set_aside
        if len(self.result.set_aside) > most:
            raise StateError(
                f"the encoder fails for more than {most} users of a shard, last: {reason}",
                "This is no user's fault: look at the model and at the machine.",
            )

    def _write(self, scenarios: Int64, some: _Vectors) -> None:
        pairs, arrays, result = self.shard.pairs, self.shard.arrays, self.result
        cutoffs, users = pairs.cutoffs[some.rows], pairs.users[some.rows]
        slices = slice_histories(arrays, self.histories[some.rows], cutoffs, self.runner.workspace)
        events, last = events_read(arrays, slices)
        for number, whole in zip(scenarios, some.vectors, strict=True):
            target = self.runner.targets[number]
            vectors, name = narrowed(whole, target.width), target.scenario
            table = VectorRows(users, cutoffs, vectors, events, last).table(name, target.model_version)
            if name not in self.writers:
                path = self.shard.folder / f"{name}.parquet"
                self.writers[name] = parts.part_writer(path, parts.embedding_schema(name))
            self.writers[name].write_table(table)
            result.rows[name] += len(users)
            total = checksums.total(checksums.row_hashes(users, cutoffs, vectors))
            result.totals[name] = checksums.combined([result.totals[name], total])
