"""Label sets: (user, as-of time, label) rows of a scenario, and the one rule that divides them into parts."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sqlalchemy import Engine

from qanchor.errors import LabelsInvalid, NotReady, PartIncomplete
from qanchor.events.ceilings import take_ceiling
from qanchor.events.label_arrivals import arrivals, read_arrivals, write_arrivals
from qanchor.events.label_rows import LABEL_SCHEMA, read_label_rows
from qanchor.files import atomic_file
from qanchor.home import Home
from qanchor.names import AS_OF, EVENT_TIME, FOLD, LABEL, SPLIT, SPLITS, USER_ID
from qanchor.registry.session import transaction
from qanchor.registry.tables import LabelSet, utc_now
from qanchor.settings import EventSettings
from qanchor.storage.event_log import EventLog
from qanchor.workspace import Workspace

Part = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Labels:
    """The labels of one scenario.

    Args:
        scenario: name of the scenario.
        table: user_id, as_of, label int8, fold int16 or null, split string or null, sorted by user and time.
    """

    scenario: str
    table: pa.Table

    @property
    def divided_by(self) -> Literal["split", "fold", "hash"]:
        """What the parts come from: a column of the file, or a hash of the user."""
        if self.table[SPLIT].null_count < self.table.num_rows:
            return "split"
        return "fold" if self.table[FOLD].null_count < self.table.num_rows else "hash"

    @cached_property
    def folds(self) -> tuple[int, ...]:
        """The folds present, ascending; empty without a fold column."""
        return tuple(sorted(pc.unique(self.table[FOLD].drop_null()).to_pylist()))

    @property
    def positives(self) -> int:
        """Rows with another label than 0."""
        return int(np.count_nonzero(np.asarray(self.table[LABEL])))

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over all rows, independent of the order and format of the file they came from."""
        digest = hashlib.sha256()
        table = self.table.combine_chunks()
        digest.update("\0".join(table[USER_ID].to_pylist()).encode())
        digest.update(np.asarray(table[AS_OF].cast(pa.int64())).tobytes())
        digest.update(np.asarray(table[LABEL]).tobytes())
        digest.update(np.asarray(table[FOLD].fill_null(-1)).tobytes())
        digest.update("\0".join(table[SPLIT].fill_null("").to_pylist()).encode())
        return digest.hexdigest()

    def test_fold(self, test_fold: int | None = None) -> int | None:
        """The fold that is tested on: `test_fold`, or else the highest; None without folds.

        Raises:
            LabelsInvalid: these labels do not have that fold.
        """
        if test_fold is None:
            return self.folds[-1] if self.folds else None
        if test_fold not in self.folds:
            known = ", ".join(map(str, self.folds)) or f"none, they are divided by {self.divided_by}"
            raise LabelsInvalid(f"labels of {self.scenario} have no fold {test_fold}", f"Folds: {known}.")
        return test_fold

    def part(self, part: Part, test_fold: int | None = None) -> pa.Table:
        """The rows of one part: to fit on, to choose with, or to report.

        By the file's split; or by fold: test is `test_fold` (default: the highest), valid the next lower
        one (from the lowest on to the highest again), train the rest; or, with neither, 70/10/20 by a
        stable hash of the user, so that a user's rows stay together.

        Args:
            part: train, valid or test.
            test_fold: another test fold than the highest.

        Returns:
            The table's rows of that part, in the same order.

        Raises:
            LabelsInvalid: these labels do not have that fold.
        """
        return self.table.filter(pa.array(self.part_indexes(test_fold) == SPLITS.index(part)))

    def part_indexes(self, test_fold: int | None = None) -> NDArray[np.int8]:
        """The index of each row's part in SPLITS, (rows,), by the rule of `part`."""
        chosen = self.test_fold(test_fold)
        if chosen is not None:
            valid = self.folds[self.folds.index(chosen) - 1]
            folds = np.asarray(self.table[FOLD])
            indexes = np.where(folds == chosen, 2, np.where(folds == valid, 1, 0))
        elif self.divided_by == "split":
            indexes = np.asarray(pc.index_in(self.table[SPLIT], pa.array(SPLITS)))
        else:
            shares = np.array([hash_share(user) for user in self.table[USER_ID].to_pylist()])
            indexes = np.digitize(shares, (0.7, 0.8))
        return np.asarray(indexes, dtype=np.int8)


