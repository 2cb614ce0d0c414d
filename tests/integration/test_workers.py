"""Workers of one backfill as processes: killed, stopped past their lease, and side by side."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qanchor.registry.jobs import list_jobs
from qanchor.registry.manifests import active_manifests
from tests.unit.embedding.world import World, make_world

pytestmark = pytest.mark.integration

# A worker that writes down what it embeds, and does something odd the n-th time a function is called.
_WORKER = """
import os, signal, sys, time
from pathlib import Path
from qanchor.embedding import backfill as backfill_module, publish
from qanchor.registry import shards
from tests.integration.test_workers import reopened
folder, name, call, signal_name, lease = sys.argv[1:6]
shards.ShardedJob.__init__.__defaults__ = ("", float(lease))
world = reopened(Path(folder))
notes = Path(folder) / f"seen-{os.getpid()}"
embed = world.embedder.embed
def noted(arrays, rows, cutoffs, queries):
    with notes.open("a") as file:
        file.write(" ".join(str(arrays.users[row]) for row in rows) + "\\n")
    time.sleep(0.05)
    return embed(arrays, rows, cutoffs, queries)
world.embedder.embed = noted
owner = next(o for o in (world.embedder, publish, backfill_module, shards.ShardedJob) if hasattr(o, name))
original, calls = getattr(owner, name), []
def counted(*arguments, **named):
    calls.append(1)
    if len(calls) == int(call):
        (Path(folder) / "reached").touch()
        os.kill(os.getpid(), getattr(signal, signal_name))
    return original(*arguments, **named)
setattr(owner, name, counted)
world.backfill("takeout", shard_users=1)
"""


def reopened(folder: Path) -> World:
    """The world of a folder in which `make_world` ran."""
    from qanchor.home import Home
    from qanchor.registry.session import open_engine
    from qanchor.workspace import load_workspace
    from tests.unit.embedding.world import HashEmbedder, PlainFeatures

    home, workspace = Home(folder / "home"), load_workspace(folder / "repo")
    engine = open_engine(f"sqlite:///{home.database}")
    return World(workspace, home, engine, PlainFeatures(workspace, home), HashEmbedder(workspace))


def _worker(
    folder: Path, name: str, call: int, how: str = "SIGKILL", lease: float = 60.0
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(folder), name, str(call), how, str(lease)],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def _seen(folder: Path) -> list[str]:
    lines = [line for path in sorted(folder.glob("seen-*")) for line in path.read_text().splitlines()]
    return sorted(lines)


def _wait(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def _is_whole(world: World) -> bool:
    manifest = active_manifests(world.engine, ["takeout"])["takeout"]
    users = [user for user, _ in world.pairs("user_emb_takeout")]
    return (manifest.rows, users) == (3, ["ann", "bob", "cyd"])


@pytest.mark.parametrize(
    ("name", "call", "lost"),
    [
        ("claim", 1, []),
        ("claim", 3, []),
        ("embed", 2, ["bob"]),
        ("finish", 1, ["ann"]),
        ("finish", 3, ["cyd"]),
        ("lead", 1, []),
        ("begin_manifest", 1, []),
        ("note_manifest", 2, []),
        ("activate_manifests", 1, []),
        ("prune", 1, []),
        ("end", 1, []),
    ],
)
def test_a_worker_that_got_sigkill_costs_its_shard_alone(
    tmp_path: Path, name: str, call: int, lost: list[str]
) -> None:
    world = make_world(tmp_path)
    with _worker(tmp_path, name, call) as killed:
        _, err = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, err
    began = time.monotonic()
    result = world.backfill("takeout", shard_users=1)
    assert time.monotonic() - began < 20, "it must not wait for the lease of a process that is gone"
    done_before = set(_seen(tmp_path)) - set(lost)
    assert result.embedded == 3 - len(done_before)
    assert _is_whole(world)
    assert [job.state for job in list_jobs(world.engine, 9)] == ["done"]


def test_a_worker_that_was_stopped_past_its_lease_changes_nothing(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    with _worker(tmp_path, "embed", 1, "SIGSTOP", lease=1.0) as stopped:
        _wait((tmp_path / "reached").exists)
        time.sleep(1.2)
        assert world.backfill("takeout", shard_users=1).embedded == 3
        before = world.rows("user_emb_takeout")
        stopped.send_signal(signal.SIGCONT)
        stopped.communicate(timeout=60)
    assert world.rows("user_emb_takeout") == before
    assert _is_whole(world)


def test_workers_side_by_side_do_each_shard_once(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    workers = [_worker(tmp_path, "embed", 99) for _ in range(3)]
    ends = [(worker.communicate(timeout=90)[1], worker.returncode) for worker in workers]
    assert [code for _, code in ends] == [0, 0, 0], ends
    jobs = list_jobs(world.engine, 9)
    # One that came after all was over began a job of its own, which is its right.
    assert sorted(_seen(tmp_path)) == sorted(["ann", "bob", "cyd"] * len(jobs))
    assert _is_whole(world)
