"""Jobs in shards: claimed by lease, finished once, resumed by the same command.

Every step is one statement with its precondition, so that of two workers one wins. Leases run by the
database's clock. A worker that was stopped for longer than its lease finds that it has lost the shard,
and what it computed is dropped.
"""

import random
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CursorResult,
    Engine,
    Result,
    and_,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session

from qanchor.errors import NotReady, QAnchorError, StateError
from qanchor.registry.jobs import (
    CANCELLED,
    DONE,
    LEASED,
    RUNNING,
    WAITING,
    close_job,
    ending,
)
from qanchor.registry.leases import clock_ms, is_gone, new_owner
from qanchor.registry.session import transaction
from qanchor.registry.tables import Job, JobShard, utc_now

LEASE_SECONDS: Final = 60.0
_GUESSED_AMONG: Final = 64


class LeaseLost(StateError):
    """Another worker has taken over the shard; its result here must be dropped."""


@dataclass(frozen=True)
class Counts:
    """How far a job is.

    Args:
        shards: shards of the job.
        done: shards of these that are done.
        size_done: sum of the sizes of the done ones.
    """

    shards: int
    done: int
    size_done: int


class ShardedJob:
    """One worker's part in a job.

    Args:
        engine: registry.
        job_id: id from `open_job`.
        owner: name of the worker; default: a new one.
        lease_seconds: time without a sign of life after which a shard is another worker's.
    """

    def __init__(
        self, engine: Engine, job_id: int, owner: str = "", lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self.id = job_id
        self.owner = owner or new_owner()
        self._engine = engine
        self._now = clock_ms(engine)
        self._lease_ms = int(lease_seconds * 1000)

    def resume(self) -> None:
        """Take part in the job: it runs again, and shards of dead processes of this host are free at
        once."""
        with transaction(self._engine) as session:
            session.execute(
                update(Job)
                .where(Job.id == self.id, Job.key.is_not(None))
                .values(state=RUNNING, error=None, finished_at=None, heartbeat_at=utc_now())
            )
            owners = select(JobShard.owner).where(JobShard.job_id == self.id, JobShard.state == LEASED)
            leader = select(Job.lease_owner).where(Job.id == self.id)
            gone = [name for name in {*session.scalars(owners), *session.scalars(leader)} if is_gone(name)]
            session.execute(
                update(JobShard)
                .where(JobShard.job_id == self.id, JobShard.state == LEASED, JobShard.owner.in_(gone))
                .values(state=WAITING, lease_until=None)
            )
            session.execute(
                update(Job).where(Job.id == self.id, Job.lease_owner.in_(gone)).values(lease_until=None)
            )

    def claim(self, prefer: int | None = None) -> int | None:
        """Lease a shard that nobody works on.

        Args:
            prefer: number of the shard to take if it is free; otherwise the first free one.

        Returns:
            Its number; None if no shard is free.

        Raises:
            NotReady: the job was cancelled.
        """
        mine = and_(JobShard.job_id == self.id, self._is_free)
        first = select(func.min(JobShard.number)).where(mine).scalar_subquery()
        if prefer is not None:
            self._require_running()
            with transaction(self._engine) as session:
                if (claimed := self._lease(session, and_(mine, JobShard.number == prefer))) is not None:
                    return claimed
        for _ in range(100):
            self._require_running()
            with transaction(self._engine) as session:
                claimed = self._lease(session, and_(mine, JobShard.number == first))
                left = session.scalar(select(func.count()).select_from(JobShard).where(mine))
            if claimed is not None or not left:
                return claimed
        return None  # others were faster a hundred times over: try again later

    @property
    def _is_free(self) -> ColumnElement[bool]:
        ran_out = and_(JobShard.state == LEASED, JobShard.lease_until < self._now)
        return or_(JobShard.state == WAITING, ran_out)

    def _lease(self, session: Session, which: ColumnElement[bool]) -> int | None:
        taken = (
            update(JobShard)
            .where(which)
            .values(
                state=LEASED,
                owner=self.owner,
                lease_until=self._now + self._lease_ms,
                attempts=JobShard.attempts + 1,
            )
        )
        return session.execute(taken.returning(JobShard.number), execution_options=_PLAIN).scalar()

    def likely_next(self) -> int | None:
        """A free shard to prepare for, without a lease; None where none is free.

        A lone worker goes by number. Among others it takes one at random: not all should prepare the same.
        """
        free = select(JobShard.number).where(JobShard.job_id == self.id, self._is_free)
        others = select(func.count()).where(
            JobShard.job_id == self.id, JobShard.state == LEASED, JobShard.owner != self.owner
        )
        with transaction(self._engine) as session:
            numbers = list(session.scalars(free.order_by(JobShard.number).limit(_GUESSED_AMONG)))
            if not numbers or not session.scalar(others):
                return numbers[0] if numbers else None
        return random.choice(numbers)

    def disown(self, token: str) -> None:
        """Free the shards of a worker that is known to be dead, without waiting for its leases.

        Args:
            token: end of its name, as it was passed to `new_owner`.
        """
        with transaction(self._engine) as session:
            session.execute(
                update(JobShard)
                .where(JobShard.job_id == self.id, JobShard.state == LEASED, _has_token(token))
                .values(state=WAITING, lease_until=None),
                execution_options=_PLAIN,
            )

    def size_done_by(self, tokens: Collection[str]) -> int:
        """Work in the shards that some workers have finished; `tokens` are the ends of their names."""
        mine = or_(*map(_has_token, tokens))
        query = select(func.coalesce(func.sum(JobShard.size), 0)).where(
            JobShard.job_id == self.id, JobShard.state == DONE, mine
        )
        with transaction(self._engine) as session:
            return int(session.scalar(query) or 0) if tokens else 0

    def _require_running(self) -> None:
        with transaction(self._engine) as session:
            state = session.scalar(select(Job.state).where(Job.id == self.id))
        if state == CANCELLED:
            raise NotReady(f"job {self.id} was cancelled", "Start it again.")

    def renew(self, number: int | None) -> None:
        """Renew the lease of a shard, or with None that of the lead.

        Raises:
            LeaseLost: another worker has it now.
            NotReady: the job was cancelled.
        """
        self._require_running()
        until = self._now + self._lease_ms
        with transaction(self._engine) as session:
            if number is None:
                mine = update(Job).where(Job.id == self.id, Job.lease_owner == self.owner)
            else:
                mine = update(JobShard).where(self._is_mine(number))
            kept = _count(session.execute(mine.values(lease_until=until), _PLAIN))
        if not kept:
            what = "the lead" if number is None else f"shard {number}"
            raise LeaseLost(f"{what} of job {self.id} was taken over", "Another worker holds it; skip it.")

    def _is_mine(self, number: int) -> ColumnElement[bool]:
        return and_(
            JobShard.job_id == self.id,
            JobShard.number == number,
            JobShard.state == LEASED,
            JobShard.owner == self.owner,
        )

    @contextmanager
    def holding(self, number: int | None) -> Iterator[threading.Event]:
        """Keep a lease alive from a background thread while the block runs.

        Yields:
            Set once the lease is lost or the job cancelled: the block should end soon.
        """
        over, lost = threading.Event(), threading.Event()

        def keep() -> None:
            while not over.wait(self._lease_ms / 4000):
                try:
                    self.renew(number)
                except (LeaseLost, NotReady):
                    lost.set()
                    return
                except QAnchorError:
                    continue  # a database that is gone for a moment; the lease outlives some of these

        keeper = threading.Thread(target=keep, name="lease", daemon=True)
        keeper.start()
        try:
            yield lost
        finally:
            over.set()
            keeper.join()

    def finish(self, number: int, result: Mapping[str, object]) -> None:
        """Record a shard's result.

        Raises:
            LeaseLost: another worker has it now; this result must be dropped.
        """
        with transaction(self._engine) as session:
            done = session.execute(
                update(JobShard)
                .where(self._is_mine(number))
                .values(state=DONE, result=dict(result), lease_until=None, finished_at=utc_now()),
                execution_options=_PLAIN,
            )
            if not _count(done):
                raise LeaseLost(f"shard {number} of job {self.id} was taken over", "Nothing is lost.")

    def release(self, number: int) -> None:
        """Free a shard that was not finished."""
        with transaction(self._engine) as session:
            session.execute(
                update(JobShard).where(self._is_mine(number)).values(state=WAITING, lease_until=None),
                execution_options=_PLAIN,
            )

    def reset(self, numbers: Sequence[int]) -> None:
        """Put finished shards back to waiting, because their results are gone."""
        with transaction(self._engine) as session:
            session.execute(
                update(JobShard)
                .where(JobShard.job_id == self.id, JobShard.number.in_(numbers))
                .values(state=WAITING, result=None)
            )

    def counts(self) -> Counts:
        """The progress of the job."""
        done = JobShard.state == DONE
        query = select(
            func.count(),
            func.coalesce(func.sum(done.cast(BigInteger)), 0),
            func.coalesce(func.sum(JobShard.size * done.cast(BigInteger)), 0),
        ).where(JobShard.job_id == self.id)
        with transaction(self._engine) as session:
            shards, finished, size = session.execute(query).one()
        return Counts(int(shards), int(finished), int(size))

    def results(self) -> dict[int, dict[str, Any]]:
        """The result of every finished shard, by number."""
        query = select(JobShard).where(JobShard.job_id == self.id, JobShard.state == DONE)
        with transaction(self._engine) as session:
            rows = session.scalars(query.order_by(JobShard.number)).all()
        return {row.number: row.result or {} for row in rows}

    def lead(self) -> bool:
        """Become the worker that ends the job, unless another one is."""
        free = or_(Job.lease_until.is_(None), Job.lease_until < self._now, Job.lease_owner == self.owner)
        with transaction(self._engine) as session:
            led = session.execute(
                update(Job)
                .where(Job.id == self.id, Job.key.is_not(None), free)
                .values(lease_owner=self.owner, lease_until=self._now + self._lease_ms),
                execution_options=_PLAIN,
            )
            return bool(_count(led))

    def note(self, done: int) -> None:
        """Write how much work is done."""
        with transaction(self._engine) as session:
            session.execute(update(Job).where(Job.id == self.id).values(done=done, heartbeat_at=utc_now()))

    def end(self) -> None:
        """Mark the job done; another of its key is a new one."""
        close_job(self._engine, self.id, DONE)

    def stop(self, error: BaseException) -> None:
        """Leave: the job can be resumed; it is marked failed or interrupted where nobody else works on it."""
        with transaction(self._engine) as session:
            session.execute(
                update(Job)
                .where(Job.id == self.id, Job.lease_owner == self.owner)
                .values(lease_until=None, lease_owner=None)
            )
            if not _is_worked_on(session, self.id, self._now):
                session.execute(
                    update(Job)
                    .where(Job.id == self.id, Job.state == RUNNING)
                    .values(finished_at=utc_now(), **ending(error))
                )


_PLAIN: Final[Any] = {"synchronize_session": False}


def _has_token(token: str) -> ColumnElement[bool]:
    return JobShard.owner.endswith(f"/{token}", autoescape=True)


def _count(result: Result[Any]) -> int:
    return int(result.rowcount) if isinstance(result, CursorResult) else 0


def _is_worked_on(session: Session, job_id: int, now: ColumnElement[int]) -> bool:
    leased = select(func.count()).where(
        JobShard.job_id == job_id, JobShard.state == LEASED, JobShard.lease_until >= now
    )
    led = select(func.count()).where(Job.id == job_id, Job.lease_until >= now)
    return bool(session.scalar(leased) or session.scalar(led))
