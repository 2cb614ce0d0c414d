"""A worker of a backfill: embeds shards of a job until none is left, together with any other workers.

The next shard's events are read while this one is embedded, and vectors are written while the next ones are
made (`ShardRunner`). Reading ahead claims nothing: where another worker takes the shard first, what was read
is dropped.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from qanchor.embedding.job import BackfillJob
from qanchor.embedding.shard import (
    CHUNK_PAIRS,
    MAX_SET_ASIDE,
    Embedder,
    Shard,
    ShardResult,
    ShardRunner,
    StopShard,
    targets_of,
)
from qanchor.embedding.spaces import Space
from qanchor.events.history import EventArrays, load_event_arrays
from qanchor.files import full_disk_as_error
from qanchor.progress import Progress
from qanchor.registry.shards import LeaseLost, ShardedJob

if TYPE_CHECKING:
    from qanchor.model.embedder import Query

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 0.5

# The model of the spaces with one query for each, in their order.
LoadEmbedder = Callable[[Sequence[Space]], "tuple[Embedder, Sequence[Query]]"]


@dataclass
class WorkerProgress:
    """Counts what this worker has embedded, and shows how far the whole job is.

    Args:
        shards: shards of the job.
        display: shows the progress.
        embedded: pairs that this worker has embedded.
        seconds: time that took.
    """

    shards: ShardedJob
    display: Progress
    embedded: int = 0
    seconds: float = 0.0
    _shown: int = 0

    def advance(self, pairs: int) -> None:
        """Count what this worker has embedded."""
        self.embedded += pairs
        self._shown += pairs
        self.display.advance(pairs)

    def drop(self, pairs: int) -> None:
        """Take back what a lost shard has counted; the worker that has it now counts it again."""
        self._shown -= pairs

    def catch_up(self) -> None:
        """Show what other workers have finished meanwhile."""
        done = self.shards.counts().size_done
        self.shards.note(done)
        if done > self._shown:
            self.display.advance(done - self._shown)
            self._shown = done


class Engine(Protocol):
    """Where shards are computed; `LocalEngine` and `qanchor.embedding.cluster.RayEngine` are engines."""

    def run(self, job: BackfillJob, progress: WorkerProgress) -> None:
        """Embed shards until none is left."""
        ...


@dataclass(frozen=True)
class LocalEngine:
    """Computes shards in this process.

    Args:
        load: loads the model; called once the cheap checks are done.
        chunk_pairs: pairs of one call of the embedder.
        max_set_aside: users of a shard that may break the encoder.
    """

    load: LoadEmbedder
    chunk_pairs: int = CHUNK_PAIRS
    max_set_aside: int = MAX_SET_ASIDE

    def run(self, job: BackfillJob, progress: WorkerProgress) -> None:
        """Embed shards until none is left, in this process or in others.

        Raises:
            DiskFull: no space for a shard's vectors; free some, and what is finished stays.
        """
        embedder, queries = self.load(job.spaces)
        targets = targets_of(job.spaces, queries)
        runner = ShardRunner(
            job.workspace, embedder, targets, progress.advance, self.chunk_pairs, self.max_set_aside
        )
        with full_disk_as_error(job.plan.folder), ThreadPoolExecutor(1, "read") as pool:
            _Worker(job, progress, runner, pool).run()


@dataclass
class _Worker:
    job: BackfillJob
    progress: WorkerProgress
    runner: ShardRunner
    pool: ThreadPoolExecutor
    _ahead: dict[int, "Future[EventArrays]"] = field(default_factory=dict)

    def run(self) -> None:
        shards = self.job.shards
        while True:
            number = shards.claim(prefer=next(iter(self._ahead), None))
            if number is not None:
                self._embed(number)
            self.progress.catch_up()
            counts = shards.counts()
            if counts.done == counts.shards:
                return
            if number is None:
                time.sleep(WAIT_SECONDS)  # others hold the last shards; if they die, their leases run out

    def _embed(self, number: int) -> None:
        shards, plan = self.job.shards, self.job.plan
        began, before = time.monotonic(), self.progress.embedded
        # Named after the worker: one that comes back from the dead must not write into its successor's files.
        folder = plan.folder / f"{number:05d}-{shards.owner.rsplit('/', 1)[-1]}"
        try:
            with shards.holding(number) as stop:
                shard = Shard(plan.shard(number), self._events(number), folder, stop)
                shards.finish(number, self.runner.run(shard).as_json())
        except (LeaseLost, StopShard):
            log.warning("shard_lost job=%d shard=%d", shards.id, number)
            self.progress.drop(self.progress.embedded - before)
        except BaseException:
            shards.release(number)
            raise
        finally:
            self.progress.seconds += time.monotonic() - began

    def _events(self, number: int) -> EventArrays:
        """A shard's events, read ahead where the guess was right; begins to read the next one's."""
        read = self._ahead.pop(number, None)
        self._ahead.clear()
        arrays = self._read(number) if read is None else read.result()
        following = self.job.shards.likely_next()
        if following is not None:
            self._ahead[following] = self.pool.submit(self._read, following)
        return arrays

    def _read(self, number: int) -> EventArrays:
        return load_event_arrays(self.job.plan.events[number], self.job.workspace)


def finished_shards(job: BackfillJob) -> dict[int, ShardResult]:
    """The results of the finished shards, by number."""
    results = job.shards.results().items()
    return {number: ShardResult.from_json(job.plan.folder, result) for number, result in results}


def redo_lost_shards(job: BackfillJob) -> None:
    """Put finished shards back to waiting whose files are gone from the cache."""
    lost = [number for number, result in finished_shards(job).items() if not result.folder.is_dir()]
    if lost:
        job.shards.reset(lost)
