"""One partition: record batches in one append-only file, an index of them in memory."""

import bisect
import os
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from kafka.record.util import calc_crc32c, encode_varint

from consumers.embedded_broker.codes import Code

MAX_MESSAGE_BYTES: Final = 1_048_588  # Kafka's default

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")  # record batch v2, 61 bytes
_CRC_START: Final = 21
_CONTROL, _TRANSACTIONAL = 0x20, 0x10
_ABORT_BYTE_FROM_END: Final = 9  # low byte of a control record's type


class _Header(NamedTuple):
    base: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_delta: int
    first_time: int
    last_time: int
    producer: int
    epoch: int
    sequence: int
    records: int

    @property
    def bytes(self) -> int:
        return 12 + self.length


class _Batch(NamedTuple):
    base: int
    last: int
    last_time: int
    position: int
    size: int


class Aborted(NamedTuple):
    """An aborted transaction, which readers of committed data skip."""

    producer: int
    first: int
    marker: int


@dataclass
class _Producer:
    epoch: int
    recent: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=5))


def _headers(data: bytes) -> Iterator[tuple[int, _Header]]:
    """Position and header of each whole, intact batch; ends at the first that is not."""
    position = 0
    while position + _HEADER.size <= len(data):
        header = _Header(*_HEADER.unpack_from(data, position))
        end = position + header.bytes
        if end > len(data) or calc_crc32c(data[position + _CRC_START : end]) != header.crc:
            return
        yield position, header
        position = end


