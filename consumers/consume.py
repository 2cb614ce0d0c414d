"""Building a consumer from settings, and running it."""

import gc
import re
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kafka.errors import InvalidSessionTimeoutError

from consumers.assignment import Assignment
from consumers.batches import check_batches
from consumers.dead_letters import DeadLetterTopic
from consumers.decode import DecodedBatch, decode_records
from consumers.event_consumer import ConsumerParts, EventConsumer, Skipping
from consumers.formats import open_decoder
from consumers.group_member import GroupMember
from consumers.group_status import GroupReader
from consumers.health import Health
from consumers.kafka_client import ensure_topics, explained, open_client, prepare_library, session_limits
from consumers.kafka_errors import Use
from consumers.metrics import ConsumerMetrics
from consumers.sinks.event_log import EventLogSink, RepeatWindow
from consumers.sinks.online import OnlineFeed, OnlineSink
from consumers.stop_rule import StopRule
from consumers.summary import ConsumeSummary
from consumers.watch import GroupWatch
from qanchor.errors import BrokerRefusal, InputError, StoreUnavailable
from qanchor.events.rolling import RollingActivity
from qanchor.metrics_server import MetricsServer
from qanchor.progress import Progress
from qanchor.registry.ledger import forget_topic, next_offsets, topic_ids
from qanchor.registry.positions import online_group
from qanchor.settings import KafkaSettings, Settings
from qanchor.site import Site
from qanchor.storage.event_log import EventLog, recover
from qanchor.storage.features import FeatureRepository
from qanchor.storage.online import open_online_view

