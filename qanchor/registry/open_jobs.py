"""Jobs that can be resumed: opened once for each key, found again by it, ended for good."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.exc import IntegrityError

from qanchor.registry.leases import clock_ms, is_gone
from qanchor.registry.session import transaction
from qanchor.registry.tables import Job, JobShard, utc_now

WAITING, LEASED, DONE = "waiting", "leased", "done"
RUNNING, FAILED, INTERRUPTED, CANCELLED = "running", "failed", "interrupted", "cancelled"


def find_open_job(engine: Engine, key: str) -> Job | None:
    """The unfinished job of a key."""
    with transaction(engine) as session:
        return session.scalar(select(Job).where(Job.key == key))


def open_job(engine: Engine, kind: str, key: str, parameters: Mapping[str, Any], sizes: Sequence[int]) -> int:
    """Record a job with its shards, unless there is an unfinished one of that key.

    Args:
        engine: the registry.
        kind: the command's name.
        key: what was asked, hashed.
        parameters: what was asked; JSON values.
        sizes: of every shard, in units of work.

    Returns:
        The job's id, which may be that of another worker's job.
    """
    try:
        with transaction(engine) as session:
            row = Job(kind=kind, key=key, parameters=dict(parameters), total=sum(sizes))
            session.add(row)
            session.flush()
            shards = [
                {"job_id": row.id, "number": n, "state": WAITING, "attempts": 0, "size": size}
                for n, size in enumerate(sizes)
            ]
            if shards:
                session.execute(insert(JobShard), shards)
            return row.id
    except IntegrityError:
        with transaction(engine) as session:
            return session.execute(select(Job.id).where(Job.key == key)).scalar_one()


def is_worked_on(engine: Engine, job_id: int) -> bool:
    """Whether a worker that has not died holds a lease of the job."""
    with transaction(engine) as session:
        owners = select(JobShard.owner).where(
            JobShard.job_id == job_id, JobShard.state == LEASED, JobShard.lease_until >= clock_ms(engine)
        )
        leader = select(Job.lease_owner).where(Job.id == job_id, Job.lease_until >= clock_ms(engine))
        found = [*session.scalars(owners), *session.scalars(leader)]
        young = select(Job.id).where(
            Job.id == job_id, Job.state == RUNNING, Job.heartbeat_at > utc_now() - timedelta(seconds=5)
        )
        return any(not is_gone(owner) for owner in found) or (not found and bool(session.scalar(young)))


def close_job(engine: Engine, job_id: int, state: str) -> None:
    """End a job for good: it cannot be resumed."""
    with transaction(engine) as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(state=state, key=None, lease_owner=None, lease_until=None, finished_at=utc_now())
        )
