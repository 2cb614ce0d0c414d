"""A long command's row says how it ended, whatever ended it."""

import os
import socket
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from qanchor.errors import DatabaseUnavailable, NotReady
from qanchor.progress import Silent
from qanchor.registry.jobs import RecordedJob, list_jobs, recorded_job
from qanchor.registry.tables import Job, utc_now


def _job(engine: Engine) -> Job:
    with Session(engine) as session:
        return session.scalars(select(Job).order_by(Job.id)).all()[-1]


def test_a_finished_job_is_done_with_its_counts(engine: Engine) -> None:
    with recorded_job(engine, "tune", {"scenarios": ["money"]}, Silent()) as job:
        job.start("embedding", 3)
        job.advance(2)
        job.advance()
    row = _job(engine)
    assert (row.state, row.done, row.total, row.parameters) == ("done", 3, 3, {"scenarios": ["money"]})
    assert row.finished_at is not None


def test_progress_reaches_the_registry_while_the_job_runs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordedJob, "every_seconds", 0.0)
    with recorded_job(engine, "tune", {}, Silent()) as job:
        job.start("embedding", 10)
        job.advance(4)
        row = _job(engine)
        assert (row.state, row.done, row.total) == ("running", 4, 10)


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (NotReady("no model yet", "Run pretrain."), "failed", "no model yet. Run pretrain."),
        (ValueError("x" * 900), "failed", "ValueError: " + "x" * 500),
        (KeyboardInterrupt(), "interrupted", None),
    ],
    ids=["ours", "long", "interrupt"],
)
def test_a_job_that_breaks_off_says_why_and_the_error_goes_on(
    engine: Engine, error: BaseException, state: str, text: str | None
) -> None:
    with pytest.raises(type(error)), recorded_job(engine, "tune", {}, Silent()):
        raise error
    assert (_job(engine).state, _job(engine).error) == (state, text)


def test_a_job_names_what_it_has_made(engine: Engine) -> None:
    with recorded_job(engine, "tune", {"scenarios": ["money"]}, Silent()) as job:
        job.made.append("prompt p1 of money")
    (view,) = list_jobs(engine, 5)
    assert (view.kind, view.state, view.parameters) == ("tune", "done", {"scenarios": ["money"]})
    assert view.made == ["prompt p1 of money"]
    assert 0 <= view.seconds < 60


def test_a_job_that_fails_keeps_what_it_was_asked_for(engine: Engine) -> None:
    with pytest.raises(ValueError), recorded_job(engine, "tune", {"seed": 3}, Silent()) as job:
        job.made.append("nothing yet")
        raise ValueError
    (view,) = list_jobs(engine, 5)
    assert (view.state, view.parameters, list(view.made)) == ("failed", {"seed": 3}, [])


def test_a_job_whose_process_is_gone_is_shown_as_interrupted_at_once(engine: Engine) -> None:
    gone, here = f"{socket.gethostname()}/{2**22 + 1}/x", f"{socket.gethostname()}/{os.getpid()}/x"
    with Session(engine) as session, session.begin():
        session.add_all([Job(kind="tune", lease_owner=owner) for owner in (gone, here, "elsewhere/1/x")])
    assert [view.state for view in list_jobs(engine, 5)] == ["running", "running", "interrupted"]


def test_a_long_silence_means_interrupted_on_another_host_alone(engine: Engine) -> None:
    here, before = f"{socket.gethostname()}/{os.getpid()}/x", utc_now() - timedelta(hours=1)
    with Session(engine) as session, session.begin():
        session.add_all(
            [Job(kind="tune", lease_owner=owner, heartbeat_at=before) for owner in (here, "elsewhere/1/x")]
        )
    assert [view.state for view in list_jobs(engine, 5)] == ["interrupted", "running"]


def test_the_error_that_ended_a_job_is_not_hidden_by_a_database_that_is_gone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("the registry database failed", "Start it.")

    monkeypatch.setattr(RecordedJob, "write", gone)
    with pytest.raises(ValueError, match="first"), recorded_job(engine, "tune", {}, Silent()):
        raise ValueError("first")


def test_a_killed_job_is_marked_by_the_next_of_its_kind(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Job(kind="tune", heartbeat_at=utc_now() - timedelta(hours=1)))
    with recorded_job(engine, "tune", {}, Silent()):
        pass
    with Session(engine) as session:
        assert [row.state for row in session.scalars(select(Job).order_by(Job.id))] == ["interrupted", "done"]
