"""The indexes of `benchmarks.audience`: recall and speed, against exact search and other libraries."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.harness import Bar
from qanchor.storage.vectors import IndexMetadata, IndexPlan, VectorIndex, build_index, load_index, save_index
from qanchor.storage.vectors.exact import load_faiss

faiss = load_faiss()

World = Literal["clustered", "isotropic"]
Matrix = NDArray[np.float32]
Neighbours = NDArray[np.int64]
Search = Callable[[Matrix], Neighbours]

K = 100
WIDTH = 128
RECALL, FASTER, SPREAD = 0.98, 20.0, 5.0
AS_OF = "2026-01-01T00:00:00+00:00"
_CLUSTERS = 1_000
_EFFORTS = (100, 150, 200, 300, 400, 600, 800, 1_200, 1_600, 2_400, 3_200, 4_800)
_LOAD = """
import json, sys, time, faiss, numpy as np
from pathlib import Path
from qanchor.storage.vectors import load_index
began = time.perf_counter()
index = load_index(Path(sys.argv[1]))
loaded = time.perf_counter()
index.search(np.eye(1, index.dim, dtype=np.float32), 100)
print(json.dumps({"load": loaded - began, "first": time.perf_counter() - loaded}))
"""


@dataclass(frozen=True)
class Stage:
    """Vectors and queries of a run.

    Args:
        folder: folder of vectors and indexes, reused by later runs.
        world: distribution of the vectors.
        users: number of users.
        queries: number of held-out queries, from the same distribution.
    """

    folder: Path
    world: World
    users: int
    queries: int

    @property
    def world_folder(self) -> Path:
        """The folder of this world."""
        return self.folder / f"{self.world}-{self.users}"

    @cached_property
    def vectors(self) -> Matrix:
        """float32 [users, 128], unit vectors, in memory."""
        return draw(self.world, self.users, 0)

    @cached_property
    def query_vectors(self) -> Matrix:
        """float32 [queries, 128], unit vectors of no user."""
        return draw(self.world, self.queries, 99)

    @cached_property
    def truth(self) -> Neighbours:
        """int64 [queries, 100], by exact search."""
        path = self.world_folder / f"truth-{self.queries}.npy"
        if not path.exists():
            self.world_folder.mkdir(parents=True, exist_ok=True)
            nearest = faiss.knn(self.query_vectors, self.vectors, K, faiss.METRIC_INNER_PRODUCT)[1]
            np.save(path, nearest)
        true: Neighbours = np.load(path)
        return true


def draw(world: World, number: int, seed: int) -> Matrix:
    """Unit vectors: near 1,000 centres of uneven popularity, or isotropic."""
    random = np.random.default_rng(seed)
    if world == "isotropic":
        values = random.standard_normal((number, WIDTH), dtype=np.float32)
    else:
        centres = np.random.default_rng(1).standard_normal((_CLUSTERS, WIDTH), dtype=np.float32)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        share = np.arange(1, _CLUSTERS + 1) ** -0.5
        values = centres[random.choice(_CLUSTERS, number, p=share / share.sum())]
        noise = random.standard_normal((number, WIDTH), dtype=np.float32)
        values += noise * np.float32(0.8 / np.sqrt(WIDTH))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return values


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Limit faiss's threads."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    yield
    faiss.omp_set_num_threads(before)


def latency(search: Search, queries: Matrix, most: int) -> dict[str, float]:
    """Milliseconds of single queries on one thread, each with another vector."""
    taken = []
    with threads(1):
        for row in range(20):
            search(queries[row : row + 1])
        for row in range(min(most, len(queries))):
            began = time.perf_counter()
            search(queries[row : row + 1])
            taken.append(1e3 * (time.perf_counter() - began))
    p50, p99 = np.percentile(taken, [50, 99])
    return {"p50 ms": float(p50), "p99 ms": float(p99)}


def recall(results: Neighbours, true: Neighbours) -> float:
    """The share of the true neighbours among the results."""
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, results, strict=True)]))


def exact(stage: Stage) -> dict[str, Any]:
    """faiss's flat index."""
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(stage.vectors)
    figures = latency(lambda query: flat.search(query, K)[1], stage.query_vectors, 100)
    return {"index": "exact (faiss flat)", "recall": 1.0, **figures}