_LONGEST_PAUSE_SECONDS = 300.0  # of the loop; then the group gives its partitions away
_CLOSE_MS = 300  # a static member says no goodbye, and nothing else is under way
# It begins file names: readers skip those that begin with `_` or `.`, and `compacted-` is compaction's.
_NAME = re.compile(r"(?!compacted-)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class ConsumeOptions:
    """How one run of the consumer differs from another.

    Args:
        name: of this consumer, unlike every other's of its group: the static member id and the start of
            its file names; default: the host's name.
        rule: when it ends without a signal.
        metrics_port: offer Prometheus metrics, /healthz and /readyz there.
        skip_deleted: go on at the oldest event where the brokers have deleted some unread.
        online: keep the activity view in the online store up to date, too.
        skip: partitions and offsets of messages that are left out, with a dead letter.
        recreated: read a topic that was deleted and created again from its beginning.
    """

    name: str | None = None
    rule: StopRule = field(default_factory=StopRule)
    metrics_port: int | None = None
    skip_deleted: bool = False
    online: bool = False
    skip: Collection[tuple[int, int]] = ()
    recreated: bool = False


def consumer_options(settings: Settings, name: str) -> dict[str, Any]:
    """kafka-python's options for the event consumer, beside those of the connection."""
    kafka = settings.kafka
    return {
        "client_id": f"qanchor-{name}",
        "group_id": kafka.group,
        "group_instance_id": name,
        "enable_auto_commit": False,
        # Events deleted unread must be an alarm, and where they may be left out, they are counted.
        "auto_offset_reset": "none",
        "isolation_level": "read_committed",
        "max_poll_records": kafka.batch_events,
        "max_partition_fetch_bytes": 4 << 20,
        "session_timeout_ms": int(kafka.session_seconds * 1000),
        "max_poll_interval_ms": int(_LONGEST_PAUSE_SECONDS * 1000),
        # By a heartbeat the others learn that a member is gone: every further second is a second of takeover.
        "heartbeat_interval_ms": int(min(1.0, kafka.session_seconds / 10) * 1000),
    }


def check_name(name: str) -> str:
    """The name of a consumer, if files and group members can bear it.

    Raises:
        InputError: they cannot.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot name a consumer.",
            "Give --name letters, digits, dots, hyphens and underscores, beginning with a letter or digit,"
            " and nothing that begins with `compacted-`.",
        )
    return name


def read_offset(text: str) -> tuple[int, int]:
    """Partition and offset of PARTITION:OFFSET.

    Raises:
        InputError: it is not two numbers.
    """
    partition, _, offset = text.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise InputError(f"{text!r} is not PARTITION:OFFSET.", "Pass two numbers, such as --skip 2:1234.")
    return int(partition), int(offset)


@contextmanager
def _stores_answer(home: Path) -> Iterator[None]:
    """An error of the operating system becomes one line and exit code 4, whichever store has it."""
    try:
        yield
    except OSError as error:
        where = error.filename or home
        raise StoreUnavailable(
            f"{where} cannot be used: {error.strerror or error}",
            "Make it readable and writable for this user, or set QANCHOR_HOME; nothing is lost.",
        ) from error


@contextmanager
def _session_limits_named(kafka: KafkaSettings) -> Iterator[None]:
    """A refused session time-out is reported with the brokers' own limits, where they tell them."""
    try:
        yield
    except BrokerRefusal as error:
        limits = isinstance(error.__cause__, InvalidSessionTimeoutError) and session_limits(kafka)
        if not limits:
            raise
        raise BrokerRefusal(
            f"{error.problem}: theirs is {limits[0]:g} to {limits[1]:g} s",
            "Correct QANCHOR_KAFKA__SESSION_SECONDS, or the brokers' group.min.session.timeout.ms.",
        ) from error


def run_consumer(
    site: Site,
    options: ConsumeOptions,
    stop: threading.Event,
    progress: Progress,
    metrics: ConsumerMetrics | None = None,
) -> ConsumeSummary:
    """Stream events from Kafka into the event log.

    Args:
        site: settings, workspace, home and registry.
        options: options of this run.
        stop: event that ends the run; what was read by then is written.
        progress: counter of messages for people.
        metrics: observer of writes and rounds; default: counts for Prometheus.

    Raises:
        InputError: the name cannot be one.
        BrokerUnavailable: no broker answers at the start; once it runs, it tries again by itself.
        NotReady: another consumer of this name runs, or events were deleted unread.
        EventsInvalid: too many messages are refused.
        StoreUnavailable: disk or database; start again, nothing is lost.
    """
    prepare_library()
    check_batches(site.settings.kafka.largest_batch_bytes)
    settings, engine = site.settings, site.engine
    kafka, name = settings.kafka, check_name(options.name or socket.gethostname())
    metrics, health = metrics or ConsumerMetrics(), Health(engine, _LONGEST_PAUSE_SECONDS)
    with _stores_answer(site.home.root), ExitStack() as closing:
        if options.metrics_port is not None:
            probes = health.why_not_alive, health.why_not_ready
            closing.callback(MetricsServer(options.metrics_port, metrics.registry, *probes).close)
        # A topic that has been read is never created again: its successor's offsets are not the ledger's.
        new = {} if next_offsets(engine, kafka.group, kafka.topic) else {kafka.topic: kafka.partitions}
        ensure_topics(kafka, {**new, kafka.dead_letter_topic: 1})
        gc.set_threshold(50_000, 20, 100)  # a batch is many small objects that all live as long: +20% rate
        log = EventLog(site.home.events, site.workspace, name)
        closing.callback(log.close)
        dead_letters = DeadLetterTopic(kafka)
        closing.callback(dead_letters.close)
        sink = _open_sink(site, log, dead_letters)
        log.claim()
        recover(engine, log)
        # Imports and connects what the first write needs: a stop must not wait for that.
        sink.write(DecodedBatch(), {})
        online = _open_online(site, metrics) if options.online or kafka.online else None
        if online is not None:
            kafka = kafka.model_copy(update={"flush_seconds": min(kafka.flush_seconds, kafka.online_seconds)})
        client = open_client(kafka, GroupMember, **consumer_options(settings, name))
        closing.callback(client.close, autocommit=False, timeout_ms=_CLOSE_MS)
        decode = partial(decode_records, sink.decoder)
        assignment = Assignment(client, engine, kafka.group, kafka.topic, decode)
        sink.notes.topic_id = _known_topic(site, client, options.recreated)
        watch = GroupWatch(partial(GroupReader, kafka, engine), name, metrics, lambda: assignment.owned)
        closing.callback(watch.close)
        watch.start()
        parts = ConsumerParts(client, sink, assignment, metrics, progress, health, online, watch)
        skipping = Skipping(options.skip_deleted, options.skip)
        with _session_limits_named(kafka):
            return EventConsumer(parts, kafka, options.rule, skipping).run(stop)


def _open_sink(site: Site, log: EventLog, dead_letters: DeadLetterTopic) -> EventLogSink:
    kafka, engine = site.settings.kafka, site.engine
    return EventLogSink(
        engine, log, open_decoder(site.workspace, site.settings), dead_letters, kafka.group, kafka.topic,
        kafka.dead_letter_share, RepeatWindow(engine, log, kafka.remembered_events),
    )  # fmt: skip


def _known_topic(site: Site, client: GroupMember, recreated: bool) -> str:
    """Id of the topic that the ledger's offsets belong to; empty where none is known."""
    kafka = site.settings.kafka
    known = topic_ids(site.engine, kafka.group, kafka.topic)
    if recreated and known:
        with explained(kafka, Use("DESCRIBE", kafka.topic)):
            current = client.find_topic_id(kafka.topic)
        if current and known != {current}:
            forget_topic(site.engine, (kafka.group, online_group(kafka.group)), kafka.topic)
            return current
    return min(known, default="")


def _open_online(site: Site, metrics: ConsumerMetrics) -> OnlineFeed:
    # From here on Feast is imported: seconds and hundreds of megabytes that nothing else needs.
    kafka = site.settings.kafka
    log = EventLog(site.home.events, site.workspace)
    rolling = RollingActivity(log, site.workspace, kafka.online_events)
    view = open_online_view(FeatureRepository(site.workspace, site.home))
    sink = OnlineSink(site.engine, log, rolling, view, kafka.group, kafka.topic)
    return OnlineFeed(sink, metrics, kafka.flush_events)
