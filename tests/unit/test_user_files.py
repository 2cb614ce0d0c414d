"""Files of users in, tables of results out: what is read, what is refused, and that a file is whole."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from qanchor.errors import InputError, UserListInvalid
from qanchor.user_files import check_result_file, read_user_list, write_result

RESULT = pa.table(
    {
        "user_id": ["a", "b"],
        "score": [0.25, 0.5],
        "nearest_seeds": [["x", "y"], ["y"]],
        "distance": [0.1, 0.2],
    }
)


def parquet(columns: dict[str, list[object]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.txt", b"007\n\n b \n007\n"),
        # Once scored as a user of that name.
        ("headed.txt", b"user_id\n007\nb\n007\n"),
        ("quoted.txt", b'"user_id"\n007\nb\n007\n'),
        ("spaced.txt", b"  user_id  \r\n007\r\nb\r\n007\r\n"),
        ("marked.txt", b"\xef\xbb\xbf007\nb\n007\n"),
        ("marked_header.txt", b"\xef\xbb\xbfuser_id\n007\nb\n007\n"),
        ("really_csv.txt", b"age,user_id\n1,007\n2,b\n3,007\n"),
        ("no_ending", b"007\nb\n007"),
        ("users.csv", b"note,user_id\nx,007\ny,b\nz,007\n"),
        ("only.csv", b"user_id\n007\nb\n007\n"),
        ("empty_cells.csv", b"note,user_id\nx,007\ny,\ny, b\nz,007\n"),
        ("marked.csv", b"\xef\xbb\xbfuser_id,age\n007,1\nb,2\n007,3\n"),
        ("LOUD.CSV", b"user_id,age\n007,1\nb,2\n007,3\n"),
        ("packed.csv.gz", gzip.compress(b"user_id,age\n007,1\nb,2\n007,3\n", mtime=0)),
        ("users.parquet", parquet({"note": ["x", "y", "z"], "user_id": ["007", "b", "007"]})),
        ("nulls.parquet", parquet({"user_id": ["007", None, "b", " ", "007"]})),
    ],
)
def test_users_are_read_in_order_with_their_zeros_and_repetitions(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_user_list(tmp_path / name) == ["007", "b", "007"]


def test_whole_numbers_in_parquet_are_users(tmp_path: Path) -> None:
    (tmp_path / "users.parquet").write_bytes(parquet({"user_id": [7, 8]}))
    assert read_user_list(tmp_path / "users.parquet") == ["7", "8"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "names no user"),
        ("a.txt", b"user_id\n", "names no user"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read"),
        ("a.csv", b"id\n1\n", "has no column user_id"),
        ("a.csv", b"", "cannot be read"),
        ("a.parquet", b"no parquet", "cannot be read"),
        ("a.parquet", parquet({"name": ["x"]}), "has no column user_id"),
        ("absent.txt", None, "cannot be read"),
        ("absent.csv", None, "cannot be read"),
        ("absent.parquet", None, "cannot be read"),
    ],
)
def test_a_file_without_users_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserListInvalid, match=f"seed file .*{name} {message}"):
        read_user_list(path, "seed")


@pytest.mark.parametrize("kind", ["csv", "parquet", "json", "jsonl"])
def test_a_result_is_written_whole_by_its_ending(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "deep" / f"result.{kind}"
    write_result(RESULT, path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    if kind == "parquet":
        assert pq.read_table(path).equals(RESULT)
        return
    if kind == "csv":
        rows = pa_csv.read_csv(path).to_pylist()
        assert [row.pop("nearest_seeds") for row in rows] == ["x;y", "y"]
        assert rows == RESULT.drop_columns("nearest_seeds").to_pylist()
        return
    text = path.read_text()
    rows = json.loads(text) if kind == "json" else [json.loads(line) for line in text.splitlines()]
    assert rows == RESULT.to_pylist()


@pytest.mark.parametrize("path", [Path("audience.xlsx"), Path("/nowhere/a.csv")])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_computed(path: Path) -> None:
    with pytest.raises(InputError, match=str(path.parent if path.suffix == ".csv" else path)):
        check_result_file(path)


def test_a_result_of_an_unknown_ending_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"s\.xlsx"):
        write_result(RESULT, tmp_path / "s.xlsx")
    assert not list(tmp_path.iterdir())