def ours(stage: Stage) -> tuple[dict[str, Any], VectorIndex]:
    """The index as `qanchor-cli index build` makes it, mapped from its files."""
    folder = stage.world_folder / "index"
    shutil.rmtree(folder, ignore_errors=True)
    stage.world_folder.mkdir(parents=True, exist_ok=True)
    users = pa.array([f"user-{number:010d}" for number in range(stage.users)])
    began, cpu = time.perf_counter(), time.process_time()
    save_index(build_index(users, stage.vectors, IndexMetadata("benchmark", 1, AS_OF), IndexPlan()), folder)
    built = {"build s": time.perf_counter() - began, "build cpu s": time.process_time() - cpu}
    index = load_index(folder)
    facts = index.metadata.facts()
    named = ", ".join(f"{name} {value:g}" for name, value in facts["parameters"].items())
    results = np.concatenate([index.search(query[None], K)[1] for query in stage.query_vectors])
    figures = {
        "index": f"qanchor: {facts['kind']} ({named})",
        "recall": recall(results, stage.truth),
        **latency(lambda query: index.search(query, K)[1], stage.query_vectors, stage.queries),
        **built,
        "bytes a user": facts["bytes_per_user"],
        "of these in memory": facts["memory_bytes"] / stage.users,
        **_load_times(folder),
    }
    return figures, index


def curve(stage: Stage, index: VectorIndex, exact_p50: float) -> list[dict[str, Any]]:
    """Latency and recall with more or fewer candidates than the tuned number."""
    segment, rows = index.segments[0], []
    tuned = segment.metadata
    for share in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0):
        candidates = max(K, round(share * tuned.parameters.get("candidates", K)))
        segment.metadata = replace(tuned, parameters={**tuned.parameters, "candidates": candidates})
        results = segment.approximate(stage.query_vectors, K)[1]
        taken = latency(lambda query: segment.approximate(query, K)[1], stage.query_vectors, 200)
        times = exact_p50 / taken["p50 ms"]
        rows.append(
            {"candidates": candidates, "recall": recall(results, stage.truth), **taken, "times": times}
        )
    segment.metadata = tuned
    return rows


def filtered(stage: Stage, index: VectorIndex) -> list[dict[str, Any]]:
    """Single queries with filters that keep a random share of the users."""
    rows, queries = [], stage.query_vectors[:50]
    for share in (0.001, 0.01, 0.05, 0.2, 0.5, 0.9):
        allowed = np.random.default_rng(4).random(stage.users) < share
        kept = np.flatnonzero(allowed)
        true = kept[faiss.knn(queries, stage.vectors[kept], K, faiss.METRIC_INNER_PRODUCT)[1]]
        results = np.concatenate([index.search(query[None], K, allowed=allowed)[1] for query in queries])
        taken = latency(lambda query, mask=allowed: index.search(query, K, allowed=mask)[1], queries, 50)  # type: ignore[misc]
        rows.append({"kept by the filter": share, "recall": recall(results, true), **taken})
    return rows


