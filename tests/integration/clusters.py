"""The clusters of the Kafka tests: the embedded broker, and Apache Kafka.

Apache Kafka is the cluster at QANCHOR_TEST_BROKERS, or one node of the jars in QANCHOR_TEST_KAFKA_LIBS,
started once for each test process. Without either, the tests run on the embedded broker alone.
"""

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.apache_kafka import LIBS, ApacheKafka, apache_kafka
from tests.integration.brokers import ThreadedBroker, threaded_broker
from tests.integration.places import Place

# tests/conftest.py moves QANCHOR_KAFKA__BROKERS here, so that no other test sees it.
NAMED: Final = os.environ.get("QANCHOR_TEST_BROKERS", "")
KINDS: Final = ("embedded", "apache")


@dataclass(frozen=True)
class Cluster:
    """Brokers, and names on them that no other test has.

    Args:
        address: bootstrap servers.
        suffix: of this test's topics and group.
        broker: the embedded broker, where it is one.
        kafka: Apache Kafka, where the tests have started it.
    """

    address: str
    suffix: str
    broker: ThreadedBroker | None = None
    kafka: ApacheKafka | None = None

    @property
    def topic(self) -> str:
        return f"events-{self.suffix}"

    @property
    def dead_letter_topic(self) -> str:
        return f"dead-{self.suffix}"

    @property
    def group(self) -> str:
        return f"group-{self.suffix}"

    def place(self, home: Path, **kafka: Any) -> Place:
        """A home on this cluster; `kafka` are KafkaSettings."""
        names = {"topic": self.topic, "dead_letter_topic": self.dead_letter_topic, "group": self.group}
        return Place(home, self.address, {**names, **kafka})

    def fresh(self) -> "Cluster":
        """The same brokers, with other names on them."""
        return Cluster(self.address, secrets.token_hex(4), self.broker, self.kafka)

    @property
    def inside(self) -> ThreadedBroker:
        """The embedded broker, for tests that look or reach into it; others are skipped."""
        if self.broker is None:
            pytest.skip("reaches into the embedded broker")
        return self.broker


def require_apache() -> None:
    """Skip the test where no jars of Apache Kafka are named."""
    if not LIBS:
        pytest.skip("QANCHOR_TEST_KAFKA_LIBS names no folder with the jars of Apache Kafka")


@pytest.fixture(scope="session")
def apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Apache Kafka, one for the test process."""
    if NAMED:
        yield Cluster(NAMED, secrets.token_hex(4))
        return
    require_apache()
    with apache_kafka(tmp_path_factory.mktemp("kafka") / "data") as kafka:
        yield Cluster(kafka.address, secrets.token_hex(4), kafka=kafka)


@pytest.fixture(params=KINDS)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """Each kind of cluster in turn, with names of this test's own."""
    if request.param == "apache":
        shared: Cluster = request.getfixturevalue("apache")
        yield shared.fresh()
        return
    with threaded_broker(tmp_path / "broker") as broker:
        yield Cluster(broker.address, secrets.token_hex(4), broker)
