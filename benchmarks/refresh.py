"""The cost of a refresh of few changed users, against a full backfill of the same world.

    python -m benchmarks.refresh [--quick] [--users N] [--folder DIR] [--json FILE]

Ten scenarios, preset tiny with untrained weights, the simulated world; both in one run, each in its process,
with every store that the commands write. A backfill embeds all users as of the world's end; then a hundredth
of the users gets events on the next day, and a refresh follows.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Bar, arguments, finish, table
from benchmarks.materialize import REPO, THREADS, write_log
from qanchor.home import Home
from qanchor.simulation.config import WorldPlan
from qanchor.site import Site
from qanchor.storage.event_log import EventLog
from qanchor.times import TIMESTAMP
from qanchor.workspace import load_workspace

if TYPE_CHECKING:
    from sqlalchemy import Engine

CHANGED_SHARE = 0.01
NEW_EVENTS = 3
SEED = 7
# Few files of a day, as compaction leaves them.
BLOCKS_TOGETHER = 8
# Imports of both steps; transformers loads a model's code only on first use.
_IMPORTED = (
    "torch",
    "transformers.models.qwen2.modeling_qwen2",
    "feast",
    "duckdb",
    "qanchor.model.embedder",
    "qanchor.embedding.refresh",
)


def main() -> None:
    """Simulate a world, embed it, change some users, refresh, print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--users", type=int, help="users of the world; default: 8,000, with --quick 4,000")
    parser.add_argument("--folder", type=Path, help="working folder, kept; default: a temporary one")
    parser.add_argument("--step", choices=sorted(STEPS), help="do one step in this process")
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options.folder)))
        return
    users = options.users or (4_000 if options.quick else 8_000)
    kept = options.folder is not None
    folder = options.folder or Path(tempfile.mkdtemp())
    try:
        if not (folder / "home" / "events").exists():
            make_world(folder, users)
        figures = measure(folder)
    finally:
        if not kept:
            shutil.rmtree(folder)
    print(table([{"figure": name, "value": value} for name, value in figures.items()]))
    finish(figures, bars(figures), options.json)


def measure(folder: Path) -> dict[str, Any]:
    """Seconds of both steps, of the process and of the work."""
    figures: dict[str, Any] = {"threads": THREADS}
    whole = _step(folder, "backfill")
    changed = change_some(folder)
    part = _step(folder, "refresh")
    nothing = _step(folder, "refresh")
    assert (part["embedded"], nothing["embedded"]) == (changed, 0), (part, nothing, changed)
    figures |= {"users": whole["users"], "events": whole["events"], "changed users": changed}
    for name, step in (("backfill", whole), ("refresh", part), ("refresh, nothing new", nothing)):
        figures[f"{name}, seconds of the process"] = step["process"]
        figures[f"{name}, seconds of imports"] = step["imports"]
        figures[f"{name}, seconds of the work"] = step["work"]
        figures[f"{name}, seconds of CPU"] = step["cpu"]
    figures |= {f"refresh, seconds: {name}": value for name, value in part["parts"].items()}
    figures["share of the work"] = part["work"] / whole["work"]
    figures["share of the process"] = part["process"] / whole["process"]
    return figures


