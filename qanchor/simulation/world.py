"""A simulated world written to disk: events, labels, ceilings; block by block, so memory stays bounded."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.files import atomic_file, write_atomically
from qanchor.names import SPLITS
from qanchor.progress import Progress, Silent
from qanchor.simulation.ceiling import ceiling, future_frequencies
from qanchor.simulation.config import BLOCK_USERS, WorldPlan
from qanchor.simulation.emission import emit
from qanchor.simulation.life import Life, block_rng, live
from qanchor.simulation.outcomes import SCENARIOS, lived_horizon, outcomes
from qanchor.simulation.state import Floats, Ints
from qanchor.times import TIMESTAMP

FILE_USERS = 50_000
# Files of an earlier world, finished or not.
_STALE = ("*.parquet", "*.json", "labels/*.parquet", ".*.tmp", "labels/.*.tmp")
LABEL_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("as_of", TIMESTAMP),
        ("label", pa.int8()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True)
class Block:
    """One block's part of the world.

    Args:
        events: events as EVENT_SCHEMA, in order of arrival.
        user: number of the user of each label row, (rows,).
        day: day of the cut-off of each label row, (rows,).
        split: index into SPLITS of each label row, (rows,).
        labels: the ten labels of each row, bool (rows, SCENARIOS).
        halves: true probabilities of the test rows from two independent sets of futures, each
            (test rows, SCENARIOS); empty without ceilings.
    """

    events: pa.Table
    user: Ints
    day: Ints
    split: Ints
    labels: NDArray[np.bool_]
    halves: tuple[Floats, Floats]


def _label_rows(plan: WorldPlan, life: Life, users: int) -> tuple[Ints, Ints]:
    """(user in block, day) of every label row, by user and day; a user has no label before joining."""
    pairs = [(np.flatnonzero(life.split == 0), day) for day in plan.train_days]
    pairs += [
        (np.flatnonzero(life.split == 1), plan.valid_day),
        (np.flatnonzero(life.split == 2), plan.test_day),
    ]
    user = np.concatenate([u for u, _ in pairs])
    day = np.concatenate([np.full(len(u), d) for u, d in pairs])
    keep = (user < users) & (life.first.joined[user] <= day)
    order = np.lexsort((day[keep], user[keep]))
    return user[keep][order], day[keep][order]


def simulate_block(plan: WorldPlan, block: int, ceilings: bool = True) -> Block:
    """One block of the world; it depends on the plan's seed and dates and on nothing else.

    Args:
        plan: plan of the world.
        block: number of the block, from 0.
        ceilings: whether to simulate the test users' futures too.
    """
    first = block * BLOCK_USERS
    users = min(BLOCK_USERS, plan.users - first)
    life = live(plan, block)
    events, spent = emit(plan, life, first, users, block_rng(plan, block, 1))
    user, day = _label_rows(plan, life, users)
    labels = np.zeros((len(user), len(SCENARIOS)), dtype=bool)
    for cutoff in np.unique(day):
        rows = day == cutoff
        horizon = lived_horizon(plan, int(cutoff), life.active, life.counts, spent)
        labels[rows] = outcomes(horizon)[user[rows]]
    nothing = np.zeros((0, len(SCENARIOS)))
    halves = (nothing, nothing)
    if ceilings:
        state = life.test_state.take(user[life.split[user] == 2])
        rng = block_rng(plan, block, 2)
        first_half = future_frequencies(plan, state, plan.paths // 2, rng)
        halves = (first_half, future_frequencies(plan, state, plan.paths // 2, rng))
    return Block(events, user + first, day, life.split[user], labels, halves)


class _Tables:
    """The Parquet files of a world; they get their names when the stack ends, all or none.

    Args:
        stack: closes the files.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._open: dict[Path, pq.ParquetWriter] = {}

    def write(self, path: Path, rows: pa.Table) -> None:
        if path not in self._open:
            staged = self._stack.enter_context(atomic_file(path))
            writer = pq.ParquetWriter(staged, rows.schema, compression="zstd")
            self._open[path] = self._stack.enter_context(writer)
        self._open[path].write_table(rows)


