import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qanchor.errors import EventsInvalid
from qanchor.events.files import open_event_file
from tests.unit.events.files import payment, write_parquet

_HEADER = "user_id,event_time,modality,page\n"


def test_parquet_and_csv_are_read_in_order(tmp_path: Path) -> None:
    parquet = open_event_file(write_parquet(tmp_path / "e.pq", [payment("a"), payment("b")]))
    assert [b["user_id"].to_pylist() for b in parquet.batches()] == [["a", "b"]]
    assert (parquet.rows, parquet.is_text) == (2, False)
    path = tmp_path / "e.csv"
    path.write_text(_HEADER + "007,2026-01-01T00:00:00Z,visit,\n", encoding="utf-8-sig")
    (batch,) = open_event_file(path).batches()
    assert batch.to_pylist()[0] == {
        "user_id": "007", "event_time": "2026-01-01T00:00:00Z", "modality": "visit", "page": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("absent.csv", None, "no file"),
        ("e.csv", b"", "is empty"),
        ("e.parquet", b"PAR1 and then nothing", "cannot be read"),
        ("e.parquet", b"no parquet", "cannot be read"),
        ("e.csv", b"user_id,when\na,b\n", "no column event_time, modality"),
        ("e.csv", b"user_id,event_time,modality,page,page\n", "'?page'? twice|page twice"),
        ("e.csv", b"\xff\xfe\x00u\x00s", "cannot be read|no column"),
    ],
)
def test_an_unusable_file_is_named_with_its_fault(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EventsInvalid, match=problem):
        open_event_file(path)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    pq.write_table(pa.table({"user_id": [], "event_time": [], "modality": []}), path)
    with pytest.raises(EventsInvalid, match="holds no rows"):
        open_event_file(path)


def test_a_damaged_page_is_the_files_fault(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "e.parquet", [payment(f"user-{i}") for i in range(500)])
    content = bytearray(path.read_bytes())
    content[10:200] = bytes(190)
    path.write_bytes(content)
    with pytest.raises(EventsInvalid):
        list(open_event_file(path).batches())


def test_a_compressed_csv_is_read_as_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "e.csv.gz"
    path.write_bytes(gzip.compress((_HEADER + "007,2026-01-01T00:00:00Z,visit,\n").encode()))
    (batch,) = open_event_file(path).batches()
    assert batch["user_id"].to_pylist() == ["007"]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(EventsInvalid, match=r"damaged|cannot be read"):
        list(open_event_file(path).batches())