def hash_share(user: str) -> float:
    """A number in [0, 1) from a user's id, the same in every process and version."""
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest()) / 2.0**64


@dataclass(frozen=True)
class LoadedLabels:
    """What `labels load` stored.

    Args:
        labels: the rows.
        parts: number of rows of each part.
        without_history: number of rows with no event before their as_of; None where the event log is empty.
        warnings: what is allowed but suspicious, one sentence each.
    """

    labels: Labels
    parts: dict[str, int]
    without_history: int | None
    warnings: tuple[str, ...]


class LabelLoader:
    """Checks label files and puts them in use; the event log is read once for all of them.

    Args:
        home: of the workspace.
        engine: the registry.
        workspace: names the scenarios.
        bounds: times that are refused; default: the settings' defaults.
    """

    def __init__(
        self, home: Home, engine: Engine, workspace: Workspace, bounds: EventSettings | None = None
    ) -> None:
        self._home = home
        self._engine = engine
        self._workspace = workspace
        self._bounds = bounds or EventSettings()

    def load(self, path: Path, scenario: str) -> LoadedLabels:
        """Check a label file and put it in use for its scenario; it replaces the one before.

        Args:
            path: Parquet or CSV with user_id, as_of, label and, optionally, fold or split.
            scenario: name of the scenario.

        Raises:
            UnknownScenario: scenarios.yaml does not name it.
            LabelsInvalid: the file breaks the contract; the message names row and column. Nothing is written.
        """
        classes = len(self._workspace.scenario(scenario).answers)
        labels = Labels(scenario, read_label_rows(path, self._bounds, classes))
        parts, warnings = _check_parts(labels)
        without = self._without_history(labels)
        if without is None:
            warnings.append("The event log is empty: load events before anything that reads histories.")
        elif without == labels.table.num_rows:
            raise LabelsInvalid(
                f"every label of {path.name} is before all events of its user",
                "Load the users' earlier events, or correct user_id and as_of.",
            )
        elif without:
            share = without / labels.table.num_rows
            warnings.append(
                f"{without:,} of {labels.table.num_rows:,} rows ({share:.1%}) have no event before as_of."
            )
        arrived = self._arrivals(labels)
        with atomic_file(self._home.labels / f"{scenario}.parquet") as staged:
            pq.write_table(labels.table, staged)
        write_arrivals(self._home, scenario, arrived)
        take_ceiling(path, scenario, self._home)
        _register(labels, self._home, self._engine)
        return LoadedLabels(labels, parts, without, tuple(warnings))

    def _arrivals(self, labels: Labels) -> pa.Table:
        """The time at which each row first arrived; new rows arrive now."""
        known = read_arrivals(self._home, labels.scenario)
        with transaction(self._engine) as session:
            row = session.get(LabelSet, labels.scenario)
        if known is None and row is not None:
            # Labels of an earlier version have no arrivals: they arrived when they were loaded.
            with suppress(NotReady):
                before = read_labels(self._home, labels.scenario).table
                known = arrivals(before, None, row.created_at.replace(tzinfo=UTC))
        return arrivals(labels.table, known, datetime.now(UTC))

    def _without_history(self, labels: Labels) -> int | None:
        """Rows with no event before as_of; None where there are no events at all."""
        if not self._first_events.num_rows:
            return None
        rows = labels.table.select([USER_ID, AS_OF]).join(self._first_events, USER_ID)
        before = pc.fill_null(pc.less(rows["first"], rows[AS_OF]), False)
        return int(rows.num_rows) - int(pc.sum(before).as_py() or 0)

    @cached_property
    def _first_events(self) -> pa.Table:
        """The time of each user's first event: user_id and first."""
        with EventLog(self._home.events, self._workspace).connect() as connection:
            return connection.execute(
                f"SELECT {USER_ID}, min({EVENT_TIME}) AS first FROM events GROUP BY {USER_ID}"
            ).to_arrow_table()


