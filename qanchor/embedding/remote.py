"""A worker of a backfill in a process elsewhere; it shares home and registry with its driver, no more."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from qanchor.embedding.load import load_embedder
from qanchor.embedding.plan import read_plan
from qanchor.embedding.spaces import Space
from qanchor.embedding.worker import LoadEmbedder, LocalEngine, ShardTask, Tally
from qanchor.errors import NotReady
from qanchor.progress import Silent
from qanchor.registry.leases import new_owner
from qanchor.registry.session import open_engine
from qanchor.registry.shards import ShardedJob
from qanchor.settings import Settings
from qanchor.site import Site
from qanchor.threads import limit_threads


@dataclass(frozen=True)
class WorkerOrder:
    """What a worker is told; sent to its process, which has the same code.

    Args:
        settings: with absolute paths.
        job_id: of the backfill.
        folder: name of the plan's folder.
        spaces: one per scenario.
        token: names the worker, so that its shards can be freed when it dies.
        threads: native threads.
    """

    settings: Settings
    job_id: int
    folder: str
    spaces: Sequence[Space]
    token: str
    threads: int


class RemoteWorker:
    """One worker in a process elsewhere.

    Args:
        order: what it has to do.
    """

    def __init__(self, order: WorkerOrder) -> None:
        self._order = order

    def work(self) -> int:
        """Do shards until none is left to do, by this worker or by others.

        Returns:
            Requests that this worker has encoded.

        Raises:
            NotReady: this node does not see the home, or the job was cancelled.
            QAnchorError: as of a backfill in one process.
        """
        from qanchor.workspace import load_workspace

        order, settings = self._order, self._order.settings
        limit_threads(order.threads)
        home = settings.state
        plan = read_plan(home.cache / "backfill" / order.folder)
        if plan is None:
            raise NotReady(
                f"node {socket.gethostname()} does not see the backfill's plan under {home.root}",
                "Put QANCHOR_HOME on storage that every node mounts at the same path.",
            )
        workspace = load_workspace(settings.repo_path)
        engine = open_engine(settings.database_url, settings.database.busy_seconds)
        try:
            job = ShardedJob(engine, order.job_id, new_owner(order.token))
            task = ShardTask(job, plan, workspace, order.spaces)
            tally = Tally(job, Silent())
            LocalEngine(self.loader(settings)).run(task, tally)
            return tally.embedded
        finally:
            engine.dispose()

    def loader(self, settings: Settings) -> LoadEmbedder:
        """What gives the model."""
        return partial(load_embedder, Site(settings))


def order_for(settings: Settings, task: ShardTask, token: str, threads: int) -> WorkerOrder:
    """What a worker of a task is told.

    Args:
        settings: of this process; workers get the same.
        task: of this process.
        token: names the worker.
        threads: native threads of the worker.
    """
    database = settings.database.model_copy(update={"url": settings.database_url})
    # Another process may have another working directory.
    places = {"home": settings.state.root, "repo": settings.repo_path, "database": database}
    return WorkerOrder(
        settings.model_copy(update=places), task.job.id, task.plan.folder.name, task.spaces, token, threads
    )
