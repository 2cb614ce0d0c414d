"""Lists of users as input, tables of results as output."""

import json
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from qanchor.csv_files import read_csv
from qanchor.errors import InputError, UserListInvalid
from qanchor.files import atomic_file
from qanchor.names import USER_ID

_RESULT_ENDINGS: Final = (".csv", ".json", ".jsonl", ".parquet")
_LIST_SEPARATOR: Final = ";"
_LIST_REMEDY: Final = (
    f"Give a text file with one {USER_ID} a line, or CSV or Parquet with a column {USER_ID}."
)


def read_user_list(path: Path, what: str = "user") -> list[str]:
    """The user ids of a file, in its order, repetitions included.

    A byte-order mark, blank lines, spaces around an id and a header line `user_id` are no users. A file whose
    first line names the column `user_id` among others is read as CSV, whatever its ending is.

    Args:
        path: .parquet or .csv (also .csv.gz) with a column user_id; any other ending: one user a line.
        what: what the file lists, for messages, such as "seed".

    Raises:
        UserListInvalid: the file cannot be read, has no column user_id or names no user.
    """
    try:
        ids = _read_ids(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserListInvalid(f"{what} file {path} cannot be read: {reason}", _LIST_REMEDY) from error
    except KeyError:
        raise UserListInvalid(f"{what} file {path} has no column {USER_ID}", _LIST_REMEDY) from None
    users = [user.strip() for user in ids if user is not None and user.strip()]
    if not users:
        raise UserListInvalid(f"{what} file {path} names no user", _LIST_REMEDY)
    return users


def _read_ids(path: Path) -> list[str | None]:
    endings = [suffix.lower() for suffix in path.suffixes]
    if endings[-1:] == [".parquet"]:
        table = pq.read_table(path, columns=[USER_ID] if USER_ID in pq.read_schema(path).names else [])
    elif ".csv" in endings[-2:]:
        table = read_csv(path, [USER_ID], keep_empty=True)
    else:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        header = [cell.strip().strip('"') for cell in lines[0].split(",")] if lines else []
        if USER_ID not in header:
            return list(lines)
        if len(header) == 1:
            return list(lines[1:])
        table = read_csv(path, [USER_ID], keep_empty=True)
    ids: list[str | None] = table[USER_ID].cast(pa.string()).to_pylist()
    return ids


def check_result_file(path: Path) -> None:
    """Refuse a result file that could not be written, before anything is computed for it.

    Raises:
        InputError: the ending is not known, or the folder does not exist.
    """
    _check_ending(path)
    if not path.parent.is_dir():
        raise InputError(f"folder {path.parent} does not exist", "Create it first.")


def write_result(table: pa.Table, path: Path) -> None:
    """Write a table as CSV, JSON, JSON lines or Parquet, by the file's ending; whole or not at all.

    In CSV a list is one cell, its entries separated by semicolons. In JSON a time is ISO 8601.

    Args:
        table: the rows.
        path: the file; its folder is created.

    Raises:
        InputError: the ending is none of .csv, .json, .jsonl and .parquet.
        DiskFull: no space is left.
    """
    _check_ending(path)
    with atomic_file(path) as staged:
        if path.suffix == ".parquet":
            pq.write_table(table, staged)
        elif path.suffix == ".csv":
            pa_csv.write_csv(_lists_joined(table), staged)
        else:
            _write_json(table, staged, lines=path.suffix == ".jsonl")


def _check_ending(path: Path) -> None:
    if path.suffix not in _RESULT_ENDINGS:
        raise InputError(f"{path} ends in none of {', '.join(_RESULT_ENDINGS)}", "Rename the output file.")


def _lists_joined(table: pa.Table) -> pa.Table:
    for position, column in enumerate(table.schema):
        if pa.types.is_list(column.type):
            joined = pc.binary_join(table[column.name], _LIST_SEPARATOR)
            table = table.set_column(position, column.name, joined)
    return table


def _write_json(table: pa.Table, path: Path, lines: bool) -> None:
    rows = [json.dumps(row, default=lambda value: value.isoformat()) for row in table.to_pylist()]
    path.write_text("\n".join(rows) + "\n" if lines else "[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")
