"""CSV files as people have them: compressed, with a column twice, with a quote that is never closed.

What follows an open quote would be read as one value, so the line that opens it is found first.
"""

import io
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from qanchor.errors import InputError

_QUOTE: Final = ord('"')
_COMPRESSED: Final = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_LINE_END: Final = ord("\n")
_BLOCK: Final = 1 << 17  # bytes that are searched at once for a line end
_BEFORE_VALUE: Final = np.frombuffer(b',\n\r"\xbf', np.uint8)  # 0xbf ends a byte-order mark
_AFTER_VALUE: Final = np.frombuffer(b',\n\r"', np.uint8)

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class BrokenLine:
    """A line whose quote is not closed before the file ends, or before another value opens one.

    Args:
        number: of the line in the file, from 1.
        start: its first byte.
        end: the first byte after it.
        text: the first 500 bytes of it.
    """

    number: int
    start: int
    end: int
    text: str


def broken_lines(path: Path, block: int = 1 << 17) -> list[BrokenLine]:
    """The lines of a CSV file that have to be left out so that the others can be read.

    A value in quotes may hold line ends and doubled quotes. A quote within a value without quotes is a
    character, and text after a closing quote of the same line is tolerated: pyarrow reads both.

    Args:
        path: CSV with commas.
        block: bytes looked at together.
    """
    if not path.stat().st_size:
        return []
    content: Bytes = np.memmap(path, np.uint8, "r").view(np.ndarray)
    lines, counted, number = [], 0, 1
    for start, end in _broken_ranges(content, block):
        while counted < start:
            stop = min(start, counted + _BLOCK)
            number += int(np.count_nonzero(content[counted:stop] == _LINE_END))
            counted = stop
        text = content[start : min(end, start + 500)].tobytes().decode("utf-8", "replace")
        lines.append(BrokenLine(number, start, end, text.rstrip("\r\n")))
    return lines


def read_csv(path: Path, text: Sequence[str] = (), keep_empty: bool = False) -> pa.Table:
    """A table that people wrote as CSV, plain or compressed; every line of it is a row.

    Args:
        path: .csv, or a compressed one such as .csv.gz.
        text: columns that stay the text that they are: 7 and 007 are different ids.
        keep_empty: an empty cell of text is empty text, not null.

    Raises:
        InputError: a line opens a quote that nothing closes, or a column is there twice.
        OSError: the file cannot be read.
        pyarrow.ArrowException: it is no CSV.
    """
    with plain_file(path) as plain:
        broken = broken_lines(plain)
        if broken:
            others = f" (and {len(broken) - 1:,} more lines)" if len(broken) > 1 else ""
            raise InputError(
                f"{path.name}, line {broken[0].number:,}: a quote is opened that nothing closes{others}",
                "Close it, or leave the line out.",
            )
        convert = pacsv.ConvertOptions(
            column_types=dict.fromkeys(text, pa.string()), strings_can_be_null=not keep_empty
        )
        table = pacsv.read_csv(plain, convert_options=convert)
    refuse_repeated_columns(table.column_names, path)
    return table


def refuse_repeated_columns(columns: Sequence[str], path: Path) -> None:
    """Refuse a header that names a column twice.

    Raises:
        InputError: the message names the column.
    """
    repeated = [name for name, times in Counter(columns).items() if times > 1]
    if repeated:
        raise InputError(f"{path.name} has the column {repeated[0]!r} twice", "Rename or drop one of them.")


@contextmanager
def plain_file(path: Path) -> Iterator[Path]:
    """The file, or while the context lasts an uncompressed copy of a compressed one.

    Args:
        path: the endings .gz, .bz2, .zst and .lz4 mean compression.

    Raises:
        OSError: it is damaged, or there is no space for the copy.
    """
    if path.suffix.lower() not in _COMPRESSED:
        yield path
        return
    with NamedTemporaryFile(suffix=".csv") as copy:
        with pa.input_stream(str(path), compression=_COMPRESSED[path.suffix.lower()]) as stream:
            shutil.copyfileobj(stream, copy)
        copy.flush()
        yield Path(copy.name)


def _broken_ranges(content: Bytes, block: int) -> Iterator[tuple[int, int]]:
    """First byte, and first byte after it, of each broken line."""
    at, opened = 0, -1  # the next byte to look at; the quote that is open, or -1
    while at < len(content):
        stop = min(len(content), at + block)
        quotes = np.flatnonzero(content[at:stop] == _QUOTE) + at
        if _are_regular(content, quotes, opened >= 0):
            at, broken = stop, False
            if len(quotes):
                opened = int(quotes[-1]) if (len(quotes) + (opened >= 0)) % 2 else -1
        else:
            at, opened, broken = _one_by_one(content, quotes, stop, opened)
        if broken or (at >= len(content) and opened >= 0):
            start, at = _line_around(content, opened)
            yield start, at
            opened = -1


def _are_regular(content: Bytes, quotes: NDArray[np.int64], is_open: bool) -> bool:
    """Whether every second quote starts a value and the others end one; most blocks of most files are so."""
    opens = (np.arange(len(quotes)) + is_open) % 2 == 0
    before, after = quotes[opens] - 1, quotes[~opens] + 1
    starts = np.isin(content[before[before >= 0]], _BEFORE_VALUE)
    ends = np.isin(content[after[after < len(content)]], _AFTER_VALUE)
    return bool(starts.all() and ends.all())


def _one_by_one(content: Bytes, quotes: NDArray[np.int64], stop: int, opened: int) -> tuple[int, int, bool]:
    """Follow a block's quotes in order: next byte to look at, the open quote, whether its line is broken."""
    at, before, after = 0, set(_BEFORE_VALUE.tolist()), set(_AFTER_VALUE.tolist())
    for quote in quotes.tolist():
        if quote < at:
            continue  # the second of a doubled quote
        following = int(content[quote + 1]) if quote + 1 < len(content) else _LINE_END
        if opened < 0:
            if quote == 0 or int(content[quote - 1]) in before:
                opened = quote
        elif following == _QUOTE:
            at = quote + 2
        elif following not in after and bool((content[opened:quote] == _LINE_END).any()):
            return quote, opened, True
        else:
            opened = -1
    return max(at, stop), opened, False


def _line_around(content: Bytes, position: int) -> tuple[int, int]:
    start, end = position, position
    while start > 0 and content[start - 1] != _LINE_END:
        start -= 1
    while end < len(content):
        ends = np.flatnonzero(content[end : end + _BLOCK] == _LINE_END)
        if len(ends):
            return start, end + int(ends[0]) + 1
        end += _BLOCK
    return start, len(content)


class WithoutLines(io.RawIOBase):
    """A file without some of its lines, for reading in order.

    Args:
        path: the file.
        lines: what to leave out, in the file's order.
    """

    def __init__(self, path: Path, lines: Sequence[BrokenLine]) -> None:
        self._file = path.open("rb")
        self._lines = list(lines)

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer with the next bytes that are kept; returns their number, 0 at the end."""
        at = self._file.tell()
        while self._lines and self._lines[0].start <= at:
            at = self._file.seek(self._lines.pop(0).end)
        most = min(len(buffer), self._lines[0].start - at) if self._lines else len(buffer)
        content = self._file.read(most)
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