class Partition:
    """The log of one partition.

    Args:
        path: its file; what a killed process left is read, a torn tail is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start = self.next = 0
        self.aborted: list[Aborted] = []
        self._batches: list[_Batch] = []
        self._bases: list[int] = []
        self._producers: dict[int, _Producer] = {}
        self._open: dict[int, int] = {}  # producer -> first offset of its open transaction
        self._size = 0
        self._recover()
        self._file = path.open("ab", buffering=0)
        self._reader = os.open(path, os.O_RDONLY)

    def _recover(self) -> None:
        data = self.path.read_bytes() if self.path.exists() else b""
        for position, header in _headers(data):
            self._index(data[position : position + header.bytes], header)
        if self._size < len(data):
            os.truncate(self.path, self._size)

    def _index(self, raw: bytes, header: _Header) -> None:
        last = header.base + header.last_delta
        self._batches.append(_Batch(header.base, last, header.last_time, self._size, len(raw)))
        self._bases.append(header.base)
        self.next = last + 1
        self._size += len(raw)
        if header.attributes & _CONTROL:
            first = self._open.pop(header.producer, None)
            if first is not None and raw[-_ABORT_BYTE_FROM_END] == 0:
                self.aborted.append(Aborted(header.producer, first, header.base))
        elif header.producer >= 0:
            self._note_producer(header)

    def _note_producer(self, header: _Header) -> None:
        state = self._producers.setdefault(header.producer, _Producer(header.epoch))
        if state.epoch != header.epoch:
            state.epoch = header.epoch
            state.recent.clear()
        state.recent.append((header.sequence, header.sequence + header.last_delta, header.base))
        if header.attributes & _TRANSACTIONAL:
            self._open.setdefault(header.producer, header.base)

    def append(self, raw: bytes) -> tuple[Code, int]:
        """Append record batches.

        Returns:
            Error code and the offset of the first record, -1 on error. A batch that an idempotent
            producer sends again is acknowledged with its old offset.
        """
        first = -1
        position = 0
        while position < len(raw):
            header = _Header(*_HEADER.unpack_from(raw, position))
            batch = raw[position : position + header.bytes]
            code, known = self._check(batch, header)
            if code or known >= 0:
                return code, known
            offset = self._write(batch, header)
            first = offset if first < 0 else first
            position += header.bytes
        return Code.NONE, first

    def _check(self, batch: bytes, header: _Header) -> tuple[Code, int]:
        if header.magic != 2:
            return Code.UNSUPPORTED_FORMAT, -1
        if header.bytes > MAX_MESSAGE_BYTES:
            return Code.MESSAGE_TOO_LARGE, -1
        if len(batch) < header.bytes or calc_crc32c(batch[_CRC_START:]) != header.crc:
            return Code.CORRUPT_MESSAGE, -1
        return self._check_sequence(header) if header.producer >= 0 else (Code.NONE, -1)

    def _check_sequence(self, header: _Header) -> tuple[Code, int]:
        state = self._producers.get(header.producer)
        if state is None:
            return (Code.OUT_OF_ORDER_SEQUENCE if header.sequence else Code.NONE), -1
        if header.epoch < state.epoch:
            return Code.INVALID_PRODUCER_EPOCH, -1
        if header.epoch > state.epoch or not state.recent:
            return Code.NONE, -1
        for first, last, offset in state.recent:
            if first == header.sequence and last == header.sequence + header.last_delta:
                return Code.NONE, offset
        expected = (state.recent[-1][1] + 1) & 0x7FFFFFFF
        return (Code.NONE if header.sequence == expected else Code.OUT_OF_ORDER_SEQUENCE), -1

    def _write(self, batch: bytes, header: _Header) -> int:
        placed = bytearray(batch)
        struct.pack_into(">q", placed, 0, self.next)  # the checksum does not cover the offset
        struct.pack_into(">i", placed, 12, 0)
        header = header._replace(base=self.next)
        self._file.write(placed)
        self._index(bytes(placed), header)
        return header.base

    def end_transaction(self, producer: int, epoch: int, commit: bool) -> None:
        """Write the marker that ends a producer's open transaction here; without one do nothing."""
        if producer in self._open:
            raw = _control_batch(producer, epoch, commit)
            self._write(raw, _Header(*_HEADER.unpack_from(raw)))

    def abort_open(self) -> None:
        """Abort what was open when the broker was killed: nobody remembers those transactions."""
        for producer in list(self._open):
            self.end_transaction(producer, self._producers[producer].epoch, commit=False)

    @property
    def stable(self) -> int:
        """The last stable offset: readers of committed data stop here."""
        return min(self._open.values(), default=self.next)

    def read(self, offset: int, max_bytes: int, end: int) -> bytes:
        """Whole batches from the one that holds `offset`, before `end`; at least one if there is one."""
        index = max(bisect.bisect_right(self._bases, offset) - 1, 0)
        if index < len(self._batches) and self._batches[index].last < offset:
            index += 1
        size = 0
        first = index
        while index < len(self._batches) and self._batches[index].base < end:
            if size and size + self._batches[index].size > max_bytes:
                break
            size += self._batches[index].size
            index += 1
        return os.pread(self._reader, size, self._batches[first].position) if size else b""

    def offset_at(self, time_ms: int) -> tuple[int, int]:
        """Offset and time of the first batch that reaches `time_ms`; (-1, -1) if none does."""
        batches = (b for b in self._batches if b.last_time >= time_ms and b.base >= self.start)
        batch = next(batches, None)
        return (batch.base, batch.last_time) if batch else (-1, -1)

    def delete_before(self, offset: int) -> None:
        """Forget records before `offset`, as retention would; for tests, until the next restart."""
        self.start = max(self.start, min(offset, self.next))

    def close(self) -> None:
        """Force the file to the disk and close it."""
        os.fsync(self._file.fileno())
        self._file.close()
        os.close(self._reader)


def _control_batch(producer: int, epoch: int, commit: bool) -> bytes:
    body = bytearray([0])
    for number in (0, 0, 4):  # time delta, offset delta, length of the key
        encode_varint(number, body.append)
    body += struct.pack(">hh", 0, int(commit))
    encode_varint(6, body.append)
    body += struct.pack(">hi", 0, 0)
    encode_varint(0, body.append)
    record = bytearray()
    encode_varint(len(body), record.append)
    record += body
    now = int(time.time() * 1000)
    attributes = _CONTROL | _TRANSACTIONAL
    tail = struct.pack(">hiqqqhii", attributes, 0, now, now, producer, epoch, -1, 1) + bytes(record)
    return struct.pack(">qiibI", 0, 9 + len(tail), 0, 2, calc_crc32c(tail)) + tail
