"""Long commands leave a row behind: what was asked, how far it is, how it ended."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, Engine, select, update
from sqlalchemy.orm import Session

from qanchor.errors import InputError, NotReady, QAnchorError
from qanchor.progress import Progress
from qanchor.registry.session import transaction
from qanchor.registry.tables import Job, JobShard, utc_now

_ERROR_LENGTH = 512
_SILENCE = timedelta(minutes=10)  # a job that says nothing for so long was killed


class RecordedJob:
    """A running job; a Progress that also writes how far it is to the registry now and then.

    Args:
        engine: of the registry.
        job_id: primary key of the job's row.
        shown: whoever watches the progress.
    """

    every_seconds = 5.0

    def __init__(self, engine: Engine, job_id: int, shown: Progress) -> None:
        self.id = job_id
        self._engine = engine
        self._shown = shown
        self._done = 0
        self._total: int | None = None
        self._wrote = time.monotonic()

    def start(self, label: str, total: int | None = None) -> None:
        """Begin a stage; its counts replace the earlier stage's."""
        self._done, self._total = 0, total
        self._shown.start(label, total)

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more; every few seconds the row is brought up to date."""
        self._done += steps
        self._shown.advance(steps, note)
        if time.monotonic() - self._wrote >= self.every_seconds:
            self._wrote = time.monotonic()
            self.write(heartbeat_at=utc_now())

    def write(self, **values: Any) -> None:
        """Write the counts and `values` to the row."""
        with transaction(self._engine) as session:
            session.execute(
                update(Job).where(Job.id == self.id).values(done=self._done, total=self._total, **values)
            )


@contextmanager
def recorded(
    engine: Engine,
    kind: str,
    shown: Progress,
    *,
    scenario: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Iterator[RecordedJob]:
    """Record the block as a job: 'running', then 'done', 'failed' with the error, or 'interrupted'.

    A job whose process was killed stays 'running' with an old heartbeat; the next job of its kind
    marks it 'interrupted'.

    Args:
        engine: of the registry.
        kind: the command's name.
        shown: whoever watches the progress.
        scenario: the one it works on, where there is one.
        parameters: what it was asked; JSON values.
    """
    with transaction(engine) as session:
        abandoned = (Job.kind == kind) & (Job.state == "running") & (Job.heartbeat_at < utc_now() - _SILENCE)
        session.execute(update(Job).where(abandoned).values(state="interrupted", finished_at=utc_now()))
        row = Job(kind=kind, scenario=scenario, parameters=dict(parameters or {}))
        session.add(row)
        session.flush()
        job = RecordedJob(engine, row.id, shown)
    try:
        yield job
    except (KeyboardInterrupt, SystemExit):
        job.write(state="interrupted", finished_at=utc_now())
        raise
    except BaseException as error:
        text = str(error) if isinstance(error, QAnchorError) else f"{type(error).__name__}: {error}"
        job.write(state="failed", error=text[:_ERROR_LENGTH], finished_at=utc_now())
        raise
    job.write(state="done", finished_at=utc_now())


def record_failure(engine: Engine, kind: str, parameters: Mapping[str, Any], error: QAnchorError) -> None:
    """Record a job that failed before it could begin."""
    now = utc_now()
    with transaction(engine) as session:
        session.add(
            Job(
                kind=kind,
                parameters=dict(parameters),
                state="failed",
                error=str(error)[:_ERROR_LENGTH],
                finished_at=now,
            )
        )


@dataclass(frozen=True)
class JobView:
    """A job as people look at it.

    Args:
        id: its number.
        kind: the command.
        state: 'running', 'done', 'failed', 'interrupted' or 'cancelled'.
        done: units of work.
        total: of these, where it is known.
        started_at: UTC.
        heartbeat_at: last sign of life, UTC.
        finished_at: UTC; None while it runs.
        error: why it failed.
        parameters: what it was asked.
        shards: it has; 0 where it is not in shards.
        shards_done: of these.
        workers: (shard, worker, attempt) of those at work.
        set_aside: users that could not be done, with the reason.
    """

    id: int
    kind: str
    state: str
    done: int
    total: int | None
    started_at: datetime
    heartbeat_at: datetime
    finished_at: datetime | None
    error: str | None
    parameters: Mapping[str, Any]
    shards: int
    shards_done: int
    workers: Sequence[tuple[int, str, int]]
    set_aside: Mapping[str, str]


def list_jobs(engine: Engine, limit: int) -> list[JobView]:
    """The newest jobs, the newest first."""
    with transaction(engine) as session:
        return [
            _view(session, row) for row in session.scalars(select(Job).order_by(Job.id.desc()).limit(limit))
        ]


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


def cancel_job(engine: Engine, job_id: int) -> JobView:
    """Stop a job in shards for good.

    Raises:
        InputError: there is no such job.
        NotReady: it has ended, or it is of a kind that only its own terminal can stop.
    """
    found = find_job(engine, job_id)
    with transaction(engine) as session:
        cancelled = session.execute(
            update(Job)
            .where(Job.id == job_id, Job.key.is_not(None))
            .values(state="cancelled", key=None, lease_owner=None, lease_until=None, finished_at=utc_now())
        )
    if not isinstance(cancelled, CursorResult) or not cancelled.rowcount:
        if found.state == "running":
            raise NotReady(
                f"a {found.kind} cannot be cancelled from outside", "Stop it where it runs (Ctrl-C)."
            )
        raise NotReady(f"job {job_id} has ended already: {found.state}", "There is nothing to cancel.")
    return find_job(engine, job_id)


def _view(session: Session, row: Job) -> JobView:
    shards = session.scalars(select(JobShard).where(JobShard.job_id == row.id)).all()
    aside: dict[str, str] = {}
    for shard in shards:
        aside |= (shard.result or {}).get("set_aside", {})
    return JobView(
        id=row.id,
        kind=row.kind,
        state=row.state,
        done=row.done,
        total=row.total,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        finished_at=row.finished_at,
        error=row.error,
        parameters=row.parameters,
        shards=len(shards),
        shards_done=sum(shard.state == "done" for shard in shards),
        workers=[(s.number, s.owner or "", s.attempts) for s in shards if s.state == "leased"],
        set_aside=aside,
    )
