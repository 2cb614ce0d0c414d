"""FAISS indexes of unit vectors with the users they belong to; the only user of faiss.

Exact up to a size at which a scan costs milliseconds, an HNSW graph above it. A graph's recall is
measured when it is built and travels with it.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.errors import DiskFull, FingerprintMismatch, IndexInvalid
from qanchor.names import USER_ID

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Allowed = Rows | NDArray[np.bool_]

EXACT_BELOW: Final = 50_000
FORMAT: Final = 1

# A graph walk beats the scan only while few neighbours are wanted.
_GRAPH_MAX_K = 256
_RECALL_AT = 10
_RECALL_WANTED = 0.99
_RECALL_QUERIES = 256
_INDEX, _USERS, _METADATA = "index.faiss", "users.parquet", "metadata.json"


@dataclass(frozen=True)
class IndexMetadata:
    """What an index holds.

    Args:
        fingerprint: of the embedding space.
        manifest_id: the embedding manifest that the vectors come from.
        as_of: the newest cut-off of the vectors, ISO 8601 UTC.
        kind: 'flat' (exact) or 'hnsw32'.
        rows: users.
        width: of a vector.
        recall: share of the true 10 nearest found for held-out queries; 1 where exact.
        effort: how many candidates a graph search keeps (efSearch).
        sizes: bytes of each file; a file of another size was cut off.
        format: of the folder.
    """

    fingerprint: str
    manifest_id: int
    as_of: str
    kind: str = "flat"
    rows: int = 0
    width: int = 0
    recall: float = 1.0
    effort: int = 0
    sizes: dict[str, int] | None = None
    format: int = FORMAT


class VectorIndex:
    """An index in memory, or mapped from its file.

    Args:
        metadata: what it holds.
        users: string [rows], the user of each row, ascending.
        index: faiss's own object.
    """

    def __init__(self, metadata: IndexMetadata, users: pa.Array, index: Any) -> None:
        self.metadata = metadata
        self.users = users
        self._index = index

    @property
    def size(self) -> int:
        """How many row positions there are; masks over rows have this length."""
        return len(self.users)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.metadata.width

    def rows_of(self, user_ids: Sequence[str] | pa.Array) -> Rows:
        """Each user's row, int64 [len(user_ids)]; -1 where the user is not in the index."""
        found = pc.index_in(pa.array(user_ids, pa.string()), value_set=self.users)
        return np.asarray(found.fill_null(-1)).astype(np.int64)

    def user_ids(self, rows: Rows) -> pa.Array:
        """The users of some rows, string [len(rows)]; every row must be there."""
        return self.users.take(pa.array(rows, pa.int64()))

    def vectors(self, rows: Rows) -> Vectors:
        """The unit vectors of some rows, float32 [len(rows), width]."""
        result: Vectors = self._flat().reconstruct_batch(np.ascontiguousarray(rows, np.int64))
        return result

    def search(
        self, queries: Vectors, k: int, exclude: Rows | None = None, *, allowed: Allowed | None = None
    ) -> tuple[Vectors, Rows]:
        """The k rows of greatest inner product for each query, best first.

        Args:
            queries: float32 [queries, width], unit vectors.
            k: rows wanted; where fewer can be found, the rest are filled up.
            exclude: rows that must not be found.
            allowed: the rows that may be found, as a mask bool [size] or as positions int64; None: all.

        Returns:
            Inner products float32 [queries, k] (-inf where filled up) and rows int64 [queries, k] (-1 there).
        """
        faiss = _faiss()
        selector = None
        if allowed is not None or (exclude is not None and len(exclude)):
            mask = np.ones(self.size, bool) if allowed is None else _mask(allowed, self.size)
            if exclude is not None:
                mask[exclude] = False
            selector = faiss.IDSelectorBatch(np.flatnonzero(mask))
        wanted = k
        k = min(k, self.metadata.rows)
        queries = np.ascontiguousarray(queries, np.float32)
        if self.metadata.kind == "flat" or k > _GRAPH_MAX_K or allowed is not None:
            index, parameters = self._flat(), faiss.SearchParameters(sel=selector)
        else:
            effort = max(self.metadata.effort, k)
            index, parameters = self._index, faiss.SearchParametersHNSW(sel=selector, efSearch=effort)
        scores, rows = index.search(queries, k, params=parameters)
        scores = np.where(rows < 0, -np.inf, scores).astype(np.float32)
        spare = ((0, 0), (0, wanted - k))
        return np.pad(scores, spare, constant_values=-np.inf), np.pad(rows, spare, constant_values=-1)

    def save(self, folder: Path) -> IndexMetadata:
        """Write the index to a new folder, whole or not at all.

        Returns:
            The metadata as written.

        Raises:
            DiskFull: there is no space; free some.
        """
        faiss = _faiss()
        building = folder.with_name(f".{folder.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        try:
            faiss.write_index(self._index, str(building / _INDEX))
        except RuntimeError as error:  # all that faiss says of a disk that is full
            raise DiskFull(
                f"index {folder} could not be written", "Free some space, build it again."
            ) from error
        pq.write_table(pa.table({USER_ID: self.users}), building / _USERS)
        sizes = {name: (building / name).stat().st_size for name in (_INDEX, _USERS)}
        written = replace(self.metadata, sizes=sizes)
        (building / _METADATA).write_text(json.dumps(asdict(written), indent=2) + "\n", encoding="utf-8")
        for path in (*building.iterdir(), building):
            _sync(path)
        building.rename(folder)
        _sync(folder.parent)
        return written

    def _flat(self) -> Any:
        """The vectors themselves, which a graph keeps beside its edges."""
        faiss = _faiss()
        return self._index if self.metadata.kind == "flat" else faiss.downcast_index(self._index.storage)


def build_index(
    users: pa.Array, vectors: Vectors, origin: IndexMetadata, exact_below: int = EXACT_BELOW
) -> VectorIndex:
    """An index over unit vectors.

    Args:
        users: string [rows], distinct.
        vectors: float32 [rows, width], unit length.
        origin: its fingerprint, manifest_id and as_of are taken over.
        exact_below: fewer rows than this are searched exactly.

    Raises:
        IndexInvalid: there are none, a user is there twice, or a vector is not of length 1.
    """
    faiss = _faiss()
    _check(users, vectors)
    order = pc.sort_indices(users)
    users, vectors = users.take(order), np.ascontiguousarray(vectors[np.asarray(order)], np.float32)
    rows, width = vectors.shape
    metadata = replace(origin, rows=rows, width=width)
    if rows < exact_below:
        index = faiss.IndexFlatIP(width)
        index.add(vectors)
        return VectorIndex(replace(metadata, kind="flat", recall=1.0, effort=0), users, index)
    index = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.add(vectors)
    recall, effort = _tune(index, vectors)
    return VectorIndex(replace(metadata, kind="hnsw32", recall=recall, effort=effort), users, index)


def load_index(folder: Path, fingerprint: str | None = None) -> VectorIndex:
    """The index of a folder, its vectors mapped from disk and read as they are needed.

    Args:
        folder: as `VectorIndex.save` wrote it.
        fingerprint: of the embedding space that is expected; None accepts any.

    Raises:
        IndexInvalid: a file is missing, cut off or of another format; build the index again.
        FingerprintMismatch: the index is of another embedding space; build it again.
    """
    faiss = _faiss()
    metadata = _read_metadata(folder)
    if fingerprint is not None and metadata.fingerprint != fingerprint:
        raise FingerprintMismatch(
            f"index {folder} is of embedding space {metadata.fingerprint[:12]}, not {fingerprint[:12]}",
            "Run `qanchor-cli index build`.",
        )
    try:
        users = pq.read_table(folder / _USERS)[USER_ID].combine_chunks()
        index = faiss.read_index(str(folder / _INDEX), faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, OSError, pa.ArrowException, KeyError) as error:
        raise _damaged(folder, str(error).splitlines()[0]) from error
    if not index.ntotal == len(users) == metadata.rows or index.d != metadata.width:
        raise _damaged(folder, "its files do not belong together")
    return VectorIndex(metadata, users, index)


def _read_metadata(folder: Path) -> IndexMetadata:
    try:
        metadata = IndexMetadata(**json.loads((folder / _METADATA).read_text(encoding="utf-8")))
        sizes = {name: (folder / name).stat().st_size for name in metadata.sizes or {}}
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(folder, str(error)) from error
    if metadata.format != FORMAT:
        raise _damaged(folder, f"it has format {metadata.format}, not {FORMAT}")
    if not sizes or sizes != metadata.sizes:
        raise _damaged(folder, "a file was cut off")
    return metadata


def _damaged(folder: Path, reason: str) -> IndexInvalid:
    return IndexInvalid(f"index {folder} cannot be read: {reason}", "Run `qanchor-cli index build`.")


def _check(users: pa.Array, vectors: Vectors) -> None:
    remedy = "Run `qanchor-cli backfill` again."
    if not len(users):
        raise IndexInvalid("there are no vectors to index", remedy)
    if len(users) != len(vectors) or pc.count_distinct(users).as_py() != len(users):
        raise IndexInvalid("a user has more than one vector", remedy)
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1.0) < 1e-3))
    if len(wrong):
        raise IndexInvalid(
            f"the vector of user {users[int(wrong[0])].as_py()!r} has length {lengths[wrong[0]]:.4g}, not 1",
            remedy,
        )