def many(stage: Stage, index: VectorIndex) -> list[dict[str, Any]]:
    """Single queries for many users."""
    rows, queries = [], stage.query_vectors[:10]
    for k in (10, 1_000, 10_000, stage.users // 20):
        true = faiss.knn(queries, stage.vectors, k, faiss.METRIC_INNER_PRODUCT)[1]
        results = np.concatenate([index.search(query[None], k)[1] for query in queries])
        taken = latency(lambda query, count=k: index.search(query, count)[1], queries, 10)  # type: ignore[misc]
        rows.append({"k": k, "recall": recall(results, true), "p50 ms": taken["p50 ms"]})
    return rows


def faiss_graph(stage: Stage) -> dict[str, Any]:
    """faiss's HNSW graph, 32 edges, at the least effort with recall 0.98."""
    path = stage.world_folder / "graph.faiss"
    if not path.exists():
        began, cpu = time.perf_counter(), time.process_time()
        graph = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 80
        graph.add(stage.vectors)
        built = {"build s": time.perf_counter() - began, "build cpu s": time.process_time() - cpu}
        stage.world_folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(graph, str(path))
        _write_figures(stage.world_folder / "graph.json", built)
    graph = faiss.read_index(str(path))

    def search(query: Matrix, effort: int) -> Neighbours:
        nearest: Neighbours = graph.search(query, K, params=faiss.SearchParametersHNSW(efSearch=effort))[1]
        return nearest

    size = path.stat().st_size / stage.users
    return _graph_row("faiss hnsw32", stage, search, _read_figures(stage.world_folder / "graph.json"), size)


def hnswlib_graph(stage: Stage) -> dict[str, Any] | None:
    """hnswlib's graph, M 16 and efConstruction 100; None where it is not installed."""
    try:
        import hnswlib
    except ModuleNotFoundError:
        return None
    path = stage.world_folder / "hnswlib.bin"
    graph = hnswlib.Index(space="ip", dim=WIDTH)
    if not path.exists():
        began, cpu = time.perf_counter(), time.process_time()
        graph.init_index(max_elements=stage.users, ef_construction=100, M=16)
        graph.add_items(stage.vectors)
        built = {"build s": time.perf_counter() - began, "build cpu s": time.process_time() - cpu}
        stage.world_folder.mkdir(parents=True, exist_ok=True)
        graph.save_index(str(path))
        _write_figures(stage.world_folder / "hnswlib.json", built)
    else:
        graph.load_index(str(path), max_elements=stage.users)
    graph.set_num_threads(1)

    def search(query: Matrix, effort: int) -> Neighbours:
        graph.set_ef(effort)
        return np.asarray(graph.knn_query(query, k=K)[0]).astype(np.int64)

    size = path.stat().st_size / stage.users
    return _graph_row("hnswlib M16", stage, search, _read_figures(stage.world_folder / "hnswlib.json"), size)


def bars(world: World, fast: dict[str, Any], slow: dict[str, Any]) -> list[Bar]:
    """The bars of an index."""
    return [
        Bar(f"{world}: recall at 100", fast["recall"], RECALL, "higher"),
        Bar(f"{world}: times faster than exact", slow["p50 ms"] / fast["p50 ms"], FASTER, "higher"),
        Bar(f"{world}: p99 over p50", fast["p99 ms"] / fast["p50 ms"], SPREAD, "lower"),
    ]


def _graph_row(
    name: str, stage: Stage, search: Callable[[Matrix, int], Neighbours], built: dict[str, float], size: float
) -> dict[str, Any]:
    queries = stage.query_vectors[:200]
    for effort in _EFFORTS:
        reached = recall(search(queries, effort), stage.truth[:200])
        if reached >= RECALL:
            break
    return {
        "index": f"{name} (effort {effort})",
        "recall": reached,
        **latency(lambda query: search(query, effort), stage.query_vectors, 200),
        **built,
        "bytes a user": size,
        "of these in memory": size,
    }


def _load_times(folder: Path) -> dict[str, float]:
    """Measured in a new process, with the files in the page cache."""
    command = [sys.executable, "-c", _LOAD, str(folder)]
    ended = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    taken = json.loads(ended.stdout)
    return {"load ms": 1e3 * taken["load"], "first query ms": 1e3 * taken["first"]}


def _write_figures(path: Path, figures: dict[str, float]) -> None:
    path.write_text(json.dumps(figures))


def _read_figures(path: Path) -> dict[str, float]:
    figures: dict[str, float] = json.loads(path.read_text())
    return figures
