"""Record batches that cannot be read as they are: damaged ones, and those that grow beyond all bounds.

kafka-python says neither where such a batch begins nor where it ends, and decompresses whatever comes. Its
class of batches is extended here, once for the process.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import lz4.frame  # type: ignore[import-untyped]
import snappy  # type: ignore[import-untyped]
import zstandard
from kafka.errors import CorruptRecordError
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecordBatch

_KEPT_BYTES: Final = 1 << 20
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = 16


@dataclass(frozen=True)
class BatchBounds:
    """Which offsets a batch covers, and how it came.

    Args:
        begin: offset of its first message.
        end: offset after its last.
        timestamp_ms: of its newest message, milliseconds since the epoch.
        raw: its first MiB as it came.
        size: its bytes as it came.
    """

    begin: int
    end: int
    timestamp_ms: int
    raw: bytes
    size: int


class DamagedBatch(CorruptRecordError):  # type: ignore[misc]  # kafka-python has no types
    """A batch that is not what its producer sent, or never was one."""

    def __init__(self, problem: str, bounds: BatchBounds) -> None:
        super().__init__(problem)
        self.problem, self.bounds = problem, bounds


class OversizedBatch(DamagedBatch):
    """A batch that is larger than allowed when it is decompressed."""


class _TooLarge(Exception):
    """More bytes than allowed."""


def _gzip(data: bytes, most: int) -> bytes:
    out, rest = bytearray(), data
    while rest:  # a stream may be made of several members
        member = zlib.decompressobj(wbits=31)
        out += member.decompress(rest, most + 1 - len(out))
        if len(out) > most:
            raise _TooLarge
        if not member.eof:
            raise ValueError("the gzip stream is cut off")
        rest = member.unused_data
    return bytes(out)


def _zstd(data: bytes, most: int) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as reader:
        return _bounded(reader.read(most + 1), most)


def _lz4(data: bytes, most: int) -> bytes:
    stream = lz4.frame.LZ4FrameDecompressor()
    return _bounded(stream.decompress(data, most + 1), most)


def _snappy_blocks(data: bytes) -> Iterator[bytes]:
    if not data.startswith(_XERIAL):
        yield data
        return
    at = _XERIAL_HEADER
    while at < len(data):
        (size,) = struct.unpack_from("!i", data, at)
        if size < 0:
            raise ValueError("a snappy block of negative size")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _snappy_size(block: bytes) -> int:
    """The size of a block's content, which it begins with."""
    size = 0
    for shift, byte in enumerate(block[:5]):
        size |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            break
    return size


def _snappy(data: bytes, most: int) -> bytes:
    blocks = list(_snappy_blocks(data))
    if sum(map(_snappy_size, blocks)) > most:
        raise _TooLarge
    return b"".join(snappy.decompress(block) for block in blocks)


def _bounded(data: bytes, most: int) -> bytes:
    if len(data) > most:
        raise _TooLarge
    return data


_DECODERS: Final[dict[int, Callable[[bytes, int], bytes]]] = {
    DefaultRecordBatch.CODEC_GZIP: _gzip,
    DefaultRecordBatch.CODEC_SNAPPY: _snappy,
    DefaultRecordBatch.CODEC_LZ4: _lz4,
    DefaultRecordBatch.CODEC_ZSTD: _zstd,
}


class CheckedBatch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no types
    """A batch that says where it is when it cannot be read."""

    most_bytes = 64 << 20
    _buffer: bytearray
    _pos: int
    _decompressed: bool
    _next_record_index: int
    _num_records: int

    def __init__(self, buffer: Any) -> None:
        super().__init__(buffer)
        self._received = self._buffer

    @property
    def bounds(self) -> BatchBounds:
        """Its offsets, and its bytes as they came."""
        end = max(self.base_offset, self.last_offset) + 1
        raw = bytes(memoryview(self._received)[:_KEPT_BYTES])
        return BatchBounds(self.base_offset, end, self.max_timestamp, raw, len(self._received))

    def validate_crc(self) -> bool:
        """True.

        Raises:
            DamagedBatch: the checksum is wrong.
        """
        if not super().validate_crc():
            raise DamagedBatch("its checksum is wrong", self.bounds)
        return True

    def _maybe_uncompress(self) -> None:
        if self._decompressed:
            return
        codec = self.compression_type
        if codec != self.CODEC_NONE:
            if codec not in _DECODERS:
                raise DamagedBatch(f"its compression {codec} is unknown", self.bounds)
            data = bytes(memoryview(self._buffer)[self._pos :])
            try:
                self._buffer = bytearray(_DECODERS[codec](data, self.most_bytes))
            except _TooLarge:
                problem = f"it is larger than {self.most_bytes:,} bytes when decompressed"
                raise OversizedBatch(problem, self.bounds) from None
            except Exception as error:  # each codec has its own
                raise DamagedBatch(f"it cannot be decompressed: {error!r}", self.bounds) from error
            self._pos = 0
        self._decompressed = True

    def __iter__(self) -> Iterator[Any]:
        """Its messages; a generator, which is faster than the class's own iteration."""
        self._maybe_uncompress()
        read = super()._read_msg
        while self._next_record_index < self._num_records:
            start = self._pos
            try:
                record = read()
            except UnicodeDecodeError:
                record = self._read_lenient(start)
            except (ValueError, IndexError, CorruptRecordError) as error:
                raise DamagedBatch(f"a message of it cannot be read: {error!r}", self.bounds) from error
            self._next_record_index += 1
            yield record
        if self._pos != len(self._buffer):
            raise DamagedBatch("there are bytes after its last message", self.bounds)

    def _read_lenient(self, start: int) -> Any:
        """A message whose header names need not be UTF-8."""
        whole, self._buffer, self._pos = self._buffer, _Lenient(self._buffer), start
        try:
            return super()._read_msg()
        except (ValueError, IndexError, CorruptRecordError) as error:
            raise DamagedBatch(f"a message of it cannot be read: {error!r}", self.bounds) from error
        finally:
            self._buffer = whole


class _Text(bytearray):
    """Bytes of a header's name, which need not be UTF-8."""

    def decode(self, *_: Any) -> str:
        return bytes(self).decode("utf-8", errors="backslashreplace")


class _Lenient(bytearray):
    """A buffer whose slices decode whatever they hold."""

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        return _Text(part) if isinstance(index, slice) else part


def check_batches(most_bytes: int) -> None:
    """Make kafka-python read batches as `CheckedBatch`, in the whole process.

    Args:
        most_bytes: size of a decompressed batch at most.
    """
    CheckedBatch.most_bytes = most_bytes
    memory_records.DefaultRecordBatch = CheckedBatch