def _tune(index: Any, vectors: Vectors) -> tuple[float, int]:
    """The least search effort that finds what is wanted, and the share that it finds."""
    faiss = _faiss()
    # Held out: each query lies between two users, as a centroid of seeds does.
    random = np.random.default_rng(0)
    pairs = random.integers(0, len(vectors), (2, min(_RECALL_QUERIES, len(vectors))))
    queries = vectors[pairs[0]] + 0.5 * vectors[pairs[1]]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    true = faiss.downcast_index(index.storage).search(queries, _RECALL_AT)[1]
    recall, effort = 0.0, 32
    while recall < _RECALL_WANTED and effort < 1024:
        effort *= 2
        found = index.search(queries, _RECALL_AT, params=faiss.SearchParametersHNSW(efSearch=effort))[1]
        recall = float((found[:, :, None] == true[:, None, :]).any(axis=2).mean())
    return recall, effort


def _faiss() -> Any:
    # Untyped on purpose: faiss ships type stubs that lack the search parameters.
    import faiss

    return faiss


def _mask(allowed: Allowed, size: int) -> NDArray[np.bool_]:
    """A new mask of the rows that may be found."""
    if allowed.dtype == np.bool_:
        return allowed.astype(np.bool_)
    mask = np.zeros(size, np.bool_)
    mask[allowed] = True
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
