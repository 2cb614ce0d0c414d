"""A Feast store is that of the repository that was named: from any folder, in any thread, after a copy."""

import shutil
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qanchor.home import Home
from qanchor.storage.features import FeatureRepository
from qanchor.workspace import load_workspace
from tests.unit.storage.rows import embedding_rows

pytestmark = [pytest.mark.integration]
_TEMPLATE = Path(__file__).parents[2] / "feature_repo"
_T = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
_DAY = timedelta(days=1)
_SCENARIO = sorted(load_workspace(_TEMPLATE).scenarios)[0]
_VIEW = f"user_emb_{_SCENARIO}"
_REF = f"{_VIEW}:n_events"


class Place:
    """A workspace folder with its repository and home.

    Args:
        folder: of the workspace.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repo = folder / "feature_repo"
        self.home = Home(folder / ".qanchor")

    def write(self, number: int, moment: datetime) -> None:
        """One row of user u, whose n_events is `number`."""
        rows = embedding_rows([("u", moment, moment)] * (number + 1), scenario=_SCENARIO).slice(number)
        features = FeatureRepository(load_workspace(self.repo), self.home)
        features.write_part(_VIEW, rows, f"p{number}")
        features.close()


def _close(store: Any) -> None:
    store._get_provider().online_store.release()
    store.registry.write_engine.dispose()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Place, Place]:
    """Two workspaces; of user u one says 1 and the other 2."""
    for name in ("QANCHOR_HOME", "QANCHOR_REPO", "FEAST_FS_YAML_FILE_PATH"):
        monkeypatch.delenv(name, raising=False)
    made = Place(tmp_path / "a"), Place(tmp_path / "b")
    for number, place in enumerate(made, 1):
        shutil.copytree(_TEMPLATE, place.repo, ignore=shutil.ignore_patterns("__pycache__"))
        features = FeatureRepository(load_workspace(place.repo), place.home)
        features.apply()
        features.close()
        place.write(number, _T)
        features.materialize([_VIEW], _T)
        features.close()
    return made


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Any]]:
    """Opens stores as a user of Feast does, and closes them."""
    from feast import FeatureStore

    stores: list[Any] = []

    def open_store(repo: Path) -> Any:
        stores.append(FeatureStore(repo_path=str(repo)))
        return stores[-1]

    yield open_store
    for store in stores:
        _close(store)


def _online(store: Any) -> Any:
    return store.get_online_features([_REF], {"user_id": ["u"]}).to_dict()["n_events"][0]


def _offline(store: Any) -> Any:
    labels = pd.DataFrame({"user_id": ["u"], "event_timestamp": [_T + timedelta(hours=2)]})
    return store.get_historical_features(labels, [_REF]).to_df()["n_events"][0]


@pytest.mark.parametrize("stands_in", ["the other repository", "the other workspace", "neither"])
@pytest.mark.parametrize("in_thread", [False, True])
def test_the_named_repository_is_opened_from_any_folder_and_thread(
    places: tuple[Place, Place],
    opened: Callable[[Path], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stands_in: str,
    in_thread: bool,
) -> None:
    named, other = places
    folders = {"the other repository": other.repo, "the other workspace": other.folder, "neither": tmp_path}
    monkeypatch.chdir(folders[stands_in])
    seen: list[Any] = []

    def read() -> None:
        store = opened(named.repo)
        seen.extend([_online(store), _offline(store), store.registry.write_engine.url.database])

    if in_thread:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    else:
        read()
    assert seen == [1, 1, str(named.home.feast_registry)]
    assert not (tmp_path / ".qanchor").exists()


def test_stores_of_two_repositories_are_kept_apart(
    places: tuple[Place, Place], opened: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(places[1].repo)
    stores = [opened(place.repo) for place in places]
    assert [(_online(store), _offline(store)) for store in stores] == [(1, 1), (2, 2)]


@pytest.mark.parametrize("original", ["is there", "is gone"])
@pytest.mark.parametrize("joins", ["our join", "Feast's join"])
def test_a_copied_workspace_reads_and_serves_its_home_alone(
    places: tuple[Place, Place],
    opened: Callable[[Path], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    original: str,
    joins: str,
) -> None:
    from qanchor.storage.feast_ext import engine, offline_store

    if joins == "Feast's join":
        # As if no view were in part files: Feast reads the registered source.
        monkeypatch.setattr(offline_store, "view_join", lambda *_: None)
        monkeypatch.setattr(engine, "part_folder", lambda *_: None)
    first, copy = places[0], Place(tmp_path / "copy")
    shutil.copytree(first.folder, copy.folder, symlinks=True)
    if original == "is gone":
        shutil.rmtree(first.folder)
    else:
        first.write(9, _T + timedelta(hours=1))
    copy.write(3, _T + timedelta(hours=1))
    store = opened(copy.repo)
    assert _offline(store) == 3
    store.materialize(_T - _DAY, _T + timedelta(hours=2), feature_views=[_VIEW])
    assert _online(store) == 3
    store.apply(store.get_feature_view(_VIEW))
    if original == "is there":
        assert _online(opened(first.repo)) == 1
    else:
        assert not first.folder.exists()
