"""Training frames: every labelled row with its features as of the label's time, and its part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.errors import FeaturesInvalid, NotReady
from qanchor.events.labels import Labels
from qanchor.files import checked_file, file_hash
from qanchor.heads.fit import any_varies
from qanchor.heads.spec import (
    FeatureSpec,
    Group,
    column,
    model_version_column,
    refuse_broken_vectors,
    vector_width,
    vectors,
)
from qanchor.heads.split import Division, part_names
from qanchor.names import (
    ACTIVITY_VIEW,
    AS_OF,
    EVENT_TIMESTAMP,
    LABEL,
    LAST_EVENT_TS,
    PROFILE_VIEW,
    SPLITS,
    USER_ID,
    embedding_field,
    embedding_view,
)
from qanchor.site import Site
from qanchor.times import DAY_US, TIMESTAMP
from qanchor.workspace import Workspace

PART = "part"
_PART_INDEX = "_part"


@dataclass(frozen=True)
class HeadFrame:
    """The labelled rows of a scenario with all their features.

    Args:
        scenario: name of the scenario.
        table: user_id, as_of, label and every feature column.
        part: index into SPLITS of each row, (rows,).
        width: dimensions of the embedding; 0 where no row has one.
        model_version: version of the model that wrote the vectors; None where there are none.
        ages: by view the days from the moment of its features to the label's time, (rows,); NaN: no features.
    """

    scenario: str
    table: pa.Table
    part: NDArray[np.int8]
    width: int
    model_version: str | None
    ages: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def labels(self) -> NDArray[np.int64]:
        """0 or 1, (rows,)."""
        return np.asarray(self.table[LABEL], dtype=np.int64)

    @property
    def part_names(self) -> NDArray[np.str_]:
        """train, valid or test, (rows,)."""
        return np.array(part_names(self.part))

    def rows(self, part: str) -> NDArray[np.bool_]:
        """Which rows belong to a part, (rows,)."""
        return np.asarray(self.part == SPLITS.index(part))

    def table_of(self, part: str) -> pa.Table:
        """The rows of a part."""
        return self.table.filter(pa.array(self.rows(part)))

    def spec(self, groups: Sequence[Group], workspace: Workspace) -> FeatureSpec:
        """The columns of these groups; categories are those of the training rows.

        Args:
            groups: feature groups; activity includes the profile.
            workspace: workspace with the activity and profile columns.
        """
        if "activity" not in groups:
            return FeatureSpec(self.scenario, self.width, (), {})
        profile = workspace.profile_columns
        numbers = [*workspace.activity_columns, *(n for n, kind in profile.items() if kind == "number")]
        train = self.table_of("train")
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
        """Number of rows without a vector."""
        if not self.width:
            return int(self.table.num_rows)
        matrix = vectors(column(self.table, embedding_field(self.scenario)), self.width)
        return int(np.isnan(matrix[:, 0]).sum())

    def varies(self, spec: FeatureSpec) -> bool:
        """Whether any of these columns has two values, or gaps, over the training rows."""
        return any_varies(spec.matrix(self.table_of("train")))

    def has_activity(self, workspace: Workspace) -> bool:
        """Whether any row has any aggregate."""
        return any(
            self.table[name].null_count < self.table.num_rows
            for name in workspace.activity_columns
            if name in self.table.column_names
        )

    def write(self, path: Path) -> str:
        """Keep the frame as Parquet.

        Returns:
            SHA-256 of the file, for the head's card.
        """
        # The same rows give the same file, however many parts they were read from.
        table = self.table.append_column(PART, pa.array(self.part_names, pa.string())).combine_chunks()
        texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
        pq.write_table(table, path, compression="lz4", use_dictionary=texts)
        return file_hash(path)


def read_frame(site: Site, labels: Labels, division: Division) -> HeadFrame:
    """Every labelled row that has a part, with its features as of the label's time.

    Args:
        site: feature repository, which joins no row that happened or was created after a label's time.
        labels: labels of the scenario.
        division: part of each label.

    Raises:
        NotReady: the view holds vectors of several models; run the backfill again.
        FeaturesInvalid: a vector holds NaN, or has read an event at or after its label's time.
    """
    kept = division.parts >= 0
    rows = labels.table.filter(pa.array(kept)).select([USER_ID, AS_OF, LABEL])
    rows = rows.append_column(_PART_INDEX, pa.array(division.parts[kept]))
    views = [embedding_view(labels.scenario), ACTIVITY_VIEW]
    if site.workspace.profile_columns:
        views.append(PROFILE_VIEW)
    table = site.features.training_frame(rows, views, times=True)
    part = np.asarray(table[_PART_INDEX], dtype=np.int8)
    table, ages = _ages(table.drop_columns(_PART_INDEX), views)
    frame = replace(_frame(labels.scenario, table, part), ages=ages)
    refuse_broken_vectors(frame.table, labels.scenario)
    _refuse_later_events(frame.table, labels.scenario)
    return frame


def stored_frame(scenario: str, path: Path, expected_hash: str) -> HeadFrame:
    """A frame as `HeadFrame.write` wrote it.

    Args:
        scenario: name of the scenario.
        path: Parquet file.
        expected_hash: hash in the head's card.

    Raises:
        CheckpointInvalid: the file is missing or was edited; train the head again.
    """
    remedy = f"Run `qanchor-cli head train --scenario {scenario}` again."
    table = pq.read_table(checked_file(path, expected_hash, remedy))
    part = np.asarray(pc.index_in(table[PART], pa.array(SPLITS)), dtype=np.int8)
    return _frame(scenario, table.drop_columns(PART), part)


def _frame(scenario: str, table: pa.Table, part: NDArray[np.int8]) -> HeadFrame:
    values = column(table, model_version_column(scenario))
    versions = sorted(str(version) for version in pc.unique(values.drop_null()).to_pylist())
    if len(versions) > 1:
        raise NotReady(
            f"labels of {scenario} meet vectors of {len(versions)} models: {', '.join(versions)}",
            f"Run `qanchor-cli backfill --scenario {scenario}` so that one model wrote them all.",
        )
    width = vector_width(column(table, embedding_field(scenario)))
    return HeadFrame(scenario, table, part, width, versions[0] if versions else None)


def _ages(table: pa.Table, views: Sequence[str]) -> tuple[pa.Table, dict[str, NDArray[np.float64]]]:
    """The table without its views' times, and how old each view's features are at the label's time, days."""
    ages = {}
    for view in views:
        name = f"{view}__{EVENT_TIMESTAMP}"
        if name in table.column_names:
            moments = table[name].cast(TIMESTAMP)
            since = pc.subtract(table[AS_OF].cast(TIMESTAMP, safe=False), moments).cast(pa.int64())
            ages[view] = since.cast(pa.float64(), safe=False).to_numpy() / DAY_US
            table = table.drop_columns(name)
    return table, ages


def _refuse_later_events(table: pa.Table, scenario: str) -> None:
    """A row holds the time of the last event its vector read: it must be before the label's time."""
    name = f"{embedding_view(scenario)}__{LAST_EVENT_TS}"
    if name not in table.column_names:
        return
    late = pc.fill_null(pc.greater_equal(table[name], table[AS_OF].cast(table[name].type)), False)
    rows = np.flatnonzero(np.asarray(late))
    if len(rows):
        row = table.slice(int(rows[0]), 1).to_pylist()[0]
        raise FeaturesInvalid(
            f"row {rows[0] + 1:,}: the vector of user {row[USER_ID]!r} has read an event of {row[name]}, "
            f"at or after the label's time {row[AS_OF]}",
            f"Run `qanchor-cli backfill --scenario {scenario}` again.",
        )
