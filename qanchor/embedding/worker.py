"""A worker of a backfill: does shards of a job until none is left, by itself or by others.

The next shard's events are read while this one is embedded, and vectors are written while the next ones are
made (`ShardWork`). Reading ahead claims nothing: where another worker takes the shard first, what was read
is dropped.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from qanchor.embedding.plan import Plan
from qanchor.embedding.shard import Embedder, ShardWork, StopShard, Target, targets_of
from qanchor.embedding.spaces import Space
from qanchor.events.history import EventArrays, load_event_arrays
from qanchor.files import full_disk_as_error
from qanchor.progress import Progress
from qanchor.registry.shards import LeaseLost, ShardedJob
from qanchor.workspace import Workspace

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 0.5

# The model of the spaces with one query for each, in their order.
LoadEmbedder = Callable[[Sequence[Space]], tuple[Embedder, Sequence[Any]]]


@dataclass(frozen=True)
class ShardTask:
    """What is to be done.

    Args:
        job: this worker's part in it.
        plan: which pairs each shard computes.
        workspace: the window and its limits.
        spaces: one per scenario, in the order of the plan's requests.
    """

    job: ShardedJob
    plan: Plan
    workspace: Workspace
    spaces: Sequence[Space]


@dataclass
class Tally:
    """Counts what is done, and shows it.

    Args:
        job: that is worked on.
        progress: whoever watches.
        embedded: requests that this run has encoded.
        seconds: that took.
    """

    job: ShardedJob
    progress: Progress
    embedded: int = 0
    seconds: float = 0.0
    _shown: int = 0

    def advance(self, requests: int) -> None:
        """Count what this process has embedded."""
        self.embedded += requests
        self._shown += requests
        self.progress.advance(requests)

    def drop(self, requests: int) -> None:
        """Forget what a shard that was lost has counted; whoever has it counts it again."""
        self._shown -= requests

    def catch_up(self) -> None:
        """Show what other workers have finished meanwhile."""
        done = self.job.counts().size_done
        self.job.note(done)
        if done > self._shown:
            self.progress.advance(done - self._shown)
            self._shown = done


class Engine(Protocol):
    """Where shards are computed; `LocalEngine` and `qanchor.embedding.cluster.RayEngine` are engines."""

    def run(self, task: ShardTask, tally: Tally) -> None:
        """Do shards until none is left to do."""
        ...


@dataclass(frozen=True)
class LocalEngine:
    """Computes shards in this process.

    Args:
        load: gives the model; called once the cheap checks are done.
    """

    load: LoadEmbedder

    def run(self, task: ShardTask, tally: Tally) -> None:
        """Do shards until none is left to do, by this process or by others.

        Raises:
            DiskFull: no space for a shard's vectors; free some, and what is finished stays.
        """
        embedder, queries = self.load(task.spaces)
        targets = targets_of(task.spaces, queries)
        with full_disk_as_error(task.plan.folder), ThreadPoolExecutor(1, "read") as pool:
            _Worker(task, tally, embedder, targets, pool).run()


@dataclass
class _Worker:
    task: ShardTask
    tally: Tally
    embedder: Embedder
    targets: Sequence[Target]
    pool: ThreadPoolExecutor
    _ahead: dict[int, "Future[EventArrays]"] = field(default_factory=dict)

    def run(self) -> None:
        job = self.task.job
        while True:
            number = job.claim(prefer=next(iter(self._ahead), None))
            if number is not None:
                self._do(number)
            self.tally.catch_up()
            counts = job.counts()
            if counts.done == counts.shards:
                return
            if number is None:
                time.sleep(WAIT_SECONDS)  # others hold the last shards; if they die, their leases run out

    def _do(self, number: int) -> None:
        job, plan = self.task.job, self.task.plan
        began, before = time.monotonic(), self.tally.embedded
        # A name of its own: a worker that comes back from the dead must not write into its successor's files.
        folder = plan.folder / f"{number:05d}-{job.owner.rsplit('/', 1)[-1]}"
        try:
            with job.holding(number) as stop:
                arrays = self._events(number)
                advance = self.tally.advance
                shard = ShardWork(
                    arrays, self.task.workspace, self.embedder, self.targets, folder, stop, advance
                )
                outcome = shard.run(plan.shard(number))
                job.finish(number, {"folder": folder.name, **outcome.as_json()})
        except (LeaseLost, StopShard):
            log.warning("shard_lost job=%d shard=%d", job.id, number)
            self.tally.drop(self.tally.embedded - before)
        except BaseException:
            job.release(number)
            raise
        finally:
            self.tally.seconds += time.monotonic() - began

    def _events(self, number: int) -> EventArrays:
        """A shard's events, read already if all went as guessed; those of the next one begin to be read."""
        read = self._ahead.pop(number, None)
        self._ahead.clear()
        arrays = self._read(number) if read is None else read.result()
        following = self.task.job.likely_next()
        if following is not None:
            self._ahead[following] = self.pool.submit(self._read, following)
        return arrays

    def _read(self, number: int) -> EventArrays:
        return load_event_arrays(self.task.plan.events[number], self.task.workspace)


def shard_folder(plan: Plan, result: Mapping[str, Any]) -> Path:
    """Where a finished shard's part files lie."""
    return plan.folder / str(result["folder"])


def redo_lost_shards(job: ShardedJob, plan: Plan) -> None:
    """Have finished shards done again whose files are gone from the cache."""
    lost = [r.number for r in job.results() if not shard_folder(plan, r.result).is_dir()]
    if lost:
        job.reset(lost)
