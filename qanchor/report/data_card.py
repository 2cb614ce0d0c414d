"""The data card of a scenario: its labels and the parts that its head was fitted and tested on."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.events.labels import Labels
from qanchor.heads.frame import PART
from qanchor.names import AS_OF, LABEL, SPLITS, USER_ID


@dataclass(frozen=True)
class PartRows:
    """One part of the labelled rows.

    Args:
        part: train, valid or test.
        rows: number of rows.
        users: number of distinct users.
        positives: number of rows with label 1.
        first: earliest time, ISO 8601.
        last: latest time, ISO 8601.
    """

    part: str
    rows: int
    users: int
    positives: int
    first: str
    last: str

    @property
    def rate(self) -> float:
        """Share of label 1."""
        return self.positives / max(self.rows, 1)


@dataclass(frozen=True)
class DataCard:
    """The labels of a scenario and the parts of its head.

    Args:
        labels: number of rows of the whole label set.
        positives: number of its rows with label 1.
        users: number of its distinct users.
        parts: train, valid and test.
        users_in_test_and_train: number of users with rows in both, at different times.
    """

    labels: int
    positives: int
    users: int
    parts: tuple[PartRows, ...]
    users_in_test_and_train: int


def data_card(labels: Labels, scores: pa.Table) -> DataCard:
    """Count the labels and the rows of each part.

    Args:
        labels: current labels of the scenario.
        scores: table with user_id, as_of, label and part of every row of the head.
    """
    parts = {part: scores.filter(pc.equal(scores[PART], part)) for part in SPLITS}
    both = set(parts["train"][USER_ID].to_pylist()) & set(parts["test"][USER_ID].to_pylist())
    return DataCard(
        labels.table.num_rows,
        labels.positives,
        len(pc.unique(labels.table[USER_ID])),
        tuple(_part(name, table) for name, table in parts.items()),
        len(both),
    )


def _part(name: str, table: pa.Table) -> PartRows:
    ends = pc.min_max(table[AS_OF]).as_py()
    return PartRows(
        name,
        table.num_rows,
        len(pc.unique(table[USER_ID])),
        int(np.asarray(table[LABEL]).sum()),
        *(end.isoformat() if end is not None else "" for end in (ends["min"], ends["max"])),
    )
