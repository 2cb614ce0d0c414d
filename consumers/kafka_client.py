"""How this project talks to Kafka: one set of options, one translation of 'nobody answers'."""

import importlib.util
import logging
import warnings
from collections.abc import Callable
from typing import Any, Final, TypeVar

import kafka
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError, UnsupportedVersionError

from qanchor.errors import BrokerUnavailable, NotReady
from qanchor.settings import KafkaSettings

log = logging.getLogger(__name__)

# Older ones leave partitions stuck after a rebalance with a listener.
_OLDEST: Final = (3, 0, 9)
_CONNECT_MS: Final = 5_000
_Client = TypeVar("_Client")


def prepare_library() -> None:
    """Check kafka-python and keep its own log off the terminal.

    Raises:
        NotReady: it is too old; install the version that constraints.txt names.
    """
    version = tuple(int(part) for part in kafka.__version__.split(".")[:3] if part.isdigit())
    if version < _OLDEST:
        raise NotReady(
            f"kafka-python {kafka.__version__} loses partitions after a rebalance",
            "Install kafka-python 3.0.12 or newer.",
        )
    if importlib.util.find_spec("crc32c") is None:
        log.warning("crc32c_missing effect='2.4 times slower' remedy='pip install crc32c'")
    warnings.filterwarnings("ignore", module=r"kafka(\..*)?")
    if not log.isEnabledFor(logging.DEBUG):
        logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters comes as an exception


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """Where the brokers are and how to prove who one is."""
    version = tuple(int(part) for part in settings.api_version.split(".") if part)
    return {
        **({"api_version": version} if version else {}),
        "bootstrap_servers": settings.brokers.split(","),
        "bootstrap_timeout_ms": _CONNECT_MS,
        **settings.security,
    }


def connect(settings: KafkaSettings, make: Callable[[], _Client]) -> _Client:
    """A connected client.

    Args:
        settings: names the brokers in the error.
        make: builds the client.

    Raises:
        BrokerUnavailable: no broker answered within five seconds; start one or mend the address.
    """
    try:
        return make()
    except (KafkaError, OSError) as error:
        raise no_broker(settings) from error


def no_broker(settings: KafkaSettings) -> BrokerUnavailable:
    """The error that says so."""
    return BrokerUnavailable(
        f"no Kafka broker answers at {settings.brokers}",
        "Start one (`qanchor-cli broker`), or set QANCHOR_KAFKA__BROKERS.",
    )


def ensure_topics(settings: KafkaSettings, topics: dict[str, int]) -> None:
    """Create the topics that are missing, where the cluster lets us.

    Args:
        settings: where the brokers are.
        topics: partitions by name.

    Raises:
        BrokerUnavailable: no broker answered.
    """
    admin = connect(settings, lambda: KafkaAdminClient(**connection_options(settings)))
    try:
        for name, partitions in topics.items():
            try:
                admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=-1)])
            except (TopicAlreadyExistsError, UnsupportedVersionError):
                continue
            except KafkaError as error:  # not ours to create: an administrator has, or will
                log.info("topic_not_created topic=%s reason=%r", name, error)
    finally:
        admin.close()
