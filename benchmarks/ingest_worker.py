"""The measurements of `benchmarks.ingest`, each in its process: one role, one line of JSON.

Settings come from QANCHOR_ environment variables, as everywhere.
"""

import argparse
import gc
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from sqlalchemy import Engine, event

from benchmarks.ingest_setup import as_live, simulated_events
from consumers.consume import ConsumeOptions, consumer_options, run_consumer
from consumers.decode import decode_events
from consumers.encode import encode_table
from consumers.kafka_client import connection_options, open_client, prepare_library
from consumers.metrics import ConsumerMetrics
from consumers.sinks.event_log import Written
from consumers.stop_rule import StopRule
from qanchor.events.schema import EventDecoder
from qanchor.progress import Silent
from qanchor.settings import Settings, load_settings
from qanchor.site import Site
from qanchor.workspace import load_workspace

_BATCH = 5_000


def _peak_mib() -> float:
    # Not getrusage: its peak is inherited from the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


class _Clock:
    """Wall-clock and CPU seconds since the clock was created."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self, events: int) -> dict[str, float]:
        return {
            "events": events,
            "seconds": time.perf_counter() - self._wall,
            "cpu_seconds": time.process_time() - self._cpu,
            "peak_mib": _peak_mib(),
        }


class _FromStart(Silent):
    """Restarts a clock when the consumer is connected."""

    def __init__(self, clock: _Clock) -> None:
        self._clock = clock

    def start(self, label: str, total: int | None = None) -> None:
        super().start(label, total)
        self._clock.start()


def _assigned_client(settings: Settings) -> tuple[Any, int]:
    """A consumer at the start of every partition, and the number of messages ahead of it."""
    # Configured like the event consumer, but without a group.
    options = consumer_options(settings, "bare") | {"auto_offset_reset": "earliest"} | {"group_id": None}
    options.pop("group_instance_id")
    client = open_client(settings.kafka, KafkaConsumer, **options)
    topic = settings.kafka.topic
    partitions = [TopicPartition(topic, number) for number in client.partitions_for_topic(topic)]
    client.assign(partitions)
    client.seek_to_beginning()
    return client, sum(client.end_offsets(partitions).values())


def bare(settings: Settings, tuned_gc: bool) -> dict[str, float]:
    """kafka-python's poll alone; the messages are discarded."""
    if tuned_gc:
        gc.set_threshold(50_000, 20, 100)
    client, total = _assigned_client(settings)
    clock, read = _Clock(), 0
    while read < total:
        read += sum(map(len, client.poll(1_000, max_records=_BATCH).values()))
    figures = clock.read(read)
    client.close()
    return figures


def consume(settings: Settings, sync: bool) -> dict[str, float]:
    """`qanchor-cli consume --stop-at-end`; without `sync` files are not forced to the disk."""
    site = Site(settings)
    if not sync:
        _never_sync(site.engine)
    clock = _Clock()
    progress = _FromStart(clock)
    options = ConsumeOptions(name="measured", rule=StopRule(at_end=True))
    summary = run_consumer(site, options, threading.Event(), progress)
    # CPU time includes joining the group, not connecting; wall clock from the first poll to the last commit.
    return {**clock.read(summary.events), "seconds": summary.seconds, "writes": summary.writes}


