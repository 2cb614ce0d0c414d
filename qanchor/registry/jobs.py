"""Long commands leave a row behind: what was asked, how far it is, how it ended."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, update

from qanchor.errors import QAnchorError
from qanchor.progress import Progress
from qanchor.registry.session import transaction
from qanchor.registry.tables import Job, utc_now

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
