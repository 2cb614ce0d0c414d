"""The real data sets of the quality benchmark: events, tasks with fixed folds, hand-made aggregates."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, Int64, arrays_from_table
from qanchor.names import AS_OF, FOLD, LABEL, USER_ID
from qanchor.times import column_microseconds, from_microseconds
from qanchor.workspace import Workspace, load_workspace

Floats = NDArray[np.float64]
FOLDS = 5
DATA_SETS = ("online_retail", "uci_credit_default")
_EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass(frozen=True)
class Task:
    """One task's label rows.

    Args:
        name: name of the scenario.
        users: object [rows], user ids.
        rows: int64 [rows], indices into EventArrays.users.
        cutoffs: int64 [rows], microseconds UTC.
        labels: int64 [rows], 0 or 1.
        folds: int64 [rows], 0 to 4.
        aggregates: float64 [rows, features], hand-made, NaN where missing.
    """

    name: str
    users: NDArray[np.object_]
    rows: Int64
    cutoffs: Int64
    labels: Int64
    folds: Int64
    aggregates: Floats


@dataclass(frozen=True)
class DataSet:
    """A data set with its tasks.

    Args:
        name: name of the folder.
        workspace: workspace of the example of that name.
        arrays: all events, those after the cut-offs included.
        tasks: tasks by name, in the order of the workspace's scenarios.
        until: earliest cut-off of any task, UTC, where pre-training ends.
        content_hash: hash of the files.
    """

    name: str
    workspace: Workspace
    arrays: EventArrays
    tasks: Mapping[str, Task]
    until: datetime
    content_hash: str


def load_data_set(folder: Path) -> DataSet:
    """Events, labels and aggregates of one folder.

    Args:
        folder: folder of events.parquet, aggregates.parquet and labels/TASK.parquet.
    """
    workspace = load_workspace(_EXAMPLES / folder.name)
    arrays = arrays_from_table(pq.read_table(folder / "events.parquet"), workspace)
    aggregates = pq.read_table(folder / "aggregates.parquet")
    paths = {name: folder / "labels" / f"{name}.parquet" for name in workspace.scenarios}
    tasks = {
        name: _task(name, pq.read_table(path), aggregates, arrays)
        for name, path in paths.items()
        if path.exists()
    }
    first = min(int(task.cutoffs.min()) for task in tasks.values())
    files = [folder / "events.parquet", folder / "aggregates.parquet", *(paths[name] for name in tasks)]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    until = from_microseconds(first)
    return DataSet(folder.name, workspace, arrays, tasks, until, digest.hexdigest())


def _task(name: str, table: pa.Table, aggregates: pa.Table, arrays: EventArrays) -> Task:
    users = np.array(table[USER_ID].to_pylist(), dtype=object)
    row_of = {user: row for row, user in enumerate(aggregates[USER_ID].to_pylist())}
    columns = [column for column in aggregates.column_names if column != USER_ID]
    values = np.stack(
        [aggregates[column].cast(pa.float64()).to_numpy() for column in columns], axis=1
    )  # [users, features]
    return Task(
        name,
        users,
        arrays.user_rows(users),
        column_microseconds(table[AS_OF]),
        np.asarray(table[LABEL]).astype(np.int64),
        np.asarray(table[FOLD]).astype(np.int64),
        values[[row_of[user] for user in users]],
    )
