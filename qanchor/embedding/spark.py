"""Shards of a backfill on Spark: each task of a `mapInPandas` is a worker like any other.

The session is the caller's, so pyspark is no dependency. A task that dies is started again by Spark; its
shard is free when its lease has run out. Every executor needs the same QANCHOR_HOME and registry.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from qanchor.embedding.remote import RemoteWorker, WorkerOrder, order_for
from qanchor.embedding.worker import ShardTask, Tally
from qanchor.registry.leases import new_token
from qanchor.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

SCHEMA: Final = "host string, process long, embedded long"


def work_in_pandas(
    order: WorkerOrder, worker: type[RemoteWorker] = RemoteWorker
) -> "Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]":
    """The function for `DataFrame.mapInPandas`: does shards until none is left, says how much it did.

    Args:
        order: what every task is told.
        worker: the class that does it.
    """

    def work(frames: "Iterator[pd.DataFrame]") -> "Iterator[pd.DataFrame]":
        import pandas as pd

        if sum(len(frame) for frame in frames):  # an empty partition is no worker
            done = worker(replace(order, token=new_token())).work()
            yield pd.DataFrame({"host": [socket.gethostname()], "process": [os.getpid()], "embedded": [done]})

    return work


@dataclass(frozen=True)
class SparkEngine:
    """Computes shards on a Spark cluster.

    Args:
        spark: a SparkSession.
        settings: of this process; workers get the same.
        workers: tasks.
        threads: native threads of a task, which should be spark.task.cpus.
        worker: the class that does the work of one.
    """

    spark: Any
    settings: Settings
    workers: int
    threads: int = 1
    worker: type[RemoteWorker] = RemoteWorker

    def run(self, task: ShardTask, tally: Tally) -> None:
        """Do shards until none is left to do, by the cluster or by others."""
        began = time.monotonic()
        order = order_for(self.settings, task, "", self.threads)
        tasks = self.spark.range(0, self.workers, 1, self.workers)
        rows = tasks.mapInPandas(work_in_pandas(order, self.worker), SCHEMA).collect()
        tally.catch_up()
        tally.embedded = sum(int(row["embedded"]) for row in rows)
        tally.seconds = time.monotonic() - began
