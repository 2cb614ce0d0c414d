"""A shard is done once, by one worker at a time, whatever happens to the others."""

import os
import socket
import threading
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from qanchor.errors import InputError, NotReady, StateError
from qanchor.registry.jobs import cancel_job, find_job, find_open_job, is_worked_on, list_jobs, open_job
from qanchor.registry.leases import is_gone
from qanchor.registry.migrate import prepare
from qanchor.registry.session import open_engine, transaction
from qanchor.registry.shards import LeaseLost, ShardedJob
from qanchor.registry.tables import Job, JobShard, utc_now

_GONE = f"{socket.gethostname()}/{2**22 + 1}/x"  # above the kernel's greatest process id


@pytest.fixture
def file_engine(tmp_path: Path) -> Engine:
    """A database that several threads can open."""
    url = f"sqlite:///{tmp_path / 'q.db'}"
    engine = open_engine(url)
    prepare(engine, url)
    return engine


def _job(engine: Engine, shards: int = 3, owner: str = "", **options: float) -> ShardedJob:
    return ShardedJob(engine, open_job(engine, "backfill", "k", {"a": 1}, [10] * shards), owner, **options)


def test_one_key_is_one_job_until_it_ends(engine: Engine) -> None:
    first = _job(engine)
    assert _job(engine).id == first.id
    first.end()
    assert find_open_job(engine, "k") is None
    assert _job(engine).id != first.id


def test_shards_are_handed_out_once_and_in_order(engine: Engine) -> None:
    one, two = _job(engine), _job(engine)
    assert [one.claim(), two.claim(), one.claim(), two.claim()] == [0, 1, 2, None]


def test_many_workers_at_once_do_every_shard_exactly_once(file_engine: Engine) -> None:
    done: Counter[int] = Counter()

    def work() -> None:
        job = _job(file_engine, 30)
        while (number := job.claim()) is not None:
            job.finish(number, {"by": job.owner})
            done[number] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == Counter(range(30))
    assert _job(file_engine, 30).counts().done == 30


def test_a_lease_that_ran_out_is_another_workers(engine: Engine) -> None:
    slow, fast = _job(engine, 1, lease_seconds=0.0), _job(engine, 1)
    assert slow.claim() == 0
    with transaction(engine) as session:
        session.execute(update(JobShard).values(lease_until=JobShard.lease_until - 5))
    assert fast.claim() == 0
    with pytest.raises(LeaseLost):
        slow.renew(0)
    with pytest.raises(LeaseLost):
        slow.finish(0, {"by": "slow"})
    fast.finish(0, {"by": "fast"})
    assert fast.results() == {0: {"by": "fast"}}


def test_a_lease_is_kept_while_the_work_goes_on(file_engine: Engine) -> None:
    worker, other = _job(file_engine, 1, lease_seconds=0.4), _job(file_engine, 1)
    assert worker.claim() == 0
    with worker.holding(0) as lost:
        assert not lost.wait(1.0)
        assert other.claim() is None
    worker.finish(0, {})


def test_losing_a_lease_is_told_to_the_work(file_engine: Engine) -> None:
    worker = _job(file_engine, 1, lease_seconds=0.2)
    worker.claim()
    with worker.holding(0) as lost:
        cancel_job(file_engine, worker.id)
        assert lost.wait(5.0)


def test_shards_of_a_process_that_is_gone_are_free_at_once(engine: Engine) -> None:
    dead = _job(engine, 2, owner=_GONE)
    dead.claim()
    assert dead.lead()
    assert not is_worked_on(engine, dead.id) or find_job(engine, dead.id).workers
    heir = _job(engine, 2)
    heir.resume()
    assert [heir.claim(), heir.claim()] == [0, 1]
    assert heir.lead()


def test_a_worker_of_another_host_is_judged_by_its_lease_alone(engine: Engine) -> None:
    far = _job(engine, 1, owner=f"elsewhere/{os.getpid()}/x")
    far.claim()
    near = _job(engine, 1)
    near.resume()
    assert near.claim() is None
    assert is_worked_on(engine, far.id)
    assert not is_gone(far.owner)


def test_one_worker_leads_to_the_end(engine: Engine) -> None:
    one, two = _job(engine), _job(engine)
    assert one.lead() and one.lead() and not two.lead()  # the sequence is the point
    one.stop(ValueError("x"))
    assert two.lead()


def test_a_job_fails_when_its_last_worker_does(engine: Engine) -> None:
    one, two = _job(engine), _job(engine)
    one.claim()
    two.claim()
    one.release(0)
    one.stop(StateError("the disk broke", "Mend it."))
    assert find_job(engine, one.id).state == "running"
    two.release(1)
    two.stop(StateError("the disk broke", "Mend it."))
    assert (find_job(engine, one.id).state, find_job(engine, one.id).error) == (
        "failed",
        "the disk broke. Mend it.",
    )
    three = _job(engine)
    three.resume()
    assert (three.id, find_job(engine, one.id).state) == (one.id, "running")


def test_a_cancelled_job_stops_its_workers_and_is_not_resumed(engine: Engine) -> None:
    job = _job(engine)
    job.claim()
    assert cancel_job(engine, job.id).state == "cancelled"
    with pytest.raises(NotReady, match="cancelled"):
        job.claim()
    with pytest.raises(NotReady, match="cancelled"):
        job.renew(0)
    assert _job(engine).id != job.id
    with pytest.raises(NotReady, match="ended already"):
        cancel_job(engine, job.id)


def test_what_cannot_be_cancelled_is_said(engine: Engine) -> None:
    with pytest.raises(InputError, match="no job 7"):
        cancel_job(engine, 7)
    with transaction(engine) as session:
        session.add(Job(kind="pretrain", parameters={}, heartbeat_at=utc_now()))
    with pytest.raises(NotReady, match="pretrain cannot be cancelled"):
        cancel_job(engine, list_jobs(engine, 1)[0].id)


def test_progress_counts_the_work_of_all(engine: Engine) -> None:
    one, two = _job(engine), _job(engine)
    for job in (one, two):
        number = job.claim()
        assert number is not None
        job.finish(number, {"set_aside": {f"u{number}": "odd"}})
    assert (one.counts().done, one.counts().size_done, one.counts().shards) == (2, 20, 3)
    assert find_job(engine, one.id).set_aside == {"u0": "odd", "u1": "odd"}
    one.reset([0])
    assert one.claim() == 0
