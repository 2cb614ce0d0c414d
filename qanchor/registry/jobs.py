"""Jobs: one row for each long command, with what was requested, how far it is, how it ended and what it made.

A job in shards has a key while it can be resumed: it is opened once for each key, and a later run looks it up
by the key.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import CursorResult, Engine, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from qanchor.errors import InputError, NotReady, QAnchorError
from qanchor.progress import Progress
from qanchor.registry.leases import clock_ms, is_gone, is_here, new_owner
from qanchor.registry.session import transaction
from qanchor.registry.tables import EmbeddingManifest, Job, JobShard, utc_now

WAITING, LEASED, DONE = "waiting", "leased", "done"
RUNNING, FAILED, INTERRUPTED, CANCELLED = "running", "failed", "interrupted", "cancelled"
_MADE: Final = "made"
_ERROR_LENGTH: Final = 512
_SILENCE: Final = timedelta(minutes=10)  # a job of another host without a heartbeat for so long was killed
_YOUNG: Final = timedelta(seconds=5)  # a job that was just opened has no worker yet


class RecordedJob:
    """A running job; a Progress that also writes its counts to the registry now and then."""

    every_seconds = 5.0

    def __init__(self, engine: Engine, job_id: int, display: Progress) -> None:
        self.id = job_id
        self.made: list[str] = []
        self._engine = engine
        self._display = display
        self._done = 0
        self._total: int | None = None
        self._wrote = time.monotonic()

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a stage; its counts replace the earlier stage's."""
        self._done, self._total = 0, total
        self._display.start(label, total)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more; every few seconds the row is brought up to date."""
        self._done += steps
        self._display.advance(steps, note)
        if time.monotonic() - self._wrote >= self.every_seconds:
            self._wrote = time.monotonic()
            self.write(heartbeat_at=utc_now())

    def write(self, **values: object) -> None:
        """Write the counts and other columns to the row."""
        with transaction(self._engine) as session:
            session.execute(
                update(Job).where(Job.id == self.id).values(done=self._done, total=self._total, **values)
            )


@contextmanager
def recorded_job(
    engine: Engine, kind: str, parameters: Mapping[str, object], display: Progress
) -> Iterator[RecordedJob]:
    """Record the block as a job: 'running', then 'done', 'failed' with the error, or 'interrupted'.

    The block adds to `made` what it has made. A job whose process was killed stays 'running' in its row: it
    is shown as 'interrupted', and the next job of its kind writes that down.

    Args:
        engine: registry.
        kind: name of the command.
        parameters: request; JSON values.
        display: shows the progress.
    """
    with transaction(engine) as session:
        for row in session.scalars(select(Job).where(Job.kind == kind, Job.state == RUNNING)):
            if row.key is None and _is_abandoned(row, []):
                row.state, row.finished_at = INTERRUPTED, row.heartbeat_at
        row = Job(kind=kind, parameters=dict(parameters), lease_owner=new_owner())
        session.add(row)
        session.flush()
        job = RecordedJob(engine, row.id, display)
    try:
        yield job
    except BaseException as error:
        with suppress(QAnchorError):  # of the two errors the first counts
            job.write(finished_at=utc_now(), **ending(error))
        raise
    made = {_MADE: job.made} if job.made else {}
    job.write(state=DONE, finished_at=utc_now(), parameters={**parameters, **made})


def ending(error: BaseException) -> dict[str, str | None]:
    """State and error text of a job that ended by an exception."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return {"state": INTERRUPTED, "error": None}
    text = str(error) if isinstance(error, QAnchorError) else f"{type(error).__name__}: {error}"
    return {"state": FAILED, "error": text[:_ERROR_LENGTH]}


def record_failure(engine: Engine, kind: str, parameters: Mapping[str, object], error: QAnchorError) -> None:
    """Record a job that failed before it could begin."""
    with transaction(engine) as session:
        session.add(Job(kind=kind, parameters=dict(parameters), finished_at=utc_now(), **ending(error)))


def find_open_job(engine: Engine, key: str) -> Job | None:
    """The unfinished job of a key."""
    with transaction(engine) as session:
        return session.scalar(select(Job).where(Job.key == key))