def _check_parts(labels: Labels) -> tuple[dict[str, int], list[str]]:
    """Number of rows of each part, and warnings.

    Raises:
        LabelsInvalid: the file has one class, too few folds, or a part or fold with no row or one class.
    """
    rows = labels.table.num_rows
    if labels.positives in (0, rows):
        raise PartIncomplete(
            f"all {rows:,} labels of {labels.scenario} are {min(labels.positives, 1)}",
            "Give rows with both label 0 and label 1.",
        )
    if labels.divided_by == "fold" and len(labels.folds) < 3:
        raise LabelsInvalid(
            f"{len(labels.folds)} fold(s) of {labels.scenario} leave a part empty",
            "Give three folds or more: test, valid, train.",
        )
    counts: dict[str, int] = {}
    warnings: list[str] = []
    for part in SPLITS:
        table = labels.part(part)
        counts[part] = table.num_rows
        ones = int(np.count_nonzero(np.asarray(table[LABEL])))
        if ones not in (0, table.num_rows):
            continue
        content = f"only label {min(ones, 1)}" if table.num_rows else "no rows"
        problem = f"part {part} of {labels.scenario} has {content}"
        if labels.divided_by != "hash":
            raise PartIncomplete(f"{problem}, by column {labels.divided_by}", "Give every part both labels.")
        warnings.append(f"By hash of the user, {problem}: give more rows or a split column.")
    _check_folds(labels)
    if labels.divided_by != "hash":
        warnings.extend(_users_in_several_parts(labels))
    return counts, warnings


def _check_folds(labels: Labels) -> None:
    for fold in labels.folds:
        held = labels.table.filter(pc.equal(labels.table[FOLD], pa.scalar(fold, pa.int16())))[LABEL]
        if pc.count_distinct(held).as_py() < 2:
            raise PartIncomplete(
                f"column fold of {labels.scenario}: fold {fold} has only label {held[0].as_py()}",
                "Give every fold both labels.",
            )
    gaps = set(range(labels.folds[0], labels.folds[-1])) - set(labels.folds) if labels.folds else set()
    if gaps:
        raise LabelsInvalid(
            f"column fold of {labels.scenario}: fold {min(gaps)} is empty", "Number the folds without a gap."
        )


def _users_in_several_parts(labels: Labels) -> Iterator[str]:
    users = [set(labels.part(part)[USER_ID].to_pylist()) for part in SPLITS]
    both = len((users[0] | users[1]) & users[2])
    if both:
        yield f"{both:,} users are in the test part and in another one: fine at a later time, else a leak."


def _register(labels: Labels, home: Home, engine: Engine) -> None:
    earliest: datetime = pc.min(labels.table[AS_OF]).as_py()
    row = LabelSet(
        scenario=labels.scenario,
        path=str(home.labels / f"{labels.scenario}.parquet"),
        rows=labels.table.num_rows,
        positives=labels.positives,
        earliest_as_of=earliest.astimezone(UTC).replace(tzinfo=None),
        content_hash=labels.content_hash,
        created_at=utc_now(),
    )
    with transaction(engine) as session:
        session.merge(row)


def read_labels(home: Home, scenario: str) -> Labels:
    """The labels in use for a scenario.

    Raises:
        NotReady: none are loaded, or their file is damaged; run `qanchor-cli labels load`.
    """
    path = home.labels / f"{scenario}.parquet"
    remedy = f"Run `qanchor-cli labels load {scenario} FILE`."
    if not path.exists():
        raise NotReady(f"scenario {scenario} has no labels", remedy)
    try:
        return Labels(scenario, pq.read_table(path, schema=LABEL_SCHEMA))
    except (pa.ArrowInvalid, OSError) as error:
        raise NotReady(f"{path} cannot be read: {error}", remedy) from error


def _label_sets(home: Home) -> Iterator[Labels]:
    for path in sorted(home.labels.glob("*.parquet")):
        yield read_labels(home, path.stem)


def earliest_cutoff(home: Home) -> datetime | None:
    """The earliest as_of of any label set that is not a training row's; pre-training stops before it.

    Only a split says that a row stays a training row: of sets with folds or neither, all rows count.

    Returns:
        UTC, or None without labels.
    """
    earliest: list[datetime] = []
    for labels in _label_sets(home):
        table = labels.table
        if labels.divided_by == "split":
            table = table.filter(pc.not_equal(table[SPLIT], "train"))
        if table.num_rows:
            earliest.append(pc.min(table[AS_OF]).as_py())
    return min(earliest, default=None)


def holdout_users(home: Home) -> set[str]:
    """Users with split == "test" in any label set, who are kept out of pre-training."""
    users: set[str] = set()
    for labels in _label_sets(home):
        if labels.divided_by == "split":
            users.update(labels.part("test")[USER_ID].to_pylist())
    return users
