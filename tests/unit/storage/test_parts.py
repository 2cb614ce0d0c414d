"""Part files: whole or absent, and only rows that a reader can trust."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qanchor.errors import DiskFull, FeaturesInvalid, NotReady
from qanchor.storage import parts
from qanchor.workspace import load_workspace
from tests.unit.storage.rows import VIEW, embedding_rows

_T = datetime(2026, 1, 2, tzinfo=UTC)
_SCHEMA = parts.embedding_schema("fraud")


def test_a_part_of_the_same_name_replaces_the_old_one(tmp_path: Path) -> None:
    parts.write_part(tmp_path, embedding_rows([("a", _T, _T)]), "2026")
    path = parts.write_part(tmp_path, embedding_rows([("b", _T, _T)]), "2026")
    assert parts.list_parts(tmp_path) == [path]
    assert pq.read_table(path)["user_id"].to_pylist() == ["b"]


def test_a_failed_write_leaves_the_old_part_and_no_scrap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parts.write_part(tmp_path, embedding_rows([("a", _T, _T)]), "p")

    def half(table: Any, where: Path, **_: Any) -> None:
        where.write_bytes(b"PAR1 half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(DiskFull, match="no space"):
        parts.write_part(tmp_path, embedding_rows([("b", _T, _T)]), "p")
    assert list(tmp_path.iterdir()) == [path]
    assert pq.read_table(path)["user_id"].to_pylist() == ["a"]


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "_x", "a/b", "empty", "x" * 200])
def test_part_names_that_readers_would_miss_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FeaturesInvalid, match="part name"):
        parts.write_part(tmp_path, embedding_rows([]), name)


def test_remove_parts_keeps_the_named_and_the_empty_one(tmp_path: Path) -> None:
    parts.ensure_part(tmp_path, _SCHEMA)
    for name in ("a", "b"):
        parts.write_part(tmp_path, embedding_rows([]), name)
    parts.remove_parts(tmp_path, {"b"})
    assert [path.stem for path in parts.list_parts(tmp_path)] == ["b", "empty"]


def test_the_empty_part_follows_the_schema(tmp_path: Path) -> None:
    parts.ensure_part(tmp_path, _SCHEMA)
    wider = _SCHEMA.append(pa.field("more", pa.int64()))
    parts.ensure_part(tmp_path, wider)
    assert pq.read_schema(tmp_path / "empty.parquet").equals(wider)


def test_a_view_that_was_never_applied_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="feast apply"):
        parts.require_parts(tmp_path / "user_emb_fraud")


def test_rows_come_in_the_order_of_the_view() -> None:
    rows = embedding_rows([("a", _T, _T)])
    shuffled = rows.select(rows.column_names[::-1])
    assert parts.conform(shuffled, _SCHEMA, VIEW).equals(rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused(bad: float) -> None:
    vector = np.ones(128, np.float32)
    vector[7] = bad
    with pytest.raises(FeaturesInvalid, match="NaN or infinity"):
        parts.conform(embedding_rows([("a", _T, _T)], [vector]), _SCHEMA, VIEW)


@pytest.mark.parametrize("width", [0, 64, 129])
def test_a_vector_of_another_width_is_refused(width: int) -> None:
    with pytest.raises(FeaturesInvalid, match="128 wide"):
        parts.conform(embedding_rows([("a", _T, _T)], [np.ones(width, np.float32)]), _SCHEMA, VIEW)


@pytest.mark.parametrize("name", ["user_id", "event_timestamp", "created"])
def test_a_null_key_or_time_is_refused(name: str) -> None:
    rows = embedding_rows([("a", _T, _T)])
    place = rows.column_names.index(name)
    rows = rows.set_column(place, name, pa.nulls(1, rows.schema.field(name).type))
    with pytest.raises(FeaturesInvalid, match=f"null {name}"):
        parts.conform(rows, _SCHEMA, VIEW)


def test_a_null_vector_is_refused() -> None:
    rows = embedding_rows([("a", _T, _T)])
    rows = rows.set_column(1, "emb_fraud", pa.nulls(1, pa.list_(pa.float32())))
    with pytest.raises(FeaturesInvalid, match="null"):
        parts.conform(rows, _SCHEMA, VIEW)


def test_a_missing_and_an_extra_column_are_named() -> None:
    rows = embedding_rows([("a", _T, _T)]).drop_columns(["n_events"])
    with pytest.raises(FeaturesInvalid, match="n_events"):
        parts.conform(rows, _SCHEMA, VIEW)


def test_a_wrong_type_is_refused() -> None:
    rows = embedding_rows([("a", _T, _T)])
    place = rows.column_names.index("n_events")
    with pytest.raises(FeaturesInvalid, match="wrong type"):
        parts.conform(rows.set_column(place, "n_events", pa.array(["many"])), _SCHEMA, VIEW)


def test_every_view_of_the_template_has_columns() -> None:
    workspace = load_workspace(Path(__file__).parents[3] / "feature_repo")
    schemas = parts.view_schemas(workspace)
    of_scenarios = {f"user_{kind}_{name}" for name in workspace.scenarios for kind in ("emb", "score")}
    assert set(schemas) == of_scenarios | {"user_activity", "user_profile"}
    assert schemas["user_profile"].field("prof_credit_limit").type == pa.float64()
    assert all({"user_id", "event_timestamp", "created"} <= set(schema.names) for schema in schemas.values())
