"""Part files: the offline store is one folder of Parquet files per view, each written whole or not at all."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from qanchor import names
from qanchor.errors import FeaturesInvalid, NotReady
from qanchor.files import atomic_file, temporary_beside
from qanchor.times import TIMESTAMP
from qanchor.workspace import Workspace

Matrix = npt.NDArray[np.float32]

# A folder without any Parquet file cannot be read, so each view keeps one part that has only columns.
EMPTY_PART = "empty"
_PART_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._=+-]{0,150}$")
_ARROW = {"text": pa.string(), "number": pa.float64()}


def embedding_schema(scenario: str) -> pa.Schema:
    """Columns of one scenario's embedding view."""
    return pa.schema(
        {
            names.USER_ID: pa.string(),
            names.embedding_field(scenario): pa.list_(pa.float32()),
            names.MODEL_VERSION: pa.string(),
            names.N_EVENTS: pa.int64(),
            names.LAST_EVENT_TS: TIMESTAMP,
            names.EVENT_TIMESTAMP: TIMESTAMP,
            names.CREATED: TIMESTAMP,
        }
    )


def _feature_schema(columns: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema(
        {
            names.USER_ID: pa.string(),
            **columns,
            names.EVENT_TIMESTAMP: TIMESTAMP,
            names.CREATED: TIMESTAMP,
        }
    )


def view_schemas(workspace: Workspace) -> dict[str, pa.Schema]:
    """Columns of every view of the workspace, by view name."""
    schemas = {names.embedding_view(name): embedding_schema(name) for name in workspace.scenarios}
    schemas[names.ACTIVITY_VIEW] = _feature_schema(dict.fromkeys(workspace.activity_columns, pa.float64()))
    if workspace.profile_columns:
        schemas[names.PROFILE_VIEW] = _feature_schema(
            {name: _ARROW[kind] for name, kind in workspace.profile_columns.items()}
        )
    for name in workspace.scenarios:
        field = names.score_field(name)
        columns = {field: pa.float64(), f"{field}_head": pa.string()}
        schemas[names.score_view(name)] = _feature_schema(columns)
    return schemas


def list_parts(folder: Path) -> list[Path]:
    """Part files of a view in the order of their names, the zero-row one included."""
    return sorted(folder.glob("*.parquet"))


def ensure_part(folder: Path, schema: pa.Schema) -> None:
    """Give a view its zero-row part, so that a view without rows can be read."""
    path = folder / f"{EMPTY_PART}.parquet"
    if not path.exists() or not pq.read_schema(path).equals(schema):
        _write(path, schema.empty_table())


def write_part(folder: Path, table: pa.Table, part: str) -> Path:
    """Write one part, or replace the part of that name; readers see the old file or the new one.

    Args:
        folder: of the view.
        table: rows of the view.
        part: name of the part: letters, digits and `._=+-`.

    Raises:
        FeaturesInvalid: the name is invalid.
    """
    if not _PART_NAME.match(part) or part == EMPTY_PART:
        raise FeaturesInvalid(
            f"part name {part!r} is invalid", "Use letters, digits and ._=+-, and not 'empty'."
        )
    path = folder / f"{part}.parquet"
    _write(path, table)
    return path


def _write(path: Path, table: pa.Table) -> None:
    with atomic_file(path) as staged:
        pq.write_table(table, staged, compression="lz4", use_dictionary=_texts(table.schema))


def part_writer(path: Path, schema: pa.Schema) -> "pq.ParquetWriter":
    """Writes a part piece by piece; the file is no part before it is linked into a view's folder."""
    return pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=_texts(schema))


def _texts(schema: pa.Schema) -> list[str]:
    # A dictionary of floats that hardly repeat costs time and saves nothing.
    return [field.name for field in schema if pa.types.is_string(field.type)]


def link_part(source: Path, folder: Path, part: str) -> None:
    """Make a written file a part of a folder as well; without a copy, and harmless to repeat."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{part}.parquet"
    if target.exists() and target.samefile(source):
        return
    staged = temporary_beside(target)
    os.link(source, staged)
    staged.replace(target)


def switch_folder(folder: Path, target: Path) -> None:
    """Make a view's folder a link to another folder, in one step.

    The link is relative, so that the home may be moved. A real folder, which a view has before its first
    vectors, is removed first; it holds no rows.

    Args:
        folder: of the view.
        target: the folder that it links to from now on; below the same home.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and not folder.is_symlink():
        aside = target.parent / f".first.{os.getpid()}"
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    staged = temporary_beside(folder)
    staged.symlink_to(os.path.relpath(target, folder.parent), target_is_directory=True)
    staged.replace(folder)


def remove_parts(folder: Path, keep: set[str]) -> None:
    """Delete every part whose name is not in `keep`, save the zero-row one."""
    for path in list_parts(folder):
        if path.stem not in keep and path.stem != EMPTY_PART:
            path.unlink(missing_ok=True)


def conform(table: pa.Table, schema: pa.Schema, view: str, width: int = names.EMBEDDING_WIDTH) -> pa.Table:
    """The table in the view's column order and types, its keys and vectors checked.

    Args:
        table: rows; columns that the view does not have are refused.
        schema: of the view, from view_schemas.
        view: name for error messages.
        width: of the vectors.

    Raises:
        FeaturesInvalid: a column is missing or too many, a key or time is null, or a vector is
            null, not finite or of the wrong width; fix the rows.
    """
    if set(table.column_names) != set(schema.names):
        odd = sorted(set(table.column_names) ^ set(schema.names))
        raise FeaturesInvalid(f"rows for {view} lack or add {odd}", f"Columns: {', '.join(schema.names)}.")
    try:
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise FeaturesInvalid(f"rows for {view} have a wrong type: {reason}", "Fix the rows.") from error
    for name in (names.USER_ID, names.EVENT_TIMESTAMP, names.CREATED):
        if table[name].null_count:
            raise FeaturesInvalid(f"rows for {view} have a null {name}", "Drop or fix these rows.")
    for field in schema:
        if pa.types.is_list(field.type):
            vectors_of(table[field.name], view, width)
    return table


def vectors_of(column: pa.ChunkedArray | pa.Array, view: str, width: int | None = None) -> Matrix:
    """The vectors of a column as one matrix.

    Args:
        column: lists of float32.
        view: name for error messages.
        width: of all vectors; None: that of the first.

    Returns:
        float32, (rows, width).

    Raises:
        FeaturesInvalid: a vector is null, not finite or of another width; embed these users again.
    """
    lengths = pc.min_max(pc.list_value_length(column)).as_py()
    expected = width or lengths["min"] or names.EMBEDDING_WIDTH
    if column.null_count or (len(column) and lengths != {"min": expected, "max": expected}):
        raise FeaturesInvalid(
            f"{view} has a vector that is null or not {expected} wide",
            "Embed these users again.",
        )
    values = pc.list_flatten(column)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    matrix = np.ascontiguousarray(values.to_numpy(zero_copy_only=False), np.float32)
    if not np.isfinite(matrix).all():
        raise FeaturesInvalid(f"{view} has a vector that holds NaN or infinity", "Embed these users again.")
    return matrix.reshape(len(column), expected)


def require_parts(folder: Path) -> list[Path]:
    """Part files of a view.

    Raises:
        NotReady: there is none, not even the zero-row one; run `feast apply`.
    """
    parts = list_parts(folder)
    if not parts:
        raise NotReady(
            f"the feature store has no view {folder.name!r}", "Run `feast apply` in the repository."
        )
    return parts
