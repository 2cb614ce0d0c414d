"""The columns of a head's matrix, and how a table of features becomes that matrix."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.errors import FeaturesInvalid, InputError, NotReady
from qanchor.names import (
    ACTIVITY_VIEW,
    MODEL_VERSION,
    PROFILE_VIEW,
    USER_ID,
    embedding_field,
    embedding_view,
)
from qanchor.workspace import Workspace

Group = Literal["embedding", "activity"]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureSpec:
    """The columns of a head's matrix.

    Args:
        scenario: name of the scenario.
        width: dimensions of the embedding; 0 where it is not used.
        numbers: activity and profile columns that are numbers.
        categories: profile columns that are text, with their training values; a value's index is its code.
    """

    scenario: str
    width: int
    numbers: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """emb_000, emb_001, ..."""
        return tuple(f"emb_{number:03d}" for number in range(self.width))

    @property
    def names(self) -> tuple[str, ...]:
        """Every column of the matrix, in order."""
        return (*self.embedding_names, *self.numbers, *self.categories)

    def views(self, workspace: Workspace) -> dict[str, list[str]]:
        """The Feast views that hold these columns, with the fields to read of each."""
        scenario, columns = self.scenario, (*self.numbers, *self.categories)
        views = {
            embedding_view(scenario): [embedding_field(scenario), MODEL_VERSION] if self.width else [],
            ACTIVITY_VIEW: [name for name in columns if name in workspace.activity_columns],
            PROFILE_VIEW: [name for name in columns if name in workspace.profile_columns],
        }
        return {view: fields for view, fields in views.items() if fields}

    def matrix(self, table: pa.Table) -> Floats:
        """The rows as numbers, (rows, features); NaN where a value is missing or a category is new.

        Raises:
            NotReady: a column is absent; run `feast apply` and the backfill again.
            InputError: a vector has another width.
        """
        matrix = np.empty((table.num_rows, len(self.names)), dtype=np.float32)
        if self.width:
            matrix[:, : self.width] = vectors(column(table, embedding_field(self.scenario)), self.width)
        # Columns are gathered first and turned once: writing each into rows of its own costs twice the time.
        columns = np.empty((len(self.names) - self.width, table.num_rows), dtype=np.float32)
        for number, name in enumerate(self.numbers):
            columns[number] = column(table, name).cast(pa.float64()).to_numpy()
        for number, (name, known) in enumerate(self.categories.items(), len(self.numbers)):
            codes = pc.index_in(column(table, name), pa.array(known, pa.string()))
            columns[number] = codes.cast(pa.float64()).to_numpy()
        columns[np.isinf(columns)] = np.nan
        matrix[:, self.width :] = columns.T
        return matrix

    def unseen(self, table: pa.Table) -> dict[str, dict[str, int]]:
        """Number of rows of each category value that training did not have, by column."""
        unseen: dict[str, dict[str, int]] = {}
        for name, known in self.categories.items():
            values = column(table, name).drop_null()
            new = values.filter(pc.invert(pc.is_in(values, pa.array(known, pa.string()))))
            if len(new):
                counts = pc.value_counts(new)
                unseen[name] = {str(item["values"]): int(item["counts"]) for item in counts.to_pylist()}
        return unseen


def column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of a frame.

    Raises:
        NotReady: the feature repository does not serve it.
    """
    if name not in table.column_names:
        raise NotReady(
            f"the feature repository serves no field {name!r}",
            "Run `feast apply`, then `qanchor-cli backfill`.",
        )
    return table[name]


def vectors(values: pa.ChunkedArray, width: int) -> Floats:
    """A list column as a matrix, (rows, width); a row is NaN where its vector is absent or holds NaN.

    Raises:
        InputError: a vector has another width.
    """
    array = _one_array(values)
    matrix = np.full((len(array), width), np.nan, dtype=np.float32)
    if pa.types.is_null(array.type):
        return matrix
    lengths = np.asarray(pc.list_value_length(array).fill_null(0))
    wrong = lengths[np.logical_and(lengths != 0, lengths != width)]
    if len(wrong):
        raise InputError(
            f"a vector has width {wrong[0]}, not {width}",
            "Run `qanchor-cli backfill` and train the head again.",
        )
    flat = np.asarray(array.flatten().to_numpy(zero_copy_only=False), dtype=np.float32).reshape(-1, width)
    if not np.isfinite(flat).all():
        whole = np.isfinite(flat).all(axis=1, keepdims=True)
        flat = np.where(whole, flat, np.float32(np.nan))
    if len(flat) == len(matrix):
        return flat
    matrix[lengths > 0] = flat
    return matrix


def vector_width(values: pa.ChunkedArray) -> int:
    """The width of a list column's vectors; 0 where there is none."""
    return 0 if pa.types.is_null(values.type) else int(pc.max(pc.list_value_length(values)).as_py() or 0)


def refuse_broken_vectors(table: pa.Table, scenario: str) -> None:
    """Refuse a table with a vector that holds NaN or infinity; an absent vector is fine.

    Raises:
        FeaturesInvalid: there is one; the message names its row and user.
    """
    name = embedding_field(scenario)
    values = column(table, name)
    width = vector_width(values)
    if not width:
        return
    present = np.asarray(_one_array(values).is_valid())
    broken = np.flatnonzero(present & np.isnan(vectors(values, width)[:, 0]))
    if len(broken):
        user = table[USER_ID][int(broken[0])].as_py()
        others = f" (and {len(broken) - 1:,} more rows)" if len(broken) > 1 else ""
        raise FeaturesInvalid(
            f"row {broken[0] + 1:,}, column {name}: the vector of user {user!r} holds NaN{others}",
            f"Run `qanchor-cli backfill --scenario {scenario}` again.",
        )


def model_version_column(scenario: str) -> str:
    """The column of a frame that holds the version of the model that wrote a scenario's vectors."""
    return f"{embedding_view(scenario)}__{MODEL_VERSION}"


def _one_array(values: pa.ChunkedArray) -> pa.Array:
    array = values.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], values.type)
    return array