def _never_sync(engine: Engine) -> None:
    vars(os)["fsync"] = lambda _handle: None

    @event.listens_for(engine, "connect")
    def _trust_the_system(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    engine.dispose()


def decode(settings: Settings) -> dict[str, float]:
    """Decode and validate alone, in batches as they are polled."""
    gc.set_threshold(50_000, 20, 100)
    client, total = _assigned_client(settings)
    batches: list[list[Any]] = []
    while sum(map(len, batches)) < total:
        batches += client.poll(1_000, max_records=_BATCH).values()
    client.close()
    gc.freeze()
    decoder = EventDecoder(load_workspace(settings.repo_path), settings.events)
    clock = _Clock()
    valid = sum(len(decode_events(decoder, batch).events) for batch in batches)
    return clock.read(valid)


def pace(settings: Settings, rate: int, seconds: int) -> dict[str, float]:
    """Send events with the current time, at a steady rate."""
    decoder = EventDecoder(load_workspace(settings.repo_path), settings.events)
    some = as_live(simulated_events(50_000))
    moment = str(some["event_time"][0].as_py().isoformat(timespec="microseconds")).replace("+00:00", "Z")
    some = some.set_column(
        some.schema.get_field_index("event_time"),
        "event_time",
        pa.repeat(some["event_time"][0], some.num_rows),
    )
    messages = [(m.user.encode(), m.value.partition(moment.encode())) for m in encode_table(decoder, some)]
    producer = KafkaProducer(**connection_options(settings.kafka), acks="all", linger_ms=5)
    clock, sent = _Clock(), 0
    began = time.monotonic()
    while sent < rate * seconds:
        due = int((time.monotonic() - began) * rate)
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z").encode()
        for number in range(sent, min(due, rate * seconds)):
            key, (head, _, tail) = messages[number % len(messages)]
            # Every event is sent once: its id is the round and the id of the simulated event.
            value = (head + now + tail).replace(
                b'"event_id":"', b'"event_id":"%d-' % (number // len(messages))
            )
            producer.send(settings.kafka.topic, value, key)
            sent = number + 1
        time.sleep(0.005)
    producer.flush(30)
    figures = clock.read(sent)
    producer.close()
    return figures


def _stopped_by_signal() -> threading.Event:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop


def member(settings: Settings, name: str) -> None:
    """Run a consumer of a group until a signal stops it."""
    run_consumer(Site(settings), ConsumeOptions(name=name), _stopped_by_signal(), Silent())


class _OnlineTimes(ConsumerMetrics):
    """Records each event's time and its seconds to the online row."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Any] = []
        self.waits: list[Any] = []

    def shown(self, written: Written) -> None:
        """Record a write's events."""
        self.sent.append(np.asarray(written.table["event_time"].cast(pa.int64())))
        self.waits.append((time.time_ns() // 1000 - self.sent[-1]) / 1e6)


def online(settings: Settings, ignored_seconds: float) -> dict[str, float]:
    """`qanchor-cli consume --online`; seconds from each event to the online row that includes it."""
    metrics = _OnlineTimes()
    options = ConsumeOptions(name="fresh", online=True)
    run_consumer(Site(settings), options, _stopped_by_signal(), Silent(), metrics)
    sent = np.concatenate(metrics.sent)
    waits = np.concatenate(metrics.waits)
    counted = waits[sent >= sent.min() + ignored_seconds * 1e6]
    p50, p99 = np.percentile(counted, [50, 99])
    return {
        "online_p50_seconds": float(p50),
        "online_p99_seconds": float(p99),
        "online_max_seconds": float(counted.max()),
        "online_events": len(counted),
    }


def main() -> None:
    """Play one role."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["bare", "consume", "decode", "prepare", "pace", "member", "online"])
    parser.add_argument("--tuned-gc", action="store_true")
    parser.add_argument("--no-sync", action="store_true")
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--name", default="measured")
    parser.add_argument("--ignored-seconds", type=float, default=0.0)
    options = parser.parse_args()
    prepare_library()
    settings = load_settings()
    roles: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare(settings, options.tuned_gc),
        "consume": lambda: consume(settings, not options.no_sync),
        "decode": lambda: decode(settings),
        "prepare": lambda: Site(settings).engine,
        "pace": lambda: pace(settings, options.rate, options.seconds),
        "member": lambda: member(settings, options.name),
        "online": lambda: online(settings, options.ignored_seconds),
    }
    print(json.dumps(roles[options.role]()))


if __name__ == "__main__":
    main()
