"""A worker of a backfill in a process elsewhere; it shares home and registry with its driver, no more."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from qanchor.embedding.job import BackfillJob
from qanchor.embedding.plan import plans_folder, read_plan
from qanchor.embedding.spaces import Space, load_embedder
from qanchor.embedding.worker import LoadEmbedder, LocalEngine, WorkerProgress
from qanchor.errors import NotReady
from qanchor.progress import Silent
from qanchor.registry.leases import new_owner
from qanchor.registry.shards import ShardedJob
from qanchor.settings import Settings
from qanchor.site import Site
from qanchor.threads import limit_threads


@dataclass(frozen=True)
class WorkerOrder:
    """What a worker has to do; sent to its process, which has the same code.

    Args:
        settings: settings with absolute paths.
        job_id: id of the backfill.
        folder: name of the plan's folder.
        spaces: one per scenario.
        token: name of the worker, so that its shards can be freed when it dies.
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
        """Embed shards until none is left.

        Returns:
            Pairs that this worker has embedded.

        Raises:
            NotReady: this node does not see the home, or the job was cancelled.
            QAnchorError: as of a backfill in one process.
        """
        order = self._order
        limit_threads(order.threads)
        with Site(order.settings) as site:
            plan = read_plan(plans_folder(site.home) / order.folder)
            if plan is None:
                raise NotReady(
                    f"node {socket.gethostname()} does not see the backfill's plan under {site.home.root}",
                    "Put QANCHOR_HOME on storage that every node mounts at the same path.",
                )
            shards = ShardedJob(site.engine, order.job_id, new_owner(order.token))
            progress = WorkerProgress(shards, Silent())
            job = BackfillJob(shards, plan, order.spaces, site.workspace)
            LocalEngine(self.loader(site)).run(job, progress)
            return progress.embedded

    def loader(self, site: Site) -> LoadEmbedder:
        """Loads the model."""
        return partial(load_embedder, site)


def order_for(settings: Settings, job: BackfillJob, token: str, threads: int) -> WorkerOrder:
    """The order for one worker of a job.

    Args:
        settings: settings of this process; workers get the same.
        job: the job.
        token: name of the worker.
        threads: native threads of the worker.
    """
    database = settings.database.model_copy(update={"url": settings.database_url})
    # Another process may have another working directory.
    absolute = {"home": settings.state.root, "repo": settings.repo_path, "database": database}
    return WorkerOrder(
        settings.model_copy(update=absolute),
        job.shards.id,
        job.plan.folder.name,
        job.spaces,
        token,
        threads,
    )
