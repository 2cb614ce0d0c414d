"""What an index says of itself, and how one is to be built."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Allowed = Rows | Mask

Kind = Literal["flat", "codes", "ivf", "hnsw"]

FORMAT: Final = 2
EXACT_BELOW: Final = 50_000
RECALL_AT: Final = 100


@dataclass(frozen=True)
class IndexPlan:
    """How an index is to be built.

    Args:
        kind: 'auto' chooses by size and memory; 'flat', 'codes', 'ivf' and 'hnsw' insist.
        exact_below: fewer rows than this are searched exactly.
        recall: share of the true 100 nearest that a search must find.
        memory_bytes: what a search may keep in memory; 0: no limit.
        shard_rows: most rows of one segment, hence of one file.
        queries: held-out queries that the recall is measured with; as many others tune it.
    """

    kind: Kind | Literal["auto"] = "auto"
    exact_below: int = EXACT_BELOW
    recall: float = 0.98
    memory_bytes: int = 0
    shard_rows: int = 20_000_000
    queries: int = 200


@dataclass(frozen=True)
class SegmentMetadata:
    """One file of an index.

    Args:
        kind: 'flat' scans vectors; 'codes' scans 4-bit codes and ranks the best anew by their vectors;
            'ivf' scans the codes of the nearest cells only; 'hnsw' walks a graph.
        rows: users.
        parameters: that a search runs with: cells probed, candidates ranked anew, ...
        recall: share of the true 100 nearest found for held-out queries, the harder of two sorts; 1 where
            exact.
        queries: how many of them; 0 where exact.
        build_seconds: to train, fill and tune it.
        memory_bytes: what a search needs in memory besides the vectors that are mapped from disk.
        is_update: it holds what changed since the others were built.
    """

    kind: Kind
    rows: int
    parameters: dict[str, float] = field(default_factory=dict)
    recall: float = 1.0
    queries: int = 0
    build_seconds: float = 0.0
    memory_bytes: int = 0
    is_update: bool = False


@dataclass(frozen=True)
class IndexMetadata:
    """What an index holds.

    Args:
        fingerprint: of the embedding space.
        manifest_id: the embedding manifest that the vectors come from.
        as_of: the newest cut-off of the vectors, ISO 8601 UTC.
        width: of a vector.
        segments: one for each file, in the order of their rows.
        removed: rows of segments that are no user's any more.
        sizes: bytes of each file; a file of another size was cut off.
        format: of the folder.
    """

    fingerprint: str
    manifest_id: int
    as_of: str
    width: int = 0
    segments: tuple[SegmentMetadata, ...] = ()
    removed: int = 0
    sizes: dict[str, int] | None = None
    format: int = FORMAT

    @property
    def kind(self) -> str:
        """Of the largest segment."""
        return max(self.segments, key=lambda segment: segment.rows).kind

    @property
    def rows(self) -> int:
        """Users that can be found."""
        return sum(segment.rows for segment in self.segments) - self.removed

    @property
    def parameters(self) -> dict[str, float]:
        """Of the largest segment."""
        return max(self.segments, key=lambda segment: segment.rows).parameters

    @property
    def recall(self) -> float:
        """Of all segments, each weighted by its rows."""
        return float(np.average([s.recall for s in self.segments], weights=[s.rows for s in self.segments]))

    @property
    def queries(self) -> int:
        """Held-out queries that the recall was measured with; 0 where the search is exact."""
        return sum(segment.queries for segment in self.segments)

    @property
    def build_seconds(self) -> float:
        """To train, fill and tune all segments."""
        return sum(segment.build_seconds for segment in self.segments)

    @property
    def memory_bytes(self) -> int:
        """What a search needs in memory besides the vectors that are mapped from disk."""
        return sum(segment.memory_bytes for segment in self.segments)

    @property
    def bytes(self) -> int:
        """Of all files; 0 before it is saved."""
        return sum((self.sizes or {}).values())

    def facts(self) -> dict[str, Any]:
        """What a reader wants to know, by name."""
        return {
            "kind": self.kind,
            "users": self.rows,
            "width": self.width,
            "parameters": self.parameters,
            "recall": self.recall,
            "recall_at": RECALL_AT,
            "recall_queries": self.queries,
            "build_seconds": round(self.build_seconds, 2),
            "bytes": self.bytes,
            "memory_bytes": self.memory_bytes,
            "bytes_per_user": round(self.bytes / max(1, self.rows), 1),
            "segments": len(self.segments),
            "removed": self.removed,
            "manifest_id": self.manifest_id,
            "fingerprint": self.fingerprint,
            "as_of": self.as_of,
        }
