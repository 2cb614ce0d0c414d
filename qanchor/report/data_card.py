"""The labels of a scenario as its head met them: a data card."""

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
        rows: how many.
        users: distinct.
        positives: rows with label 1.
        first: earliest time, ISO 8601.
        last: latest time.
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
    """What a head was fitted and tested on.

    Args:
        labels: rows of the whole label set.
        positives: of them with label 1.
        users: distinct users of the whole label set.
        parts: train, valid and test, as the head met them.
        users_in_test_and_train: users with rows in both; their rows differ in time.
    """

    labels: int
    positives: int
    users: int
    parts: tuple[PartRows, ...]
    users_in_test_and_train: int


def data_card(labels: Labels, scores: pa.Table) -> DataCard:
    """Count the labels and the rows of each part.

    Args:
        labels: of the scenario as they are now.
        scores: user_id, as_of, label and part of every row that the head was fitted or tested on.
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
