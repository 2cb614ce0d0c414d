"""Files of events, Parquet or CSV, read in batches of bounded size."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from qanchor import names
from qanchor.csv_files import WithoutLines, broken_lines, plain_file
from qanchor.errors import EventsInvalid

BATCH_ROWS: Final = 250_000
_REQUIRED: Final = (names.USER_ID, names.EVENT_TIME, names.MODALITY)
_REMEDY: Final = "Give a Parquet or CSV file with user_id, event_time, modality and the modality's fields."


@dataclass(frozen=True)
class TornLine:
    """A line of a CSV file that is no row.

    Args:
        detail: one sentence that says why.
        text: the line.
    """

    detail: str
    text: str


@dataclass
class EventFile:
    """A file of events, opened: its columns are checked, its rows are not.

    Args:
        path: of the file.
        is_text: whether numbers and times are text that has to be parsed (CSV).
        rows: number of rows, if the file says so.
        has_ids: whether there is a column event_id.
        torn: CSV lines that are no row, filled while `batches` is read.
    """

    path: Path
    is_text: bool
    rows: int | None
    has_ids: bool = False
    torn: list[TornLine] = field(default_factory=list)

    def batches(self) -> Iterator[Any]:
        """The rows as pyarrow tables of at most about BATCH_ROWS, in the file's order.

        Raises:
            EventsInvalid: the file is damaged.
        """
        with _readable(self.path):
            if self.is_text:
                with plain_file(self.path) as plain:
                    yield from self._csv_batches(plain)
            else:
                # An INT96 time of a far year wraps in nanoseconds, which are pyarrow's default.
                with pq.ParquetFile(self.path, coerce_int96_timestamp_unit="us") as file:
                    for batch in file.iter_batches(batch_size=BATCH_ROWS):
                        yield pa.Table.from_batches([batch])

    def _csv_batches(self, path: Path) -> Iterator[Any]:
        broken = broken_lines(path)
        for line in broken:
            self.torn.append(TornLine(f"line {line.number:,} opens a quote that nothing closes", line.text))
        columns, misread = _csv_columns(path), list[str]()
        source: Any = WithoutLines(path, broken) if broken else path
        for batch in _open_csv(source, columns, misread):
            yield pa.Table.from_batches([batch])
        while misread:
            text, misread = misread, []
            rest: list[str] = []
            for row in text:
                # A quote that another line closed by chance hides the lines between them.
                first, *others = row.splitlines()
                self.torn.append(TornLine("the line has another number of columns than the header", first))
                rest += others
            if rest:
                lines = pa.BufferReader("\n".join(["x", *rest]).encode())
                for batch in _open_csv(lines, columns, misread):
                    yield pa.Table.from_batches([batch])


def open_event_file(path: Path) -> EventFile:
    """A file of events, ready to be read.

    Raises:
        EventsInvalid: it does not exist, is empty, is neither Parquet nor CSV, or lacks a column that
            every event needs; give another file.
    """
    if not path.is_file():
        raise EventsInvalid(f"there is no file {path}", _REMEDY)
    if not path.stat().st_size:
        raise EventsInvalid(f"{path} is empty", _REMEDY)
    with _readable(path):
        if _is_parquet(path):
            with pq.ParquetFile(path) as file:
                columns, opened = file.schema_arrow.names, EventFile(path, False, file.metadata.num_rows)
        else:
            columns, opened = _csv_columns(path), EventFile(path, True, None)
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise EventsInvalid(f"{path} has no column {', '.join(missing)}", _REMEDY)
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise EventsInvalid(f"{path} has the column {repeated[0]} twice", "Rename one of them.")
    if opened.rows == 0:
        raise EventsInvalid(f"{path} holds no rows", _REMEDY)
    opened.has_ids = names.EVENT_ID in columns
    return opened


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1" or path.suffix.lower() in (".parquet", ".pq")


def _csv_columns(path: Path) -> list[str]:
    with pa.input_stream(str(path), compression="detect") as file, io.BufferedReader(file) as lines:
        first = lines.readline(1 << 20)
    header = pa.csv.read_csv(pa.BufferReader(first.rstrip(b"\r\n") + b"\n"))
    return list(header.column_names)


def _open_csv(source: Any, columns: list[str], misread: list[str]) -> Any:
    """Batches of a CSV whose first line is the header; rows of another length go to `misread`."""

    def skip(row: Any) -> str:
        misread.append(row.text or f"{row.actual_columns} columns instead of {row.expected_columns}")
        return "skip"

    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
        null_values=[""],
    )
    return pa.csv.open_csv(
        source,
        read_options=pa.csv.ReadOptions(block_size=32 << 20, column_names=columns, skip_rows=1),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
        convert_options=convert,
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EventsInvalid(f"{path} cannot be read: {reason}", _REMEDY) from error
    except PermissionError as error:
        raise EventsInvalid(f"{path} may not be read", "Give yourself the right to read it.") from error
    except OSError as error:
        # pyarrow reports a damaged Parquet page as an OSError without a number.
        if error.errno is not None:
            raise
        raise EventsInvalid(f"{path} is damaged: {' '.join(str(error).split())[:200]}", _REMEDY) from error
