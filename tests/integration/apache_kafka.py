"""Apache Kafka in KRaft mode on loopback, of the jars in a folder: nodes that tests start, stop and kill."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# Folder of the jars of org.apache.kafka:kafka_2.13 and what it depends on; see tests/kafka/pom.xml.
LIBS: Final = os.environ.get("QANCHOR_TEST_KAFKA_LIBS", "")
_CLUSTER_ID: Final = "4L6g3nShT-eMCtK--X86sw"
_PROTOCOLS: Final = "PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"
_START_SECONDS: Final = 90.0


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, outside the range of client ports, so that a node can come back there."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randint(15_000, 32_000)
        with socket.socket() as probe:
            if port not in ports and probe.connect_ex(("127.0.0.1", port)):
                ports.append(port)
    return ports


def _java(*arguments: str) -> list[str]:
    options = ["-Xmx400m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
    return ["java", *options, "-cp", f"{LIBS}/*", *arguments]


class ApacheKafka:
    """A cluster whose nodes are both broker and controller.

    Args:
        folder: data, configuration and log of each node.
        nodes: number of nodes.
        settings: lines of server.properties that differ from quick tests' defaults.
        listener: protocol of the clients' listener.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 1,
        settings: Mapping[str, str] | None = None,
        listener: str = "PLAINTEXT",
    ) -> None:
        self._folder, self._nodes = folder, range(1, nodes + 1)
        self._ports = dict(zip(self._nodes, _free_ports(2 * nodes)[:nodes], strict=True))
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        inner = dict(zip(self._nodes, _free_ports(nodes), strict=True))
        voters = ",".join(f"{node}@127.0.0.1:{inner[node]}" for node in self._nodes)
        for node in self._nodes:
            outer = f"{listener}://127.0.0.1:{self._ports[node]}"
            options = {
                "process.roles": "broker,controller",
                "node.id": str(node),
                "controller.quorum.voters": voters,
                "listeners": f"{outer},CONTROLLER://127.0.0.1:{inner[node]}",
                "advertised.listeners": outer,
                "inter.broker.listener.name": listener,
                "controller.listener.names": "CONTROLLER",
                "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,"
                + ",".join(f"{name}:{name}" for name in _PROTOCOLS),
                "log.dirs": str(self._path(node) / "data"),
                **_small_topics(nodes),
                **(settings or {}),
            }
            self._path(node).mkdir(parents=True)
            lines = "".join(f"{key}={value}\n" for key, value in options.items())
            (self._path(node) / "server.properties").write_text(lines)

    def _path(self, node: int) -> Path:
        return self._folder / f"node{node}"

    @property
    def address(self) -> str:
        """Bootstrap servers."""
        return ",".join(f"127.0.0.1:{port}" for port in self._ports.values())

    def prepare(self, *arguments: str) -> None:
        """Format the nodes' storage.

        Args:
            arguments: further arguments of Kafka's storage tool, such as --add-scram.
        """
        for node in self._nodes:
            tool = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID]
            conf = str(self._path(node) / "server.properties")
            subprocess.run(
                _java(*tool, "-c", conf, *arguments),
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def start(self, *nodes: int) -> None:
        """Start nodes, by default all, and return once they take connections."""
        for node in nodes or self._nodes:
            with (self._path(node) / "log").open("ab") as log:
                self._processes[node] = subprocess.Popen(
                    _java("kafka.Kafka", str(self._path(node) / "server.properties")),
                    stdout=log,
                    stderr=log,
                )
        for node in nodes or self._nodes:
            self._await(node)

    def _await(self, node: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with socket.socket() as probe:
                probe.settimeout(1)
                if not probe.connect_ex(("127.0.0.1", self._ports[node])):
                    return
            if time.monotonic() > deadline or self._processes[node].poll() is not None:
                raise TimeoutError((self._path(node) / "log").read_text()[-2_000:])
            time.sleep(0.05)

    def signal(self, number: signal.Signals, *nodes: int) -> None:
        """Send a signal to nodes, by default to all."""
        for node in nodes or self._nodes:
            self._processes[node].send_signal(number)

    def kill(self, *nodes: int) -> None:
        """End nodes, by default all, as kill -9 does."""
        for node in nodes or self._nodes:
            self._processes[node].kill()
            self._processes[node].wait()

    def run_tool(self, tool: str, *arguments: str) -> str:
        """Run one of Kafka's command line tools against the cluster; returns what it printed."""
        ended = subprocess.run(
            _java(tool, "--bootstrap-server", self.address, *arguments),
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return ended.stdout

    def segments(self, topic: str) -> list[Path]:
        """Log segments of a topic's partitions on the first node."""
        return sorted((self._path(1) / "data").glob(f"{topic}-[0-9]*/*.log"))


def _small_topics(nodes: int) -> dict[str, str]:
    copies, in_sync = str(min(3, nodes)), "2" if nodes >= 3 else "1"
    return {
        "num.partitions": "4",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": copies,
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    }


@contextmanager
def apache_kafka(
    folder: Path,
    nodes: int = 1,
    settings: Mapping[str, str] | None = None,
    listener: str = "PLAINTEXT",
    *storage: str,
) -> Iterator[ApacheKafka]:
    """A running cluster; `storage` are arguments of the storage tool."""
    cluster = ApacheKafka(folder, nodes, settings, listener)
    cluster.prepare(*storage)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
