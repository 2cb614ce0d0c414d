import asyncio

from sqlalchemy import Engine

from consumers.assignment import Assignment
from qanchor.registry.ledger import LedgerEntry, OffsetRanges, commit_entry
from tests.unit.consumers.fakes import TOPIC, FakeClient, decode, place, records


def _assigned(engine: Engine, *partitions: int) -> tuple[Assignment, FakeClient]:
    client = FakeClient(owned={place(p) for p in partitions})
    assignment = Assignment(client, engine, "g", TOPIC, decode)
    asyncio.run(assignment.on_partitions_assigned(client.owned))
    assignment.take({})
    return assignment, client


def _read_until(engine: Engine, partition: int, offset: int) -> None:
    commit_entry(engine, LedgerEntry(offsets=OffsetRanges("g", TOPIC, {partition: (0, offset)})))


def test_partitions_are_read_from_the_ledger_and_new_ones_from_the_beginning(engine: Engine) -> None:
    _read_until(engine, 1, 40)
    _, client = _assigned(engine, 0, 1)
    assert set(client.sought) == {(0, None), (1, 40)}


def test_a_range_starts_at_the_ledger_whatever_the_first_record_says(engine: Engine) -> None:
    _read_until(engine, 0, 40)
    assignment, _ = _assigned(engine, 0)
    assignment.take({place(0): records(43, 45)})
    assert assignment.detach().ranges == {0: (40, 45)}
    assignment.take({place(0): records(47, 48)})
    assert assignment.detach().ranges == {0: (45, 48)}


def test_a_revoked_partition_takes_its_buffer_with_it(engine: Engine) -> None:
    assignment, _ = _assigned(engine, 0, 1)
    assignment.take({place(0): records(0, 3), place(1): records(0, 2, 1)})
    asyncio.run(assignment.on_partitions_revoked({place(0)}))
    assert assignment.take({place(0): records(3, 5)}) == 2
    assert assignment.detach().ranges == {1: (0, 2)}


def test_records_of_the_poll_in_which_a_partition_came_back_are_dropped(engine: Engine) -> None:
    assignment, client = _assigned(engine, 0)
    asyncio.run(assignment.on_partitions_assigned({place(0)}))
    assert assignment.take({place(0): records(7, 9)}) == 0
    assert client.sought[-1] == (0, None)
    assert assignment.take({place(0): records(0, 2)}) == 2


def test_after_a_refused_write_everything_is_read_again(engine: Engine) -> None:
    assignment, client = _assigned(engine, 0)
    assignment.take({place(0): records(0, 5)})
    assignment.detach()
    _read_until(engine, 0, 9)
    assignment.take({place(0): records(5, 7)})
    assignment.seek_all()
    assert assignment.take({place(0): records(7, 8)}) == 0
    assert client.sought[-1] == (0, 9)
    assignment.take({place(0): records(9, 11)})
    assert assignment.detach().ranges == {0: (9, 11)}
