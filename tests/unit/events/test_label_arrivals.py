"""When labels came in, over several loads."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qanchor.errors import NotReady
from qanchor.events.label_arrivals import ARRIVED, arrivals, arrivals_path, read_arrivals
from qanchor.events.labels import LabelLoader
from qanchor.home import Home
from qanchor.registry.session import open_engine, transaction
from qanchor.registry.tables import Base, LabelSet
from tests.unit.heads.fakes import NOON, SCENARIO, small_workspace

USERS = [f"u{place:03d}" for place in range(40)]


@pytest.fixture
def loader(tmp_path: Path) -> LabelLoader:
    engine = open_engine(f"sqlite:///{tmp_path / 'home' / 'qanchor.db'}")
    Base.metadata.create_all(engine)
    return LabelLoader(Home(tmp_path / "home"), engine, small_workspace(tmp_path))


def file_of(path: Path, users: list[str], moment: datetime = NOON) -> Path:
    rows = {"user_id": users, "as_of": [moment] * len(users), "label": [i % 2 for i in range(len(users))]}
    pq.write_table(pa.table(rows), path)
    return path


def test_a_label_keeps_its_first_arrival_and_a_new_one_comes_in_now() -> None:
    first, second = NOON + timedelta(days=30), NOON + timedelta(days=60)
    labels = pa.table({"user_id": ["a", "b"], "as_of": pa.array([NOON] * 2, pa.timestamp("us", tz="UTC"))})
    known = arrivals(labels.slice(0, 1), None, first)
    assert arrivals(labels, known, second)[ARRIVED].to_pylist() == [first, second]


def test_loading_again_keeps_arrivals_and_drops_those_of_labels_that_are_gone(
    loader: LabelLoader, tmp_path: Path
) -> None:
    loader.load(file_of(tmp_path / "one.parquet", USERS[:30]), SCENARIO)
    home = Home(tmp_path / "home")
    before = read_arrivals(home, SCENARIO)
    assert before is not None
    began = datetime.now(UTC)
    loader.load(file_of(tmp_path / "two.parquet", USERS[5:]), SCENARIO)
    after = read_arrivals(home, SCENARIO)
    assert after is not None
    assert after["user_id"].to_pylist() == USERS[5:]
    assert after[ARRIVED].to_pylist()[:25] == before[ARRIVED].to_pylist()[5:]
    assert min(after[ARRIVED].to_pylist()[25:]) >= began


def test_labels_of_a_home_without_arrivals_came_in_when_they_were_loaded(
    loader: LabelLoader, tmp_path: Path
) -> None:
    loader.load(file_of(tmp_path / "one.parquet", USERS[:30]), SCENARIO)
    home = Home(tmp_path / "home")
    arrivals_path(home, SCENARIO).unlink()
    with transaction(open_engine(f"sqlite:///{home.root / 'qanchor.db'}")) as session:
        row = session.get(LabelSet, SCENARIO)
        assert row is not None
        row.created_at = datetime(2026, 4, 1)
    loader.load(file_of(tmp_path / "two.parquet", USERS), SCENARIO)
    found = read_arrivals(home, SCENARIO)
    assert found is not None
    assert set(found[ARRIVED].to_pylist()[:30]) == {datetime(2026, 4, 1, tzinfo=UTC)}
    assert found[ARRIVED].to_pylist()[30].year >= datetime.now(UTC).year


def test_a_damaged_file_of_arrivals_is_named(loader: LabelLoader, tmp_path: Path) -> None:
    loader.load(file_of(tmp_path / "one.parquet", USERS), SCENARIO)
    path = arrivals_path(Home(tmp_path / "home"), SCENARIO)
    path.write_bytes(b"nonsense")
    with pytest.raises(NotReady, match="Delete it and run"):
        loader.load(file_of(tmp_path / "two.parquet", USERS), SCENARIO)
