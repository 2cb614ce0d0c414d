"""What an index's files say of it, and the options it is built with."""

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
    """Options of building an index.

    Args:
        kind: one of the four kinds; 'auto' chooses by size and memory.
        exact_below: number of rows below which the search is exact.
        recall: share of the true 100 nearest that a search must find.
        memory_bytes: most memory of a search; 0: no limit.
        shard_rows: most rows of one segment, hence of one file.
        queries: number of held-out queries that measure the recall; as many others tune it.
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
        kind: 'flat' scans vectors; 'codes' scans 4-bit codes and ranks the best again by their vectors;
            'ivf' scans the codes of the nearest cells only; 'hnsw' walks a graph.
        rows: number of users.
        parameters: search parameters: cells probed, candidates ranked again, ...
        recall: share of the true 100 nearest found for held-out queries, the harder of two kinds; 1 where
            exact.
        queries: number of held-out queries; 0 where exact.
        build_seconds: seconds that training, filling and tuning took.
        memory_bytes: memory of a search, without the vectors that are mapped from disk.
        is_update: whether it holds what changed since the others were built.
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
        fingerprint: fingerprint of the embedding space.
        manifest_id: embedding manifest of the vectors.
        as_of: newest cut-off of the vectors, ISO 8601 UTC.
        width: dimensions of a vector.
        segments: metadata of each segment, in the order of their rows.
        removed: number of rows whose users were changed or removed.
        sizes: bytes of each file; a file of another size was cut off.
        format: version of the folder's format.
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
        """Kind of the largest segment."""
        return max(self.segments, key=lambda segment: segment.rows).kind

    @property
    def rows(self) -> int:
        """Number of users."""
        return sum(segment.rows for segment in self.segments) - self.removed

    @property
    def parameters(self) -> dict[str, float]:
        """Search parameters of the largest segment."""
        return max(self.segments, key=lambda segment: segment.rows).parameters

    @property
    def recall(self) -> float:
        """Mean recall of all segments, weighted by their rows."""
        return float(np.average([s.recall for s in self.segments], weights=[s.rows for s in self.segments]))

    @property
    def queries(self) -> int:
        """Held-out queries that the recall was measured with; 0 where the search is exact."""
        return sum(segment.queries for segment in self.segments)

    @property
    def build_seconds(self) -> float:
        """Seconds that training, filling and tuning all segments took."""
        return sum(segment.build_seconds for segment in self.segments)

    @property
    def memory_bytes(self) -> int:
        """Memory of a search, without the vectors that are mapped from disk."""
        return sum(segment.memory_bytes for segment in self.segments)

    @property
    def bytes(self) -> int:
        """Size of all files; 0 before it is saved."""
        return sum((self.sizes or {}).values())

    def facts(self) -> dict[str, Any]:
        """Facts for display, by name."""
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
