"""The cluster of the streaming tests: an embedded broker, or the one that QANCHOR_KAFKA__BROKERS names."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.brokers import ThreadedBroker, threaded_broker
from tests.integration.places import Place

# tests/conftest.py moves QANCHOR_KAFKA__BROKERS here, so that no other test sees it.
NAMED: Final = os.environ.get("QANCHOR_TEST_BROKERS", "")


@dataclass(frozen=True)
class Cluster:
    """Brokers, and names on them that no other test has.

    Args:
        address: bootstrap servers.
        suffix: of this test's topics and group.
        broker: the embedded broker, where it is one.
    """

    address: str
    suffix: str
    broker: ThreadedBroker | None = None

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

    @property
    def inside(self) -> ThreadedBroker:
        """The embedded broker, for tests that look or reach into it; others are skipped."""
        if self.broker is None:
            pytest.skip("reaches into the embedded broker; QANCHOR_KAFKA__BROKERS names another cluster")
        return self.broker


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """The named cluster, or an embedded broker whose log lies in `folder`."""
    suffix = secrets.token_hex(4)
    if NAMED:
        yield Cluster(NAMED, suffix)
        return
    with threaded_broker(folder) as broker:
        yield Cluster(broker.address, suffix, broker)
