"""The parts of `benchmarks.ingest` on a live stream: takeover after kill -9, and freshness of online rows."""

import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.ingest_setup import Bench, finished

SESSION_SECONDS = 6.0
_RATE = 5_000
_STEADY_SECONDS = 4.0
_LONGEST_WAIT_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 0.02
_LAST_SECONDS = 5.0  # for what was sent last


def takeover(bench: Bench, number: int = 0) -> float:
    """Kill one of two members of a group under load.

    Args:
        bench: broker and folder.
        number: number of the repetition; each has its topic.

    Returns:
        Seconds from the kill until the ledger advances in every partition again.
    """
    topic = f"takeover-{number}"
    env = bench.environment(topic, session_seconds=SESSION_SECONDS, flush_seconds=0.2)
    bench.start(env, "prepare").communicate()
    producer = bench.start(env, "pace", "--rate", "2000", "--seconds", "90")
    members = [bench.start(env, "member", "--name", name) for name in ("one", "two")]
    try:
        _wait_for_both(Path(env["QANCHOR_HOME"]) / "events")
        members[0].kill()
        killed = time.monotonic()
        seconds = _until_all_move(env, topic, killed)
    finally:
        members[1].send_signal(signal.SIGTERM)
        for process in (*members, producer):
            process.kill() if process is producer else None
            process.communicate()
    return seconds


def _wait_for_both(events: Path) -> None:
    """Wait until both members write regularly, so that each owns partitions."""
    deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
    looks = 0
    while time.monotonic() < deadline:
        since = time.time() - 1.0
        newest = [path for path in events.glob("*/*.parquet") if _written(path) > since]
        both = {path.name.split("-")[0] for path in newest} == {"one", "two"}
        looks = looks + 1 if both else 0  # a single member may still be joining the group
        if looks * 0.1 >= _STEADY_SECONDS:
            return
        time.sleep(0.1)
    raise SystemExit("two consumers did not share the topic")


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _until_all_move(env: dict[str, str], topic: str, since: float) -> float:
    from qanchor.registry.ledger import next_offsets
    from qanchor.registry.session import open_engine

    engine = open_engine(f"sqlite:///{Path(env['QANCHOR_HOME']) / 'qanchor.db'}")
    before = next_offsets(engine, topic, topic)
    waiting = set(before)
    while waiting:
        if time.monotonic() - since > _LONGEST_WAIT_SECONDS:
            raise SystemExit(f"partitions {sorted(waiting)} were not taken over")
        time.sleep(_LOOK_EVERY_SECONDS)
        now = next_offsets(engine, topic, topic)
        waiting -= {partition for partition in before if now[partition] > before[partition]}
    engine.dispose()
    return time.monotonic() - since


def freshness(bench: Bench, seconds: int) -> dict[str, float]:
    """Produce at a steady rate and measure when the online row of each event's user includes the event.

    Args:
        bench: broker and folder.
        seconds: duration; the first seconds, of imports and joining the group, are left out.
    """
    env = bench.environment("fresh")
    bench.start(env, "prepare").communicate()
    consumer = bench.start(env, "online", "--ignored-seconds", "8")
    pace: dict[str, Any] = finished(
        bench.start(env, "pace", "--rate", str(_RATE), "--seconds", str(seconds + 8))
    )
    time.sleep(_LAST_SECONDS)
    consumer.send_signal(signal.SIGTERM)
    return {**finished(consumer), "online_rate": pace["events"] / pace["seconds"]}
