"""Built sets as pre-training takes them: whole cells, shared questions, nothing that it must not see."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qanchor.errors import InputError, NotReady
from qanchor.times import DAY_US
from qanchor.training.useru.load import load_pairs
from qanchor.training.useru.pairs import PairSet, UserUConfig
from qanchor.training.useru.store import PAIRS, read_pairs
from tests.unit.training.useru.worlds import END, WORKSPACE, build, visible

CONFIG = UserUConfig(cell=4, questions=2, held_share=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built set."""
    path = tmp_path_factory.mktemp("sets") / "set"
    build(path)
    return path


def _load(folder: Path, seed: int = 0, config: UserUConfig = CONFIG) -> PairSet:
    return load_pairs(folder, visible(), WORKSPACE, END, config, seed)


def test_every_pair_is_one_of_the_set(folder: Path) -> None:
    pairs = _load(folder)
    rows = read_pairs(folder).to_pylist()
    stored = {
        (row["user_id"], int(row["cutoff"].timestamp() * 1e6), row["days"], row["question"], row["answer"])
        for row in rows
    }
    loaded = {
        (
            pairs.users[pairs.points.rows[point]],
            int(pairs.points.cutoffs[point]),
            int(pairs.days[point, slot]),
            pairs.questions[pairs.question[point, slot]],
            pairs.answer_text(point, slot),
        )
        for point in range(len(pairs.points))
        for slot in range(2)
    }
    assert loaded <= stored
    users = {pairs.users[row] for row in pairs.points.rows[: pairs.trained].tolist()}
    ours = [pair for pair in stored if pair[0] in users]
    assert len({pair for pair in loaded if pair[0] in users}) > 0.8 * len(ours)


def test_training_rows_are_whole_cells_and_held_users_are_in_none(folder: Path) -> None:
    pairs = _load(folder)
    assert pairs.trained % CONFIG.cell == 0
    trained, held = pairs.points.rows[: pairs.trained], pairs.points.rows[pairs.trained :]
    assert len(held)
    assert set(trained.tolist()).isdisjoint(held.tolist())


def test_a_point_is_asked_about_both_past_and_future_when_it_first_comes(folder: Path) -> None:
    pairs = _load(folder)
    points = np.stack([pairs.points.rows, pairs.points.cutoffs])[:, : pairs.trained]
    days = pairs.days[: np.unique(points, axis=1).shape[1]]
    assert ((days < 0).any(axis=1) & (days > 0).any(axis=1)).mean() > 0.95


def test_users_of_a_cell_share_questions(folder: Path) -> None:
    pairs = _load(folder)
    most = [
        max(np.bincount(pairs.question[at : at + CONFIG.cell, slot]))
        for at in range(0, pairs.trained, CONFIG.cell)
        for slot in range(CONFIG.questions)
    ]
    assert np.mean(most) > 2


def test_summaries_are_of_the_spans_that_are_asked_about(folder: Path) -> None:
    pairs = _load(folder)
    assert set(pairs.summaries) == set(np.unique(pairs.days).tolist())
    assert all(len(numbers) == len(pairs.points) for numbers in pairs.summaries.values())


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(folder: Path) -> None:
    one, same, other = _load(folder), _load(folder), _load(folder, seed=1)
    assert np.array_equal(one.question, same.question)
    assert not np.array_equal(one.question, other.question)


def test_pairs_of_users_who_may_not_be_seen_are_left_out(folder: Path) -> None:
    arrays = visible()
    table = read_pairs(folder)
    excluded = arrays.users[3]
    from qanchor.events.history import arrays_from_table
    from qanchor.training.useru.points import visible_events
    from tests.unit.training.worlds import tiny_events

    fewer = visible_events(arrays_from_table(tiny_events(), WORKSPACE), END, frozenset({excluded}))
    pairs = load_pairs(folder, fewer, WORKSPACE, END, CONFIG, 0)
    seen = {pairs.users[row] for row in pairs.points.rows.tolist()}
    assert excluded in table["user_id"].to_pylist()
    assert excluded not in seen
    assert len(seen) > 10


def test_a_set_that_looks_past_the_end_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="reach past the end"):
        load_pairs(folder, visible(), WORKSPACE, END - 20 * DAY_US, CONFIG, 0)


def test_a_set_about_nobody_who_may_be_seen_is_refused(folder: Path, tmp_path: Path) -> None:
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    (strangers / "useru.json").write_bytes((folder / "useru.json").read_bytes())
    table = read_pairs(folder)
    users = pa.array(["nobody"] * table.num_rows)
    pq.write_table(table.set_column(1, "user_id", users), strangers / PAIRS)
    with pytest.raises(NotReady, match="no pair of"):
        _load(strangers)


def test_a_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="no set of pairs"):
        _load(tmp_path)


def test_more_questions_than_a_point_has_pairs_are_asked_twice(folder: Path) -> None:
    pairs = _load(folder, config=replace(CONFIG, questions=30))
    assert pairs.question.shape[1] == 30
