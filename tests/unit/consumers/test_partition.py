from pathlib import Path
from typing import Any

import pytest
from kafka.record.memory_records import MemoryRecordsBuilder

from consumers.embedded_broker.codes import Code
from consumers.embedded_broker.partition import Partition


def _batch(values: list[bytes], producer: int = -1, sequence: int = -1, transactional: bool = False) -> bytes:
    given: dict[str, Any] = {"magic": 2, "compression_type": 0, "batch_size": 1 << 16}
    if producer >= 0:
        given.update(producer_id=producer, producer_epoch=0, base_sequence=sequence)
    builder = MemoryRecordsBuilder(transactional=transactional, **given)
    for value in values:
        builder.append(timestamp=1_000, key=None, value=value, headers=[])
    builder.close()
    return bytes(builder.buffer())


@pytest.fixture
def partition(tmp_path: Path) -> Any:
    opened = Partition(tmp_path / "t-0.log")
    yield opened
    opened.close()


def test_offsets_count_records_not_batches(partition: Partition) -> None:
    assert partition.append(_batch([b"a", b"b"])) == (Code.NONE, 0)
    assert partition.append(_batch([b"c"])) == (Code.NONE, 2)
    assert (partition.next, partition.stable) == (3, 3)


def test_a_damaged_batch_is_refused(partition: Partition) -> None:
    raw = bytearray(_batch([b"abc"]))
    raw[-2] ^= 1
    assert partition.append(bytes(raw)) == (Code.CORRUPT_MESSAGE, -1)
    assert partition.next == 0


def test_a_batch_sent_again_is_acknowledged_with_its_old_offset(partition: Partition) -> None:
    first = _batch([b"a"], producer=7, sequence=0)
    assert partition.append(first) == (Code.NONE, 0)
    assert partition.append(_batch([b"b"], producer=7, sequence=1)) == (Code.NONE, 1)
    assert partition.append(first) == (Code.NONE, 0)
    assert partition.append(_batch([b"d"], producer=7, sequence=5)) == (Code.OUT_OF_ORDER_SEQUENCE, -1)
    assert partition.next == 2


def test_a_torn_tail_is_cut_off_and_the_rest_kept(tmp_path: Path, partition: Partition) -> None:
    partition.append(_batch([b"a"], producer=7, sequence=0))
    size = partition.path.stat().st_size
    copy = tmp_path / "copy-0.log"
    copy.write_bytes(partition.path.read_bytes() + _batch([b"torn"])[:-3])
    again = Partition(copy)
    assert (again.next, copy.stat().st_size) == (1, size)
    assert again.append(_batch([b"a"], producer=7, sequence=0)) == (Code.NONE, 0)
    again.close()


def test_an_open_transaction_holds_the_stable_offset_back_until_it_ends(partition: Partition) -> None:
    partition.append(_batch([b"a"]))
    partition.append(_batch([b"b"], producer=7, sequence=0, transactional=True))
    assert (partition.stable, partition.next) == (1, 2)
    partition.end_transaction(7, 0, commit=False)
    assert (partition.stable, partition.next) == (3, 3)
    assert [(a.producer, a.first) for a in partition.aborted] == [(7, 1)]


def test_reading_returns_whole_batches_within_the_limit(partition: Partition) -> None:
    batches = [_batch([b"x" * 50]) for _ in range(3)]
    for raw in batches:
        partition.append(raw)
    assert len(partition.read(0, 1, partition.next)) == len(batches[0])
    assert len(partition.read(1, 1 << 20, partition.next)) == 2 * len(batches[0])
    assert partition.read(3, 1 << 20, partition.next) == b""
