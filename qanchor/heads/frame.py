"""Feature rows for a head: which columns, in which order, and how a table of them becomes a matrix."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.errors import InputError, NotReady
from qanchor.events.labels import Labels
from qanchor.names import (
    ACTIVITY_VIEW,
    AS_OF,
    LABEL,
    MODEL_VERSION,
    PROFILE_VIEW,
    SPLITS,
    USER_ID,
    embedding_field,
    embedding_view,
)
from qanchor.workspace import Workspace

Group = Literal["embedding", "activity"]
Floats = NDArray[np.float32]
_PART = "_part"


class FeatureSource(Protocol):
    """What a head needs of the feature repository."""

    def training_frame(self, labels: pa.Table, views: Sequence[str]) -> pa.Table:
        """The rows' features as of their own times, one row each, in the same order."""
        ...

    def online(
        self, user_ids: Sequence[str], features: Sequence[str], at: datetime | None = None
    ) -> pa.Table:
        """The users' newest features that are fresh at a moment, one row each, in the same order."""
        ...

    def fingerprint(self, scenario: str) -> str | None:
        """The embedding space that the scenario's view holds."""
        ...


@dataclass(frozen=True)
class FeatureSpec:
    """The columns of a head's matrix.

    Args:
        scenario: whose embedding is used.
        width: of the embedding; 0 where it is not used.
        numbers: activity and profile columns that are numbers.
        categories: profile columns that are text, with their training values; a value's place is its code.
    """

    scenario: str
    width: int
    numbers: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """emb_000, emb_001, ..."""
        return tuple(f"emb_{place:03d}" for place in range(self.width))

    @property
    def names(self) -> tuple[str, ...]:
        """Every column of the matrix, in order."""
        return (*self.embedding_names, *self.numbers, *self.categories)

    def views(self, workspace: Workspace) -> dict[str, list[str]]:
        """The Feast views that hold these columns, with the fields to read of each."""
        scenario, columns = self.scenario, (*self.numbers, *self.categories)
        found = {
            embedding_view(scenario): [embedding_field(scenario), MODEL_VERSION] if self.width else [],
            ACTIVITY_VIEW: [name for name in columns if name in workspace.activity_columns],
            PROFILE_VIEW: [name for name in columns if name in workspace.profile_columns],
        }
        return {view: fields for view, fields in found.items() if fields}

    def matrix(self, table: pa.Table) -> Floats:
        """The table's rows as numbers, (rows, features); NaN where a value is missing or a category is new.

        Raises:
            NotReady: a column is absent; run `feast apply` and the backfill again.
            InputError: a vector has another width.
        """
        columns: list[Floats] = []
        if self.width:
            columns.append(vectors(column(table, embedding_field(self.scenario)), self.width))
        for name in self.numbers:
            values = column(table, name).cast(pa.float64())
            columns.append(np.asarray(values.to_numpy(), dtype=np.float32)[:, None])
        for name, known in self.categories.items():
            codes = pc.index_in(column(table, name), pa.array(known, pa.string()))
            columns.append(np.asarray(codes.cast(pa.float64()).to_numpy(), dtype=np.float32)[:, None])
        matrix = np.concatenate(columns, axis=1)
        matrix[~np.isfinite(matrix)] = np.nan
        return matrix


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
    """A list column as a matrix, (rows, width); a row is all NaN where its vector is absent or holds a NaN.

    Raises:
        InputError: a vector has another width.
    """
    array = values.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], values.type)
    matrix = np.full((len(array), width), np.nan, dtype=np.float32)
    if pa.types.is_null(array.type):
        return matrix
    lengths = np.asarray(pc.list_value_length(array).fill_null(0))
    wrong = lengths[(lengths != 0) & (lengths != width)]
    if len(wrong):
        raise InputError(
            f"a vector has width {wrong[0]}, not {width}",
            "Run `qanchor-cli backfill` and train the head again.",
        )
    flat = np.asarray(array.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
    matrix[lengths > 0] = flat.reshape(-1, width)
    matrix[~np.isfinite(matrix).all(axis=1)] = np.nan
    return matrix


@dataclass(frozen=True)
class HeadFrame:
    """The labelled rows of a scenario with all their features.

    Args:
        scenario: its name.
        table: user_id, as_of, label and every feature column.
        part: place in SPLITS of each row, (rows,).
        width: of the embedding; 0 where no row has one.
        model_version: what wrote the vectors; None where there are none.
    """

    scenario: str
    table: pa.Table
    part: NDArray[np.int8]
    width: int
    model_version: str | None

    @property
    def labels(self) -> NDArray[np.int64]:
        """0 or 1, (rows,)."""
        return np.asarray(self.table[LABEL], dtype=np.int64)

    def rows(self, part: str) -> NDArray[np.bool_]:
        """Which rows belong to a part, (rows,)."""
        return np.asarray(self.part == SPLITS.index(part))

    def spec(self, groups: Sequence[Group], workspace: Workspace) -> FeatureSpec:
        """The columns of these groups; categories are those of the training rows.

        Args:
            groups: embedding; activity, which takes the profile along.
            workspace: names the activity and profile columns.
        """
        if "activity" not in groups:
            return FeatureSpec(self.scenario, self.width, (), {})
        profile = workspace.profile_columns
        numbers = [*workspace.activity_columns, *(n for n, kind in profile.items() if kind == "number")]
        train = self.table.filter(pa.array(self.rows("train")))
        categories = {
            name: tuple(sorted(pc.unique(column(train, name).drop_null()).to_pylist()))
            for name, kind in profile.items()
            if kind == "text"
        }
        return FeatureSpec(
            self.scenario, self.width if "embedding" in groups else 0, tuple(numbers), categories
        )

    @property
    def without_embedding(self) -> int:
        """Rows with no vector, or one that holds a NaN."""
        if not self.width:
            return int(self.table.num_rows)
        found = vectors(column(self.table, embedding_field(self.scenario)), self.width)
        return int(np.isnan(found[:, 0]).sum())

    def varies(self, spec: FeatureSpec) -> bool:
        """Whether any column of these has two values, or holes, over the training rows."""
        values = spec.matrix(self.table.filter(pa.array(self.rows("train"))))
        return any_varies(values)

    def has_activity(self, workspace: Workspace) -> bool:
        """Whether any row has any aggregate."""
        return any(
            self.table[name].null_count < self.table.num_rows
            for name in workspace.activity_columns
            if name in self.table.column_names
        )


def any_varies(features: Floats) -> bool:
    """Whether any column of a matrix has two values, or both values and holes."""
    for values in features.T:
        finite = values[np.isfinite(values)]
        if len(finite) and (len(finite) < len(values) or finite.min() != finite.max()):
            return True
    return False


def read_frame(
    source: FeatureSource, labels: Labels, workspace: Workspace, test_fold: int | None = None
) -> HeadFrame:
    """Every labelled row with its features as of its own time.

    Args:
        source: the feature repository.
        labels: the scenario's labels.
        workspace: names the views' columns.
        test_fold: another test fold than the highest.

    Raises:
        LabelsInvalid: labels have no such fold.
        NotReady: vectors of several models stand in the view; run the backfill again.
    """
    parts = [labels.part("train", test_fold), labels.part("valid", test_fold), labels.part("test", test_fold)]
    asked = pa.concat_tables(
        table.select([USER_ID, AS_OF, LABEL]).append_column(
            _PART, pa.array(np.full(table.num_rows, place, np.int8))
        )
        for place, table in enumerate(parts)
    )
    views = [embedding_view(labels.scenario), ACTIVITY_VIEW]
    if workspace.profile_columns:
        views.append(PROFILE_VIEW)
    table = source.training_frame(asked, views)
    versions = _versions(table, labels.scenario)
    width = _width(table, embedding_field(labels.scenario))
    part = np.asarray(table[_PART], dtype=np.int8)
    return HeadFrame(
        labels.scenario, table.drop_columns(_PART), part, width, versions[0] if versions else None
    )


def model_version_column(scenario: str) -> str:
    """The column of a frame that says which model wrote the scenario's vectors."""
    return f"{embedding_view(scenario)}__{MODEL_VERSION}"


def _versions(table: pa.Table, scenario: str) -> list[str]:
    values = column(table, model_version_column(scenario))
    versions = sorted(str(version) for version in pc.unique(values.drop_null()).to_pylist())
    if len(versions) > 1:
        raise NotReady(
            f"labels of {scenario} meet vectors of {len(versions)} models: {', '.join(versions)}",
            f"Run `qanchor-cli backfill --scenario {scenario}` so that one model wrote them all.",
        )
    return versions


def _width(table: pa.Table, name: str) -> int:
    values = column(table, name)
    if pa.types.is_null(values.type):
        return 0
    return int(pc.max(pc.list_value_length(values)).as_py() or 0)
