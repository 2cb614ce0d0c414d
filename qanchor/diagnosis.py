"""The checks of `qanchor-cli doctor`: each has a state, and a remedy where something is to be done."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qanchor.errors import QAnchorError
from qanchor.home import Home
from qanchor.settings import Settings
from qanchor.workspace import load_workspace

_GIB = 2**30
PACKAGES = (
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


State = Literal["ok", "warn", "missing"]


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Args:
        check: name of the check.
        state: ok; warn: works, but needs attention; missing: qanchor cannot work without it.
        value: what was measured.
        remedy: what to do, if anything.
    """

    check: str
    state: State
    value: str
    remedy: str = ""


def diagnose(
    settings: Settings,
    packages: Sequence[str] = PACKAGES,
    check_brokers: Callable[[Settings], Finding] | None = None,
) -> Iterator[Finding]:
    """Make every check, one after the other. Nothing is created or changed.

    Args:
        settings: of this process.
        packages: names of the distributions that have to be installed.
        check_brokers: check of the Kafka brokers; default: none.
    """
    yield _python()
    yield _packages(packages)
    yield _cores()
    yield _memory()
    yield _disk(settings.state)
    for name, check in (
        ("repository", _repository),
        ("database", _database),
        ("event log", _event_log),
        ("feature store", _feature_store),
        ("kafka broker", check_brokers),
    ):
        if check is None:
            continue
        try:
            yield check(settings)
        except QAnchorError as error:
            yield Finding(name, "missing", error.problem, error.remedy)
    yield from _losses(settings)
    yield _bfloat16()
    yield _gpu()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 13):
        return Finding("python", "ok", version)
    return Finding("python", "missing", version, "Install Python 3.11 or 3.12.")


def _packages(names: Sequence[str]) -> Finding:
    absent = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        return Finding("packages", "missing", f"without {', '.join(absent)}", "Run `pip install qanchor`.")
    return Finding("packages", "ok", f"all {len(names)} present")


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0))
    if usable < 2:
        return Finding("cores", "warn", "1 usable", "Training takes twice as long as on two.")
    return Finding("cores", "ok", f"{usable} usable")


def _memory() -> Finding:
    free = _available_memory()
    if free is None:
        return Finding("memory", "warn", "cannot be read here", "Have 4 GiB free for the demo.")
    value = f"{free / _GIB:.1f} GiB available"
    if free < 4 * _GIB:
        return Finding("memory", "warn", value, "Have 4 GiB free for the demo, or simulate fewer users.")
    return Finding("memory", "ok", value)


def _available_memory() -> int | None:
    """Bytes that this process may still allocate: of the machine, or of its container if that is less."""
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
    value = f"{free / _GIB:.1f} GiB free for {home.root}"
    if not os.access(folder, os.W_OK):
        return Finding(
            "disk", "missing", f"{folder} cannot be written", "Set QANCHOR_HOME to another folder."
        )
    if free < _GIB:
        return Finding("disk", "missing", value, "Free some, or set QANCHOR_HOME to another disk.")
    if free < 5 * _GIB:
        return Finding("disk", "warn", value, "A million users take about 5 GiB per ten scenarios.")
    return Finding("disk", "ok", value)


def _repository(settings: Settings) -> Finding:
    workspace = load_workspace(settings.repo_path)
    value = f"{workspace.repo}: {len(workspace.modalities)} modalities, {len(workspace.scenarios)} scenarios"
    absent = [
        name for name in ("feature_store.yaml", "definitions.py") if not (workspace.repo / name).exists()
    ]
    if absent:
        return Finding(
            "repository", "warn", f"{value}; no {' or '.join(absent)}", "Copy it from `qanchor-cli new DIR`."
        )
    if not workspace.scenarios:
        return Finding("repository", "warn", value, "Add a scenario to scenarios.yaml.")
    return Finding("repository", "ok", value)


def _database(settings: Settings) -> Finding:
    from sqlalchemy.engine import make_url

    from qanchor.registry.migrate import HEAD, current
    from qanchor.registry.session import sqlite_file

    revision = current(settings.database_url)
    shown = make_url(settings.database_url).render_as_string(hide_password=True)
    file = sqlite_file(settings.database_url)
    if file is not None and not file.exists():
        return Finding("database", "ok", f"{shown}, created on first use")
    if revision == HEAD:
        return Finding("database", "ok", f"{shown}, schema {HEAD}")
    value = f"{shown}, schema {revision or 'none'}, newest is {HEAD}"
    return Finding("database", "warn" if file else "missing", value, "Run `qanchor-cli db upgrade`.")


def _event_log(settings: Settings) -> Finding:
    files = sum(1 for _ in settings.state.events.glob("event_date=*/[!_.]*.parquet"))
    if files:
        return Finding("event log", "ok", f"{files:,} files")
    return Finding(
        "event log", "warn", "empty", "Run `qanchor-cli events load FILE` or `qanchor-cli consume`."
    )


def _losses(settings: Settings) -> Iterator[Finding]:
    from qanchor.registry.losses import find_losses
    from qanchor.registry.migrate import HEAD, current
    from qanchor.registry.session import open_engine, sqlite_file

    file = sqlite_file(settings.database_url)
    try:
        if (file is not None and not file.exists()) or current(settings.database_url) != HEAD:
            return
        engine = open_engine(settings.database_url)
        try:
            for loss in find_losses(engine, settings.state):
                state: State = "missing" if loss.kind == "events" else "warn"
                yield Finding(f"lost {loss.kind}", state, loss.lost, loss.remedy)
        finally:
            engine.dispose()
    except QAnchorError:
        return  # the check of the database names it


def _feature_store(settings: Settings) -> Finding:
    if settings.state.feast_registry.exists():
        return Finding("feature store", "ok", "applied")
    return Finding("feature store", "warn", "not applied yet", "Run `qanchor-cli backfill` or `feast apply`.")


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