def _step(folder: Path, name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.refresh", "--step", name, "--folder", str(folder)]
    began = time.perf_counter()
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout
    step: dict[str, Any] = json.loads(output.splitlines()[-1])
    return {**step, "process": time.perf_counter() - began}


def make_world(folder: Path, users: int) -> None:
    """A home with events and a registered model."""
    from qanchor.events.history import load_event_arrays
    from qanchor.model.build import build_model, make_tokenizer
    from qanchor.model.checkpoint import save_model
    from qanchor.model.config import preset_config
    from qanchor.model.features import Normaliser
    from qanchor.registry.tables import ModelVersion, new_version
    from qanchor.registry.versions import register_model

    workspace, home, plan = load_workspace(REPO), Home(folder / "home"), WorldPlan(users=users, seed=SEED)
    log = write_log(home.events, workspace, plan, BLOCKS_TOGETHER)
    some = load_event_arrays(log, workspace, after=plan.moment(plan.days - 7), before=plan.moment(plan.days))
    config = preset_config("tiny", workspace)
    queries = [spec.query for spec in workspace.scenarios.values()]
    tokenizer = make_tokenizer(config, [*some.texts, *queries])
    version = new_version()
    content = save_model(
        home.models / version,
        build_model(config, tokenizer),
        tokenizer,
        Normaliser.fit(some, workspace.modalities),
        {},
    )
    row = ModelVersion(
        version=version,
        preset="tiny",
        path=f"models/{version}",
        content_hash=content,
        trained_until=plan.moment(plan.days).replace(tzinfo=None),
        metrics={},
    )
    register_model(_engine(home), row)


def _engine(home: Home) -> "Engine":
    from qanchor.registry.migrate import prepare
    from qanchor.registry.session import open_engine

    url = f"sqlite:///{home.database}"
    engine = open_engine(url)
    prepare(engine, url)
    return engine


def _site(folder: Path) -> Site:
    home = Home(folder / "home")
    return Site.at(load_workspace(REPO), home, _engine(home))


def change_some(folder: Path) -> int:
    """Add events of a hundredth of the users on the day after the world's end; the number of users."""
    workspace, home = load_workspace(REPO), Home(folder / "home")
    log = EventLog(home.events, workspace)
    with log.connect() as connection:
        users = connection.execute("SELECT DISTINCT user_id FROM events ORDER BY 1").to_arrow_table()[0]
        rows = np.linspace(0, len(users) - 1, round(CHANGED_SHARE * len(users))).astype(int)
        connection.register("chosen", pa.table({"user_id": users.take(pa.array(rows))}))
        latest = connection.execute(
            f"""SELECT * FROM events SEMI JOIN chosen USING (user_id) QUALIFY
            row_number() OVER (PARTITION BY user_id ORDER BY event_time DESC, event_id) <= {NEW_EVENTS}"""
        ).to_arrow_table()
        end = connection.execute("SELECT max(event_time) FROM events").to_arrow_table()[0][0].as_py()
    moments = [end + timedelta(hours=1, seconds=number) for number in range(len(latest))]
    fresh = {
        "event_id": pa.array([f"again-{number:08d}" for number in range(len(latest))]),
        "event_time": pa.array(moments, TIMESTAMP),
        "_ingested_at": pa.array([moments[-1]] * len(latest), TIMESTAMP),
    }
    for name, column in fresh.items():
        latest = latest.set_column(latest.column_names.index(name), name, column)
    log.publish(log.stage(latest.select(log.schema.names)))
    log.close()
    return len(pc.unique(latest["user_id"]))


def backfill_step(folder: Path) -> dict[str, Any]:
    """Embed all users for every scenario, into both stores."""
    from qanchor.embedding.backfill import backfill
    from qanchor.embedding.job import BackfillRequest
    from qanchor.progress import Silent

    imports = _prepare()
    began, cpu = time.perf_counter(), time.process_time()
    site = _site(folder)
    result = backfill(site, BackfillRequest(list(site.workspace.scenarios)), Silent())
    work, spent = time.perf_counter() - began, time.process_time() - cpu
    with site.event_log.connect() as connection:
        events = connection.execute("SELECT count(*) FROM events").fetchall()[0][0]
    return {"work": work, "cpu": spent, "imports": imports, "users": result.pairs, "events": events}


def refresh_step(folder: Path) -> dict[str, Any]:
    """Embed the changed users."""
    from qanchor.embedding.refresh import RefreshRequest, refresh

    imports = _prepare()
    began, cpu = time.perf_counter(), time.process_time()
    site, parts = _site(folder), _Stages()
    result = refresh(site, RefreshRequest(list(site.workspace.scenarios)), parts)
    parts.start("")
    work, spent = time.perf_counter() - began, time.process_time() - cpu
    embedded = max(scenario.embedded for scenario in result.values())
    return {"work": work, "cpu": spent, "imports": imports, "embedded": embedded, "parts": parts.seconds}


def _prepare() -> float:
    """Import the modules of both steps, once per process (`--watch` imports once); seconds."""
    from qanchor.threads import limit_threads

    limit_threads(THREADS)
    began = time.perf_counter()
    for name in _IMPORTED:
        importlib.import_module(name)
    return time.perf_counter() - began


class _Stages:
    """A Progress that records the seconds of every stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._label, self._began = "before", time.perf_counter()

    def start(self, label: str, total: int | None = None) -> None:  # noqa: ARG002
        """End a stage, begin another."""
        now = time.perf_counter()
        self.seconds[self._label] = self.seconds.get(self._label, 0.0) + now - self._began
        self._label, self._began = label, now

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Show nothing."""


STEPS = {"backfill": backfill_step, "refresh": refresh_step}


def bars(figures: dict[str, Any]) -> list[Bar]:
    """The bar of the refresh."""
    return [
        Bar(
            "refresh of 1% by a full backfill, seconds of the work",
            figures["share of the work"],
            0.02,
            "lower",
        )
    ]


if __name__ == "__main__":
    main()
