"""The Feast plug-ins against stock Feast: materialization, training frames, memory.

    python -m benchmarks.feast [--quick] [--only materialize|frame|memory] [--json FILE]

Every measurement is a new process and reads the same part files; its peak memory is that of the whole
process, Feast's imports included. The results of all variants are hashed, and the hashes must agree.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.harness import Bar, arguments, finish, table
from qanchor.times import DAY_US, HOUR_US, TIMESTAMP

START = datetime(2026, 7, 1, tzinfo=UTC)
END = START + timedelta(days=11)
SCENARIO = "bench"
VIEW = f"user_emb_{SCENARIO}"
FEATURES = [f"{VIEW}:emb_{SCENARIO}", f"{VIEW}:model_version", f"{VIEW}:n_events"]
DAYS, WIDTH, PART_ROWS = 10, 128, 50_000
# Stock Feast; Feast with all options of its documentation; the plug-ins.
STOCK, TUNED, OURS = "stock Feast, dask", "Feast tuned, DuckDB", "plug-ins"
_OFFLINE = {
    STOCK: "dask",
    TUNED: "duckdb",
    OURS: "qanchor.storage.feast_ext.offline_store.PartFilesOfflineStore",
}
_MIB = 2**20


def open_store(kind: str, folder: Path, source: Path) -> Any:
    """A Feast store of one kind with the view of an embedding, applied.

    Args:
        kind: one of the variants.
        folder: folder of the registry and the online store.
        source: home of the part files.
    """
    from feast import FeatureStore, RepoConfig

    folder.mkdir(parents=True, exist_ok=True)
    plugged = kind == OURS
    online: dict[str, Any] = {"type": "sqlite", "path": str(folder / "online.db")}
    if plugged:
        online["type"] = "qanchor.storage.feast_ext.online_store.GuardedSqliteOnlineStore"
    engine = "qanchor.storage.feast_ext.engine.ArrowComputeEngine" if plugged else "local"
    if kind == TUNED:
        _write_ahead(folder / "online.db")
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{folder / 'registry.db'}"},
            online_store=online,
            offline_store={"type": _OFFLINE[kind]},
            batch_engine={"type": engine},
            materialization={} if kind == STOCK else {"online_write_batch_size": 10_000},
            entity_key_serialization_version=3,
        )
    )
    store.apply(_objects(source))
    return store


def _objects(source: Path) -> list[Any]:
    import importlib.util

    from qanchor.home import Home
    from qanchor.workspace import ModalitySpec, ScenarioSpec, Workspace

    path = Path(__file__).parent.parent / "feature_repo" / "definitions.py"
    spec = importlib.util.spec_from_file_location("definitions", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scenario = ScenarioSpec(domain="risk", query="Is it a benchmark?", ttl_days=7)
    modality = ModalitySpec(text="x", fields={})
    workspace = Workspace(Path("/nowhere"), 90, {"m": modality}, {SCENARIO: scenario})
    made = module.define(workspace, Home(source))
    return [made["user"], made[VIEW]]


def _write_ahead(path: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()


def write_rows(source: Path, users: int, days: int = 1) -> None:
    """Part files of random unit vectors, `days` rows of each user, a tenth of them created a day late."""
    from qanchor.home import Home
    from qanchor.storage.parts import embedding_schema, ensure_part, write_part

    folder = Home(source).view(VIEW)
    schema = embedding_schema(SCENARIO)
    ensure_part(folder, schema)
    random = np.random.default_rng(1)
    for day in range(days):
        for first in range(0, users, PART_ROWS):
            numbers = np.arange(first, min(users, first + PART_ROWS))
            write_part(folder, _rows(numbers, day, random, schema), f"d{day:02d}-{first:08d}")


def _rows(numbers: Any, day: int, random: np.random.Generator, schema: pa.Schema) -> pa.Table:
    rows = len(numbers)
    vectors = random.standard_normal((rows, WIDTH), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    begin = int((START + timedelta(days=day)).timestamp()) * 1_000_000
    moments = begin + random.integers(0, HOUR_US, rows)
    created = moments + np.where(random.random(rows) < 0.1, DAY_US, 60_000_000)
    columns = [
        pa.array([f"u{number:08d}" for number in numbers]),
        pa.ListArray.from_arrays(
            pa.array(np.arange(rows + 1) * WIDTH, pa.int32()), pa.array(vectors.reshape(-1))
        ),
        pa.array([f"useru-tiny-{day:08d}"] * rows),
        pa.array(random.integers(0, 2_000, rows)),
        *(pa.array(values).cast(TIMESTAMP) for values in (moments - 1, moments, created)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def materialize(kind: str, folder: Path, source: Path) -> dict[str, Any]:
    """Rows per second of `FeatureStore.materialize`, as `feast materialize` calls it; twice."""
    store = open_store(kind, folder, source)
    figures: dict[str, Any] = {"kind": kind}
    for run in ("first", "again"):
        begun = time.perf_counter()
        store.materialize(START - timedelta(days=1), END, feature_views=[VIEW])
        figures[f"{run} s"] = time.perf_counter() - begun
    users, digest = _online_rows(folder / "online.db")
    figures |= {f"{run} rows/s": users / figures[f"{run} s"] for run in ("first", "again")}
    return {**figures, "users": users, "peak MiB": _peak_mib(), "digest": digest}


def _online_rows(path: Path) -> tuple[int, str]:
    import hashlib
    import sqlite3

    connection = sqlite3.connect(path)
    digest, rows = hashlib.sha256(), 0
    for row in connection.execute(
        f"SELECT entity_key, feature_name, value, value_text FROM bench_{VIEW} ORDER BY 1, 2"
    ):
        digest.update(repr(row).encode())
        rows += row[1] == f"emb_{SCENARIO}"
    connection.close()
    return rows, digest.hexdigest()


def frame(kind: str, folder: Path, source: Path) -> dict[str, Any]:
    """Seconds and memory of `get_historical_features(...).to_arrow()`."""
    import pandas as pd
    import pyarrow.parquet as pq

    store = open_store(kind, folder, source)
    labels = pq.read_table(source / "labels.parquet").to_pandas()
    assert isinstance(labels, pd.DataFrame)
    begun = time.perf_counter()
    job = store.get_historical_features(labels, FEATURES, filter_by_created_timestamp=True)
    joined = job.to_arrow()
    seconds = time.perf_counter() - begun
    peak = _peak_mib()
    return {
        "kind": kind,
        "labels": len(joined),
        "s": seconds,
        "labels/s": len(joined) / seconds,
        "peak MiB": peak,
        "digest": _frame_digest(joined),
    }


def _frame_digest(joined: pa.Table) -> str:
    import hashlib

    digest = hashlib.sha256()
    order = np.argsort(joined["label"].to_numpy())
    for name in ("label", "model_version", "n_events"):
        values = joined[name].to_pandas().to_numpy()[order]
        digest.update("\n".join(map(str, values)).encode())
    vectors = joined[f"emb_{SCENARIO}"].combine_chunks()
    known = vectors.is_valid().to_numpy(zero_copy_only=False)
    matrix = np.full((len(vectors), WIDTH), -9.0, np.float32)
    matrix[known] = vectors.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, WIDTH)
    digest.update(matrix[order].tobytes())
    return digest.hexdigest()


def write_labels(source: Path, users: int, labels: int) -> None:
    """Labels of random users at random moments; a few users and moments have no past."""
    import pyarrow.parquet as pq

    random = np.random.default_rng(2)
    begin = int((START - timedelta(hours=6)).timestamp()) * 1_000_000
    moments = begin + random.integers(0, (DAYS + 1) * DAY_US, labels)
    pq.write_table(
        pa.table(
            {
                "user_id": [f"u{number:08d}" for number in random.integers(0, users * 101 // 100, labels)],
                "event_timestamp": pa.array(moments).cast(TIMESTAMP),
                "label": np.arange(labels),
            }
        ),
        source / "labels.parquet",
    )


def memory(kind: str, folder: Path, source: Path) -> dict[str, Any]:
    """Peak memory of one process that writes the rows of `source` into all three sinks, after each sink."""
    import pyarrow.parquet as pq

    from qanchor.home import Home
    from qanchor.storage.parts import list_parts, write_part
    from qanchor.storage.vectors import IndexMetadata, build_index, save_index

    figures: dict[str, Any] = {"kind": kind}
    store = open_store(OURS, folder, folder)
    figures["start MiB"] = _peak_mib()
    target = Home(folder).view(VIEW)
    for path in list_parts(Home(source).view(VIEW)):
        if path.stem != "empty":
            write_part(target, pq.read_table(path), path.stem)
    figures["offline MiB"] = _peak_mib()
    begun = time.perf_counter()
    store.materialize(START - timedelta(days=1), END, feature_views=[VIEW])
    figures |= {"materialize s": time.perf_counter() - begun, "online MiB": _peak_mib()}
    begun = time.perf_counter()
    users, vectors = _all_vectors(list_parts(target))
    index = build_index(users, vectors, IndexMetadata("f", 1, END.isoformat()))
    save_index(index, folder / "index")
    figures |= {"index s": time.perf_counter() - begun, "FAISS MiB": _peak_mib()}
    return {**figures, "users": len(users), "online users": _online_rows(folder / "online.db")[0]}


def _all_vectors(paths: list[Path]) -> tuple[pa.Array, Any]:
    import pyarrow.parquet as pq

    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    vectors, users, done = np.empty((rows, WIDTH), np.float32), [], 0
    for path in paths:
        part = pq.read_table(path, columns=["user_id", f"emb_{SCENARIO}"])
        flat = part[f"emb_{SCENARIO}"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors[done : done + len(part)] = flat.reshape(-1, WIDTH)
        users += part["user_id"].chunks
        done += len(part)
    return pa.concat_arrays(users), vectors


def _peak_mib() -> float:
    # Not ru_maxrss: a child inherits that from the process that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / _MIB


_PARTS: dict[str, Callable[[str, Path, Path], dict[str, Any]]] = {
    "materialize": materialize,
    "frame": frame,
    "memory": memory,
}


def measure(part: str, kind: str, source: Path) -> dict[str, Any]:
    """One measurement in a new process and folder."""
    environment = {**os.environ, "TZ": "UTC", "PYTHONWARNINGS": "ignore", "FEAST_USAGE": "False"}
    with tempfile.TemporaryDirectory(dir=source) as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.feast", "--child", part, kind, folder, str(source)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{part}, {kind}: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare_materialize(users: int, rounds: int) -> tuple[list[dict[str, Any]], list[Bar]]:
    """All variants on the same rows, alternating; the bars are on medians of the first run."""
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), users)
        rows = [
            measure("materialize", kind, Path(folder)) for _ in range(rounds) for kind in (STOCK, TUNED, OURS)
        ]
    _agree(rows)
    rate = {kind: _median(rows, kind, "first rows/s") for kind in _OFFLINE}
    bars = [
        Bar("materialize, plug-ins / stock Feast with dask", rate[OURS] / rate[STOCK], 4, "higher"),
        Bar("materialize, plug-ins / Feast tuned with DuckDB", rate[OURS] / rate[TUNED], 1.4, "higher"),
    ]
    return rows, bars


def compare_frames(users: int, labels: int, rounds: int) -> tuple[list[dict[str, Any]], list[Bar]]:
    """The DuckDB joins of Feast and of the plug-in on the same rows and labels."""
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), users, DAYS)
        write_labels(Path(folder), users, labels)
        rows = [measure("frame", kind, Path(folder)) for _ in range(rounds) for kind in (TUNED, OURS)]
    _agree(rows)
    seconds = _median(rows, TUNED, "s") / _median(rows, OURS, "s")
    peak = _median(rows, OURS, "peak MiB") / _median(rows, TUNED, "peak MiB")
    return rows, [
        Bar("training frame, times faster than Feast's DuckDB path", seconds, 3, "higher"),
        Bar("training frame, share of its memory", peak, 0.5, "lower"),
    ]


def compare_memory(sizes: list[int]) -> tuple[list[dict[str, Any]], list[Bar]]:
    """One process through all three sinks, for each number of users."""
    rows = []
    for users in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_rows(Path(folder), users)
            rows.append(measure("memory", OURS, Path(folder)))
    assert all(row["users"] == row["online users"] == size for row, size in zip(rows, sizes, strict=True))
    name = f"peak GiB of {sizes[-1]:,} users x {WIDTH} through all three sinks"
    return rows, [Bar(name, rows[-1]["FAISS MiB"] / 1024, 4, "lower")]


def _agree(rows: list[dict[str, Any]]) -> None:
    digests = {row.pop("digest") for row in rows}
    if len(digests) != 1:
        raise SystemExit("the variants do not agree on the rows")


def _median(rows: list[dict[str, Any]], kind: str, figure: str) -> float:
    values: list[float] = [row[figure] for row in rows if row["kind"] == kind]
    return statistics.median(values)


def main() -> None:
    """Measure the selected parts and print them."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", choices=sorted(_PARTS), help="only one of the three")
    parser.add_argument(
        "--users", type=int, help="users of the memory measurement, in place of its three sizes"
    )
    parser.add_argument("--rounds", type=int, default=1, help="runs of each variant")
    parser.add_argument("--child", nargs=4, help="internal: one measurement")
    options = parser.parse_args()
    if options.child:
        part, kind, folder, source = options.child
        print(json.dumps(_PARTS[part](kind, Path(folder), Path(source))))
        return
    quick = options.quick
    users = 20_000 if quick else 100_000
    # With fewer rows the memory of Feast's imports would dominate.
    framed, labels = (50_000, 500_000) if quick else (100_000, 1_000_000)
    sizes = [options.users] if options.users else [40_000] if quick else [250_000, 500_000, 1_000_000]
    runs: dict[str, Callable[[], tuple[list[dict[str, Any]], list[Bar]]]] = {
        "materialize": lambda: compare_materialize(users, options.rounds),
        "frame": lambda: compare_frames(framed, labels, options.rounds),
        "memory": lambda: compare_memory(sizes),
    }
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    for part in [options.only] if options.only else runs:
        rows, part_bars = runs[part]()
        print(f"\n{part}\n{table(rows)}", flush=True)
        bars += part_bars
        figures |= {f"{part} {i} {name}": value for i, row in enumerate(rows) for name, value in row.items()}
    finish(figures, bars, options.json)


if __name__ == "__main__":
    main()