def _label_table(plan: WorldPlan, block: Block, scenario: int) -> pa.Table:
    """The labels of one scenario in one block, as LABEL_SCHEMA."""
    return pa.table(
        {
            "user_id": pa.array([f"u{number:07d}" for number in block.user], pa.string()),
            "as_of": pa.array([plan.moment(int(day)) for day in block.day], TIMESTAMP),
            "label": pa.array(block.labels[:, scenario].astype(np.int8)),
            "split": pa.array([SPLITS[i] for i in block.split], pa.string()),
        },
        schema=LABEL_SCHEMA,
    )


def _blocks(plan: WorldPlan, progress: Progress) -> Iterator[tuple[int, Block]]:
    progress.start("simulate", plan.users)
    with_ceiling = 0
    for number in range(plan.blocks):
        block = simulate_block(plan, number, with_ceiling < plan.ceiling_users)
        with_ceiling += len(block.halves[0])
        yield number, block
        progress.advance(min(BLOCK_USERS, plan.users - number * BLOCK_USERS))


def simulate(
    plan: WorldPlan, out: Path, progress: Progress | None = None, file_users: int = FILE_USERS
) -> dict[str, Any]:
    """Write a world: events, labels, ceilings.json, truth.parquet and world.json.

    Args:
        plan: plan of the world.
        out: output folder; created if missing, files of an earlier world are replaced.
        progress: bar that advances with every block.
        file_users: users in each file of events.

    Returns:
        The content of world.json.
    """
    for stale in (p for pattern in _STALE for p in out.glob(pattern)):
        stale.unlink()
    halves: list[tuple[Floats, Floats]] = []
    labels: list[NDArray[np.bool_]] = []
    tested: list[Ints] = []
    events = rows = 0
    with ExitStack() as stack:
        tables = _Tables(stack)
        for number, block in _blocks(plan, progress or Silent()):
            part = "" if plan.users <= file_users else f"-{number * BLOCK_USERS // file_users + 1:05d}"
            tables.write(out / f"events{part}.parquet", block.events)
            for column, scenario in enumerate(SCENARIOS):
                tables.write(out / "labels" / f"{scenario}.parquet", _label_table(plan, block, column))
            events, rows = events + block.events.num_rows, rows + len(block.user)
            if len(block.halves[0]):
                halves.append(block.halves)
                test = block.split == SPLITS.index("test")
                labels.append(block.labels[test])
                tested.append(block.user[test])
    _write_truth(out / "truth.parquet", tested, halves)
    _write_json(out / "ceilings.json", _ceilings(halves, labels))
    world = {**asdict(plan), "start": plan.moment(0).isoformat(), "event_rows": events, "label_rows": rows}
    del world["shift_days"]
    world |= {"test_as_of": plan.moment(plan.test_day).isoformat(), "end": plan.moment(plan.days).isoformat()}
    _write_json(out / "world.json", world)
    return world


def _write_truth(path: Path, users: list[Ints], halves: list[tuple[Floats, Floats]]) -> None:
    """The true probabilities behind the ceilings, by user: for evaluation, never for models."""
    if not halves:
        return
    mean = np.concatenate([(a + b) / 2 for a, b in halves])
    ids = [f"u{number:07d}" for number in np.concatenate(users)]
    truth = pa.table({"user_id": ids, **{name: mean[:, i] for i, name in enumerate(SCENARIOS)}})
    with atomic_file(path) as staged:
        pq.write_table(truth, staged)


def _ceilings(halves: list[tuple[Floats, Floats]], labels: list[NDArray[np.bool_]]) -> dict[str, Any]:
    if not halves:
        return {}
    a, b = (np.concatenate([pair[i] for pair in halves]) for i in range(2))
    rows = np.concatenate(labels)
    return {name: asdict(ceiling((a[:, i], b[:, i]), rows[:, i])) for i, name in enumerate(SCENARIOS)}


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    write_atomically(path, json.dumps(content, indent=2) + "\n")