def open_job(
    engine: Engine, kind: str, key: str, parameters: Mapping[str, object], sizes: Sequence[int]
) -> int:
    """Record a job with its shards, unless there is an unfinished one of that key.

    Args:
        engine: registry.
        kind: name of the command.
        key: hash of the request.
        parameters: request; JSON values.
        sizes: size of every shard, in units of work.

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
        shards = select(JobShard.owner).where(
            JobShard.job_id == job_id, JobShard.state == LEASED, JobShard.lease_until >= clock_ms(engine)
        )
        leader = select(Job.lease_owner).where(Job.id == job_id, Job.lease_until >= clock_ms(engine))
        owners = [*session.scalars(shards), *session.scalars(leader)]
        young = select(Job.id).where(
            Job.id == job_id, Job.state == RUNNING, Job.heartbeat_at > utc_now() - _YOUNG
        )
        return any(not is_gone(owner) for owner in owners) or (not owners and bool(session.scalar(young)))


def close_job(engine: Engine, job_id: int, state: str) -> None:
    """End a job for good: it cannot be resumed."""
    with transaction(engine) as session:
        session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(state=state, key=None, lease_owner=None, lease_until=None, finished_at=utc_now())
        )


def cancel_job(engine: Engine, job_id: int) -> "JobView":
    """Stop a job in shards for good.

    Raises:
        InputError: there is no such job.
        NotReady: it has ended, or it is of a kind that only its own terminal can stop.
    """
    job = find_job(engine, job_id)
    with transaction(engine) as session:
        cancelled = session.execute(
            update(Job)
            .where(Job.id == job_id, Job.key.is_not(None))
            .values(state=CANCELLED, key=None, lease_owner=None, lease_until=None, finished_at=utc_now())
        )
    if not isinstance(cancelled, CursorResult) or not cancelled.rowcount:
        if job.state == RUNNING:
            raise NotReady(
                f"a {job.kind} cannot be cancelled from outside", "Stop it where it runs (Ctrl-C)."
            )
        raise NotReady(f"job {job_id} has ended already: {job.state}", "There is nothing to cancel.")
    return find_job(engine, job_id)


@dataclass(frozen=True)
class JobView:
    """A job as people look at it.

    Args:
        id: number of the job.
        kind: name of the command.
        state: 'running', 'done', 'failed', 'interrupted' or 'cancelled'.
        done: units of work that are done.
        total: units of work in all, where that is known.
        started_at: start, UTC.
        seconds: time from the start to the end, or to now while it runs.
        heartbeat_at: last sign of life, UTC.
        finished_at: end, UTC; None while it runs.
        error: why it failed.
        parameters: request.
        made: what it has made, such as "model 20261120T101500-3f9a2c".
        shards: number of shards; 0 where it is not in shards.
        shards_done: shards of these that are done.
        workers: (shard, worker, attempt) of those at work.
        set_aside: users that could not be embedded, with the reason.
    """

    id: int
    kind: str
    state: str
    done: int
    total: int | None
    started_at: datetime
    seconds: float
    heartbeat_at: datetime
    finished_at: datetime | None
    error: str | None
    parameters: Mapping[str, object]
    made: Sequence[str]
    shards: int
    shards_done: int
    workers: Sequence[tuple[int, str, int]]
    set_aside: Mapping[str, str]


def list_jobs(engine: Engine, limit: int) -> list[JobView]:
    """The newest jobs, the newest first."""
    with transaction(engine) as session:
        rows = session.scalars(select(Job).order_by(Job.id.desc()).limit(limit))
        return [_view(session, row) for row in rows]


def find_job(engine: Engine, job_id: int) -> JobView:
    """The job of a number.

    Raises:
        InputError: there is none.
    """
    with transaction(engine) as session:
        row = session.get(Job, job_id)
        if row is None:
            raise InputError(f"there is no job {job_id}", "`qanchor-cli jobs list` shows them.")
        return _view(session, row)


def _view(session: Session, row: Job) -> JobView:
    shards = session.scalars(select(JobShard).where(JobShard.job_id == row.id)).all()
    workers = [(s.number, s.owner or "", s.attempts) for s in shards if s.state == LEASED]
    state = INTERRUPTED if _is_abandoned(row, [owner for _, owner, _ in workers]) else row.state
    end = row.finished_at or (utc_now() if state == RUNNING else row.heartbeat_at)
    aside: dict[str, str] = {}
    for shard in shards:
        aside |= (shard.result or {}).get("set_aside", {})
    return JobView(
        id=row.id,
        kind=row.kind,
        state=state,
        done=row.done,
        total=row.total,
        started_at=row.started_at,
        seconds=(end - row.started_at).total_seconds(),
        heartbeat_at=row.heartbeat_at,
        finished_at=row.finished_at,
        error=row.error,
        parameters={name: value for name, value in row.parameters.items() if name != _MADE},
        made=row.parameters.get(_MADE) or _manifests(session, row),
        shards=len(shards),
        shards_done=sum(shard.state == DONE for shard in shards),
        workers=workers,
        set_aside=aside,
    )


def _is_abandoned(row: Job, workers: Sequence[str]) -> bool:
    """Whether a job's row says that it runs, and the processes that worked on it are gone."""
    owners = [owner for owner in (row.lease_owner, *workers) if owner]
    if row.state != RUNNING:
        return False
    if owners and all(map(is_here, owners)):
        return all(map(is_gone, owners))
    return row.key is None and row.heartbeat_at < utc_now() - _SILENCE


def _manifests(session: Session, row: Job) -> list[str]:
    query = select(EmbeddingManifest.id, EmbeddingManifest.scenario)
    made = session.execute(query.where(EmbeddingManifest.job_id == row.id).order_by(EmbeddingManifest.id))
    return [f"manifest {number} of {scenario}" for number, scenario in made]
