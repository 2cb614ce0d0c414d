"""A long command's row says how it ended, whatever ended it."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from qanchor.errors import NotReady
from qanchor.progress import Silent
from qanchor.registry.jobs import RecordedJob, recorded
from qanchor.registry.tables import Job, utc_now


def _job(engine: Engine) -> Job:
    with Session(engine) as session:
        return session.scalars(select(Job).order_by(Job.id)).all()[-1]


def test_a_finished_job_is_done_with_its_counts(engine: Engine) -> None:
    with recorded(engine, "backfill", Silent(), parameters={"scenarios": ["money"]}) as job:
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
    with recorded(engine, "backfill", Silent()) as job:
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
    with pytest.raises(type(error)), recorded(engine, "backfill", Silent()):
        raise error
    assert (_job(engine).state, _job(engine).error) == (state, text)


def test_a_killed_job_is_marked_by_the_next_of_its_kind(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(Job(kind="backfill", heartbeat_at=utc_now() - timedelta(hours=1)))
    with recorded(engine, "backfill", Silent()):
        pass
    with Session(engine) as session:
        assert [row.state for row in session.scalars(select(Job).order_by(Job.id))] == ["interrupted", "done"]
