"""What `qanchor-cli doctor` looks at: each finding says how it stands and what to do about it."""

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qanchor.errors import QAnchorError
from qanchor.home import Home
from qanchor.settings import Settings
from qanchor.workspace import load_workspace

_GIB = 2**30
_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "feast",
    "ibis-framework",
    "duckdb",
    "pandas",
    "pyarrow",
    "numpy",
    "faiss-cpu",
    "lightgbm",
    "scikit-learn",
    "kafka-python",
    "crc32c",
    "msgspec",
    "sqlalchemy",
    "alembic",
    "matplotlib",
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        check: what.
        state: ok; warn: works, but look at it; missing: qanchor cannot do without.
        found: what was there.
        remedy: what to do, where there is something to do.
    """

    check: str
    state: Literal["ok", "warn", "missing"]
    found: str
    remedy: str = ""


def diagnose(settings: Settings) -> Iterator[Finding]:
    """Look at everything, one finding after the other; nothing is changed."""
    yield _python()
    yield _packages()
    yield _cores()
    yield _memory()
    yield _disk(settings.state)
    for check in (_repository, _database, _event_log, _feature_store, _broker):
        yield _guarded(check, settings)
    yield _bfloat16()
    yield _gpu()


def _guarded(check: Callable[[Settings], Finding], settings: Settings) -> Finding:
    try:
        return check(settings)
    except QAnchorError as error:
        return Finding(check.__name__.strip("_").replace("_", " "), "missing", error.problem, error.remedy)


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "ok", found)
    return Finding("python", "missing", found, "Install Python 3.11 or 3.12.")


def _packages() -> Finding:
    absent = []
    for name in _PACKAGES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        return Finding("packages", "missing", f"without {', '.join(absent)}", "Run `pip install qanchor`.")
    return Finding("packages", "ok", f"all {len(_PACKAGES)} present")


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0))
    if usable < 2:
        return Finding("cores", "warn", "1 usable", "Training takes twice as long as on two.")
    return Finding("cores", "ok", f"{usable} usable")


def _memory() -> Finding:
    free = _available_memory()
    if free is None:
        return Finding("memory", "warn", "cannot be read here", "Have 4 GiB free for the demo.")
    found = f"{free / _GIB:.1f} GiB available"
    if free < 4 * _GIB:
        return Finding("memory", "warn", found, "Have 4 GiB free for the demo, or simulate fewer users.")
    return Finding("memory", "ok", found)


def _available_memory() -> int | None:
    """Bytes that this process may still take: the machine's, or less where a container limits it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        folder = Path("/sys/fs/cgroup")
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, int(limit) - used)


def _disk(home: Home) -> Finding:
    folder = next(path for path in (home.root, *home.root.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free for {home.root}"
    if not os.access(folder, os.W_OK):
        return Finding(
            "disk", "missing", f"{folder} cannot be written", "Set QANCHOR_HOME to another folder."
        )
    if free < _GIB:
        return Finding("disk", "missing", found, "Free some, or set QANCHOR_HOME to another disk.")
    if free < 5 * _GIB:
        return Finding("disk", "warn", found, "A million users take about 5 GiB per ten scenarios.")
    return Finding("disk", "ok", found)


def _repository(settings: Settings) -> Finding:
    workspace = load_workspace(settings.repo_path)
    found = f"{workspace.repo}: {len(workspace.modalities)} modalities, {len(workspace.scenarios)} scenarios"
    absent = [
        name for name in ("feature_store.yaml", "definitions.py") if not (workspace.repo / name).exists()
    ]
    if absent:
        return Finding(
            "repository", "warn", f"{found}; no {' or '.join(absent)}", "Copy it from `qanchor-cli new DIR`."
        )
    if not workspace.scenarios:
        return Finding("repository", "warn", found, "Add a scenario to scenarios.yaml.")
    return Finding("repository", "ok", found)


def _database(settings: Settings) -> Finding:
    from sqlalchemy.engine import make_url

    from qanchor.registry.migrate import HEAD, current

    url = make_url(settings.database_url)
    shown = url.render_as_string(hide_password=True)
    is_file = url.get_backend_name() == "sqlite" and url.database
    if is_file and not Path(str(url.database)).exists():
        return Finding("database", "ok", f"{shown}, made on first use")
    revision = current(settings.database_url)
    if revision == HEAD:
        return Finding("database", "ok", f"{shown}, schema {HEAD}")
    found = f"{shown}, schema {revision or 'none'}, newest is {HEAD}"
    return Finding("database", "warn" if is_file else "missing", found, "Run `qanchor-cli db upgrade`.")


def _event_log(settings: Settings) -> Finding:
    files = sum(1 for _ in settings.state.events.glob("event_date=*/[!_.]*.parquet"))
    if files:
        return Finding("event log", "ok", f"{files:,} files")
    return Finding(
        "event log", "warn", "empty", "Run `qanchor-cli events load FILE` or `qanchor-cli consume`."
    )


def _feature_store(settings: Settings) -> Finding:
    if settings.state.feast_registry.exists():
        return Finding("feature store", "ok", "applied")
    return Finding(
        "feature store", "warn", "not applied yet", "`qanchor-cli backfill` or `feast apply` does it."
    )


def _broker(settings: Settings) -> Finding:
    for server in settings.kafka.brokers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=1.0).close()
        except (OSError, ValueError):
            continue
        return Finding("kafka broker", "ok", f"{server} answers")
    return Finding(
        "kafka broker",
        "warn",
        f"{settings.kafka.brokers} does not answer",
        "Needed to stream only: start yours, run `qanchor-cli broker`, or set QANCHOR_KAFKA__BROKERS.",
    )


def _bfloat16() -> Finding:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        flags = ""
    native = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    return Finding(
        "bfloat16", "ok", f"native ({', '.join(native)})" if native else "not native: float32 is used"
    )


def _gpu() -> Finding:
    present = Path("/proc/driver/nvidia/version").exists()
    return Finding("gpu", "ok", "NVIDIA driver present" if present else "none: the CPU is used")
