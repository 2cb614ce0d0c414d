"""What `qanchor-cli doctor` says about the Kafka brokers: it logs in as the consumer does."""

import socket
from contextlib import closing

from kafka.errors import NoError, UnknownTopicOrPartitionError, for_code

from consumers.group_status import AdminClient
from consumers.kafka_client import explained, open_client, prepare_library
from consumers.kafka_errors import Use
from qanchor.diagnosis import Finding
from qanchor.errors import BrokerRefusal, BrokerUnavailable
from qanchor.settings import KafkaSettings, Settings

_CHECK = "kafka broker"


def check_brokers(settings: Settings) -> Finding:
    """Connect, log in and look at the topic."""
    kafka = settings.kafka
    if not any(_listens(server) for server in kafka.brokers.split(",")):
        return Finding(
            _CHECK,
            "warn",
            f"{kafka.brokers} does not answer",
            "Needed to stream only: start yours, run `qanchor-cli broker`, or set QANCHOR_KAFKA__BROKERS.",
        )
    try:
        return Finding(_CHECK, "ok", _look(kafka))
    except BrokerUnavailable as error:
        is_refused = isinstance(error, BrokerRefusal)
        return Finding(_CHECK, "missing" if is_refused else "warn", error.problem, error.remedy)


def _listens(server: str) -> bool:
    host, _, port = server.strip().rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except (OSError, ValueError):
        return False
    return True


def _look(kafka: KafkaSettings) -> str:
    prepare_library()
    with closing(open_client(kafka, AdminClient)) as admin, explained(kafka, Use("DESCRIBE", kafka.topic)):
        (topic,) = admin.describe_topics([kafka.topic])
        error = for_code(topic["error_code"])
        if error is UnknownTopicOrPartitionError:
            return f"{kafka.brokers} answers; topic {kafka.topic} does not exist yet"
        if error is not NoError:
            raise error({kafka.topic})
    return f"{kafka.brokers} answers; topic {kafka.topic} has {len(topic['partitions'])} partitions"
