"""A simulated world written to disk: events, labels, ceilings; block by block, so memory stays bounded."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.names import SPLITS
from qanchor.progress import Progress, Silent
from qanchor.simulation.ceiling import ceiling, imagine
from qanchor.simulation.config import BLOCK_USERS, WorldPlan
from qanchor.simulation.emission import EVENT_SCHEMA, emit
from qanchor.simulation.life import Life, block_rng, live
from qanchor.simulation.outcomes import SCENARIOS, lived_horizon, outcomes
from qanchor.simulation.state import Floats, Ints

FILE_USERS = 50_000
LABEL_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("as_of", pa.timestamp("us", tz="UTC")),
        ("label", pa.int8()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True)
class Block:
    """One block's part of the world.

    Args:
        events: as EVENT_SCHEMA, in order of arrival.
        user: number of the user of each label row, (rows,).
        day: of the cut-off of each label row, (rows,).
        split: index into SPLITS of each label row, (rows,).
        answers: the ten labels of each row, bool (rows, SCENARIOS).
        halves: true probabilities of the test rows from two independent sets of futures, each
            (test rows, SCENARIOS); empty where they were not asked for.
    """

    events: pa.Table
    user: Ints
    day: Ints
    split: Ints
    answers: NDArray[np.bool_]
    halves: tuple[Floats, Floats]


def _label_rows(plan: WorldPlan, life: Life, users: int) -> tuple[Ints, Ints]:
    """(user in block, day) of every label row, by user and day; nobody is asked about before joining."""
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
        plan: the world.
        block: which block, from 0.
        ceilings: imagine the test users' futures too.
    """
    first = block * BLOCK_USERS
    users = min(BLOCK_USERS, plan.users - first)
    life = live(plan, block)
    events, spent = emit(plan, life, first, users, block_rng(plan, block, 1))
    user, day = _label_rows(plan, life, users)
    answers = np.zeros((len(user), len(SCENARIOS)), dtype=bool)
    for cutoff in np.unique(day):
        rows = day == cutoff
        horizon = lived_horizon(plan, int(cutoff), life.active, life.counts, spent)
        answers[rows] = outcomes(horizon)[user[rows]]
    nothing = np.zeros((0, len(SCENARIOS)))
    halves = (nothing, nothing)
    if ceilings:
        state = life.test_state.take(user[life.split[user] == 2])
        rng = block_rng(plan, block, 2)
        halves = (imagine(plan, state, plan.paths // 2, rng), imagine(plan, state, plan.paths // 2, rng))
    return Block(events, user + first, day, life.split[user], answers, halves)


class _Output:
    """The files of a world being written; none has its final name before all are complete."""

    def __init__(self, plan: WorldPlan, out: Path) -> None:
        self.plan, self.out = plan, out
        (out / "labels").mkdir(parents=True, exist_ok=True)
        self._open: dict[Path, pq.ParquetWriter] = {}

    def events_path(self, block: int) -> Path:
        if self.plan.users <= FILE_USERS:
            return self.out / "events.parquet"
        return self.out / f"events-{block * BLOCK_USERS // FILE_USERS + 1:05d}.parquet"

    def _writer(self, path: Path, schema: pa.Schema) -> pq.ParquetWriter:
        if path not in self._open:
            self._open[path] = pq.ParquetWriter(path.with_suffix(".partial"), schema, compression="zstd")
        return self._open[path]

    def write(self, number: int, block: Block) -> None:
        path = self.events_path(number)
        for other in [p for p in self._open if p.name.startswith("events") and p != path]:
            self._finish(other)
        self._writer(path, EVENT_SCHEMA).write_table(block.events)
        for column, scenario in enumerate(SCENARIOS):
            table = label_table(self.plan, block, column)
            self._writer(self.out / "labels" / f"{scenario}.parquet", LABEL_SCHEMA).write_table(table)

    def _finish(self, path: Path) -> None:
        self._open.pop(path).close()
        path.with_suffix(".partial").replace(path)

    def finish(self) -> None:
        for path in list(self._open):
            self._finish(path)


def label_table(plan: WorldPlan, block: Block, scenario: int) -> pa.Table:
    """The labels of one scenario in one block, as LABEL_SCHEMA."""
    return pa.table(
        {
            "user_id": pa.array([f"u{number:07d}" for number in block.user], pa.string()),
            "as_of": pa.array([plan.moment(int(day)) for day in block.day], pa.timestamp("us", tz="UTC")),
            "label": pa.array(block.answers[:, scenario].astype(np.int8)),
            "split": pa.array([SPLITS[i] for i in block.split], pa.string()),
        },
        schema=LABEL_SCHEMA,
    )


def _blocks(plan: WorldPlan, progress: Progress) -> Iterator[tuple[int, Block]]:
    progress.start("simulate", plan.users)
    asked = 0
    for number in range(plan.blocks):
        block = simulate_block(plan, number, asked < plan.ceiling_users)
        asked += len(block.halves[0])
        yield number, block
        progress.advance(min(BLOCK_USERS, plan.users - number * BLOCK_USERS))


def simulate(plan: WorldPlan, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Write a world: events, labels, ceilings.json, truth.parquet and world.json.

    Args:
        plan: the world.
        out: folder to write to; made if missing, files of an earlier world are replaced.
        progress: told about every block.

    Returns:
        What world.json holds.
    """
    for stale in [
        *out.glob("*.parquet"),
        *out.rglob("*.partial"),
        *out.glob("*.json"),
        *out.glob("labels/*.parquet"),
    ]:
        stale.unlink()
    output = _Output(plan, out)
    halves: list[tuple[Floats, Floats]] = []
    answers: list[NDArray[np.bool_]] = []
    tested: list[Ints] = []
    events = rows = 0
    for number, block in _blocks(plan, progress or Silent()):
        output.write(number, block)
        events, rows = events + block.events.num_rows, rows + len(block.user)
        if len(block.halves[0]):
            halves.append(block.halves)
            test = block.split == SPLITS.index("test")
            answers.append(block.answers[test])
            tested.append(block.user[test])
    output.finish()
    _write_truth(out / "truth.parquet", tested, halves)
    _write_json(out / "ceilings.json", _ceilings(halves, answers))
    world = {**asdict(plan), "start": plan.start.isoformat(), "event_rows": events, "label_rows": rows}
    world |= {"test_as_of": plan.moment(plan.test_day).isoformat(), "end": plan.moment(plan.days).isoformat()}
    _write_json(out / "world.json", world)
    return world


def _write_truth(path: Path, users: list[Ints], halves: list[tuple[Floats, Floats]]) -> None:
    """The true probabilities that the ceilings were measured on, by user: for judges, never for models."""
    if not halves:
        return
    mean = np.concatenate([(a + b) / 2 for a, b in halves])
    ids = [f"u{number:07d}" for number in np.concatenate(users)]
    pq.write_table(pa.table({"user_id": ids, **{name: mean[:, i] for i, name in enumerate(SCENARIOS)}}), path)


def _ceilings(halves: list[tuple[Floats, Floats]], answers: list[NDArray[np.bool_]]) -> dict[str, Any]:
    if not halves:
        return {}
    a, b = (np.concatenate([pair[i] for pair in halves]) for i in range(2))
    labels = np.concatenate(answers)
    return {name: asdict(ceiling((a[:, i], b[:, i]), labels[:, i])) for i, name in enumerate(SCENARIOS)}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
