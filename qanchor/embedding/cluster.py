"""Shards of a backfill on a Ray cluster: actors that hold the model, each a worker like any other.

Ray starts processes and notices when one dies; which worker has which shard, and what is done, is in the
registry as ever. So a worker that dies costs its shard, workers outside the cluster may help, and the result
is that of one process. Every node needs the same QANCHOR_HOME and registry.
"""

import importlib.util
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from qanchor.embedding.job import BackfillJob
from qanchor.embedding.remote import RemoteWorker, order_for
from qanchor.embedding.worker import WAIT_SECONDS, WorkerProgress
from qanchor.errors import InputError, NotReady, QAnchorError, StateError, StoreUnavailable
from qanchor.registry.leases import new_token
from qanchor.settings import Settings

LOCAL: Final = "local"
_CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True)
class ClusterOptions:
    """How shards are spread.

    Args:
        address: address of a running cluster, as Ray writes it; "local" starts one here for this backfill.
        workers: number of actors; 0: as many as there is room for.
        cpus: cores of one worker, which are its native threads.
        gpus: GPUs of one worker; a fraction shares one.
        max_deaths: workers that may die in one slot: what kills that many in a row will kill the next.
    """

    address: str = LOCAL
    workers: int = 0
    cpus: int = 1
    gpus: float = 0.0
    max_deaths: int = 3


@dataclass
class _Slot:
    """Room for one worker; a worker that dies is replaced."""

    tokens: list[str] = field(default_factory=list)
    actor: Any = None


@dataclass(frozen=True)
class RayEngine:
    """Computes shards on a Ray cluster.

    Args:
        settings: settings of this process; workers get the same.
        options: how shards are spread.
        worker: class of the actors.
    """

    settings: Settings
    options: ClusterOptions
    worker: type[RemoteWorker] = RemoteWorker

    def run(self, job: BackfillJob, progress: WorkerProgress) -> None:
        """Embed shards until none is left, on the cluster or elsewhere.

        Raises:
            NotReady: Ray is not installed, or the registry cannot be shared with the cluster's nodes.
            InputError: the cluster is too small for the options.
            StoreUnavailable: no cluster answers at the address.
            StateError: workers keep dying.
        """
        require_ray()
        shards = job.shards.counts().shards
        if not shards:
            return
        began = time.monotonic()
        with _connected(self.options) as ray:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            room = room_for(self.options, nodes, self.settings.database_url)
            slots = [_Slot() for _ in range(min(self.options.workers or room, shards))]
            actors = _Actors(self, job, ray, slots)
            try:
                actors.watch(progress)
            finally:
                actors.leave()
                progress.embedded = job.shards.size_done_by([t for slot in slots for t in slot.tokens])
                progress.seconds = time.monotonic() - began


@dataclass(frozen=True)
class _Actors:
    """The workers of one job."""

    engine: RayEngine
    job: BackfillJob
    ray: Any
    slots: Sequence[_Slot]

    def watch(self, progress: WorkerProgress) -> None:
        """Start the workers, and replace those that die, until no worker is left."""
        working = {self._start(slot): slot for slot in self.slots}
        deaths = 0
        while working:
            ended, _ = self.ray.wait(list(working), timeout=WAIT_SECONDS)
            progress.catch_up()
            for reference in ended:
                slot = working.pop(reference)
                if self._ended_well(reference):
                    continue
                deaths += 1
                # Ray knows that it is dead: nobody has to wait for its lease.
                self.job.shards.disown(slot.tokens[-1])
                if len(slot.tokens) < self.engine.options.max_deaths:
                    working[self._start(slot)] = slot
        counts = self.job.shards.counts()
        if counts.done < counts.shards:
            raise StateError(
                f"{deaths} Ray workers died, and {counts.shards - counts.done} shards are left",
                "Look at memory and at Ray's logs; the same command goes on with what is left.",
            )

    def _start(self, slot: _Slot) -> object:
        options, token = self.engine.options, new_token()
        order = order_for(self.engine.settings, self.job, token, options.cpus)
        actor = self.ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_restarts=0)
        slot.tokens.append(token)
        slot.actor = actor(self.engine.worker).remote(order)
        reference: object = slot.actor.work.remote()
        return reference

    def _ended_well(self, reference: object) -> bool:
        """Whether a worker has finished; False where its process died."""
        errors = self.ray.exceptions
        try:
            self.ray.get(reference)
        except errors.RayActorError:
            return False
        except errors.RayTaskError as error:
            if isinstance(error.cause, QAnchorError):
                raise error.cause from None
            raise
        return True

    def leave(self) -> None:
        """Leave no worker behind, even on a cluster that goes on running."""
        for slot in self.slots:
            if slot.actor is not None:
                self.ray.kill(slot.actor)
                self.job.shards.disown(slot.tokens[-1])


def room_for(options: ClusterOptions, nodes: Sequence[Mapping[str, float]], database_url: str) -> int:
    """How many workers fit on a cluster.

    Args:
        options: number and size of the workers.
        nodes: resources of every node, as Ray names them.
        database_url: URL of the registry.

    Raises:
        NotReady: the registry cannot be shared by the nodes; use PostgreSQL.
        InputError: there is no room for the number of workers in the options.
    """
    if len(nodes) > 1 and database_url.startswith("sqlite"):
        raise NotReady(
            f"the registry is a SQLite file, and the Ray cluster has {len(nodes)} nodes",
            "Set QANCHOR_DATABASE__URL to a PostgreSQL database that every node reaches.",
        )
    size = {"CPU": float(options.cpus), "GPU": options.gpus}
    # A worker runs on one node, so room is counted node by node.
    room = sum(
        int(min(node.get(kind, 0.0) / count for kind, count in size.items() if count)) for node in nodes
    )
    least = max(1, options.workers)
    if room < least:
        raise InputError(
            f"the Ray cluster has room for {room} workers of {options.cpus} CPUs and {options.gpus:g} GPUs "
            f"each, not for {least}",
            "Choose fewer or smaller workers, or enlarge the cluster.",
        )
    return room


def require_ray() -> None:
    """Check that Ray is installed, without importing it.

    Raises:
        NotReady: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise NotReady("ray is not installed", "Run `pip install 'qanchor[ray]'`.")


@contextmanager
def _connected(options: ClusterOptions) -> Iterator[Any]:
    """Ray, connected; what was started is stopped at the end."""
    local = options.address == LOCAL
    # Before Ray is imported. Nothing is sent to its makers, and a cluster of one machine listens on loopback
    # alone, as Ray does by itself where it supports no other.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if local:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    else:
        _require_answer(options.address)
    import ray

    if local:
        cores = max(len(os.sched_getaffinity(0)), options.workers * options.cpus)
        started = {"num_cpus": cores, "include_dashboard": False}
    else:
        started = {}
    try:
        ray.init(address=options.address, log_to_driver=False, logging_level="ERROR", **started)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(options.address, str(error)) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Try the port first: Ray itself tries for a minute, and ends the process in some cases."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        if address == "auto":
            return
        raise InputError(f"{address!r} is no address of a Ray cluster", "Write it as HOST:PORT, or `local`.")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, reason: str) -> StoreUnavailable:
    first = (reason.splitlines() or [""])[0]
    return StoreUnavailable(
        f"no Ray cluster answers at {address}: {first}",
        "Start one with `ray start --head`, or leave --ray-address out.",
    )
