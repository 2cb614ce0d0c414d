"""How this project talks to Kafka: one way to open a client, one set of options."""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import kafka
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, KafkaTimeoutError, TopicAlreadyExistsError, UnsupportedVersionError
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from consumers.kafka_errors import Use, explain, explain_connection, is_hang_up
from consumers.security import client_security
from qanchor.errors import BrokerUnavailable, NotReady
from qanchor.settings import KafkaSettings

log = logging.getLogger(__name__)

# Older ones leave partitions stuck after a rebalance with a listener.
_OLDEST: Final = (3, 0, 9)
_CONNECT_MS: Final = 5_000
# kafka-python's default is 30 s: for as long a consumer would stay away from a broker that is back.
_LONGEST_RECONNECT_MS: Final = 500
_LONGEST_SETUP_MS: Final = 10_000
_Client = TypeVar("_Client")


def prepare_library() -> None:
    """Check kafka-python and keep its log off the terminal.

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


class _Connections(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python has no types
    """Remembers why connections failed, which a time-out of the whole client does not say."""

    def __init__(self, causes: list[BaseException], net: Any, **configs: Any) -> None:
        super().__init__(net, **configs)
        self._causes = causes
        # kafka-python takes the option and forgets it here: each refresh of a consumer's metadata would
        # create a topic that somebody has deleted.
        self.cluster.config["allow_auto_create_topics"] = configs.get("allow_auto_create_topics", False)

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        """A connection to a node; why it was lost, if it was, is noted."""
        connection = super().get_connection(*args, **kwargs)
        for future in (connection.init_future, connection.close_future):
            future.add_errback(self._causes.append)
        return connection


def _network_client(causes: list[BaseException], **configs: Any) -> Any:
    net = NetworkSelector(**configs)
    return KafkaNetClient(net=net, manager=_Connections(causes, net, **configs), **configs)


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """kafka-python's options for brokers, login and time-outs, the same for every client."""
    version = tuple(int(part) for part in settings.api_version.split(".") if part)
    return {
        **({"api_version": version} if version else {}),
        "bootstrap_servers": settings.brokers.split(","),
        "bootstrap_timeout_ms": _CONNECT_MS,
        "reconnect_backoff_max_ms": _LONGEST_RECONNECT_MS,
        "socket_connection_setup_timeout_max_ms": _LONGEST_SETUP_MS,
        "metadata_max_age_ms": int(settings.metadata_seconds * 1000),
        **client_security(settings),
    }


def open_client(settings: KafkaSettings, kind: Callable[..., _Client], **options: Any) -> _Client:
    """A connected client of kafka-python; without the option for it, it never creates a topic.

    Args:
        settings: brokers and login.
        kind: class of the client.
        options: its options beside those of the connection.

    Raises:
        BrokerUnavailable: no broker answered within five seconds; start one or correct the address.
        BrokerRefusal: the brokers, or the library, refuse the settings; the message says which.
    """
    causes: list[BaseException] = []
    shared = connection_options(settings)
    known = getattr(kind, "DEFAULT_CONFIG", shared)  # an admin client knows fewer options than the others
    configs = {name: value for name, value in shared.items() if name in known} | options
    if "allow_auto_create_topics" in getattr(kind, "DEFAULT_CONFIG", {}):
        configs.setdefault("allow_auto_create_topics", False)
    configs["kafka_client"] = partial(_network_client, causes)
    try:
        try:
            return kind(**configs)
        except KafkaTimeoutError:
            # Brokers answer a wrong login and hang up at once, and kafka-python may see no more than that.
            if "sasl_mechanism" not in configs or not all(map(is_hang_up, causes)):
                raise
            return kind(**configs)
    # kafka-python checks its options with whatever comes to hand.
    except (KafkaError, OSError, ValueError, TypeError, KeyError, AssertionError, RuntimeError) as error:
        raise explain_connection(error, causes, settings) from error


@contextmanager
def explained(settings: KafkaSettings, use: Use) -> Iterator[None]:
    """Errors of kafka-python become errors that name the cause.

    Args:
        settings: brokers and login.
        use: what is done meanwhile.

    Raises:
        BrokerUnavailable: no broker answers.
        BrokerRefusal: the brokers refuse it.
    """
    try:
        yield
    except (KafkaError, OSError) as error:
        raise explain(error, settings, use) from error


def session_limits(settings: KafkaSettings) -> tuple[float, float] | None:
    """Shortest and longest session of a group member that the brokers allow, seconds.

    Returns:
        None where they do not say, for want of a permission for one.
    """
    try:
        admin = open_client(settings, KafkaAdminClient)
        try:
            node = str(admin.describe_cluster()["brokers"][0]["broker_id"])
            resources = [ConfigResource(ConfigResourceType.BROKER, node)]
            configs = admin.describe_configs(resources, config_filter="all")
        finally:
            admin.close()
        values = configs[ConfigResourceType.BROKER.name.lower()][node]
        shortest, longest = (values[f"group.{end}.session.timeout.ms"]["value"] for end in ("min", "max"))
        return int(shortest) / 1000, int(longest) / 1000
    except (KafkaError, OSError, LookupError, TypeError, ValueError, BrokerUnavailable):
        return None


def ensure_topics(settings: KafkaSettings, topics: dict[str, int]) -> None:
    """Create the topics that are missing, where the cluster lets us.

    Args:
        settings: brokers and login.
        topics: partitions by name.

    Raises:
        BrokerUnavailable: no broker answered.
        BrokerRefusal: the brokers refuse the login.
    """
    if not topics:
        return
    admin = open_client(settings, KafkaAdminClient)
    try:
        for name, partitions in topics.items():
            try:
                admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=-1)])
            except (TopicAlreadyExistsError, UnsupportedVersionError):
                continue
            except KafkaError as error:  # an administrator has created it, or will
                log.info("topic_not_created topic=%s reason=%r", name, error)
    finally:
        admin.close()
