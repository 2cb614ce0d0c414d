import gzip
from pathlib import Path

import pytest

from qanchor.csv_files import WithoutLines, broken_lines, read_csv
from qanchor.errors import InputError


@pytest.mark.parametrize(
    ("content", "broken"),
    [
        ("", []),
        ('a,b\n1,"x\n2,y\n', [2]),
        ('a,b\n1,"x\n2,"y"\n3,z\n', [2]),
        ('a,b\n1,"x\n2,"y\n3,"z\n4,v', [2, 3, 4]),
        ('a,b\r\n1,x\r\n2,"y\r\n', [3]),
        ('a,b\n1,"x""\n2,y\n', [2]),
        ('"a","b"\n1,"x\ny"\n2,27" big\n3,"say ""hi"""\n4,""\n5,"a" b\n', []),
        ('\ufeff"a",b\n1,"x"\n', []),
    ],
)
@pytest.mark.parametrize("block", [3, 1 << 17])
def test_a_line_whose_quote_is_not_closed_is_found(
    tmp_path: Path, content: str, broken: list[int], block: int
) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(content.encode())
    lines = broken_lines(path, block)
    assert [line.number for line in lines] == broken
    kept = [line for i, line in enumerate(content.splitlines(keepends=True), 1) if i not in broken]
    assert WithoutLines(path, lines).readall() == "".join(kept).encode()


def test_a_table_with_a_broken_line_or_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text('user_id,x\n007,1\n"008,2\n"009",3\n')
    with pytest.raises(InputError, match=r"f\.csv, line 3: a quote is opened that nothing closes"):
        read_csv(path, ["user_id"])
    path.write_text("user_id,x,x\n007,1,2\n")
    with pytest.raises(InputError, match="column 'x' twice"):
        read_csv(path)


def test_a_compressed_table_is_read_as_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "f.csv.gz"
    path.write_bytes(gzip.compress(b"user_id,x\n007,1\n"))
    assert read_csv(path, ["user_id"]).to_pylist() == [{"user_id": "007", "x": 1}]
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OSError, match=r".+"):
        read_csv(path)
