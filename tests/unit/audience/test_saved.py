"""A saved audience can be found again, and combined; what has changed since is said."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.audience import saved as saved_module
from qanchor.audience.algebra import Operation, combine, compare
from qanchor.audience.candidates import CandidateRules
from qanchor.audience.describe import Words
from qanchor.audience.lookalike import LookalikeRequest, find_lookalikes
from qanchor.audience.population import Population
from qanchor.audience.saved import read_members, replay, save_audience, write_audience_version
from qanchor.audience.scorers import DirectionScorer
from qanchor.errors import AudienceInvalid, StateError
from qanchor.home import Home
from qanchor.registry.audiences import find_audience, list_audiences
from qanchor.registry.migrate import prepare
from qanchor.registry.session import open_engine
from qanchor.registry.tables import Audience, new_version
from qanchor.site import Site
from tests.unit.audience.worlds import WIDTH, clustered, names, population_of
from tests.unit.embedding.world import make_workspace

REQUEST = LookalikeRequest(names(30), 50, "auto", rules=CandidateRules(exclude=names(5, 100)))


def _save(site: Site, name: str = "good", population: Population | None = None) -> Audience:
    population = population or population_of(clustered())
    return save_audience(site, name, population, REQUEST, find_lookalikes(population, REQUEST))


def _serve(monkeypatch: pytest.MonkeyPatch, population: Population) -> None:
    monkeypatch.setattr(saved_module, "open_population", lambda *_: population)


def test_an_audience_keeps_what_it_was_made_of(site: Site) -> None:
    row = _save(site)
    assert (row.kind, row.scenario, row.rows, row.index_version) == ("lookalike", "money", 50, "v1")
    assert row.parameters["method"] == "auto"
    assert row.parameters["chosen_method"] in row.parameters["held_out_recall"]
    members = read_members(site, find_audience(site.engine, "good"))
    assert members["user_id"].to_pylist() == (
        find_lookalikes(population_of(clustered()), REQUEST).table["user_id"].to_pylist()
    )


def test_versions_of_a_name_stay_and_the_newest_is_meant(site: Site) -> None:
    first, second = _save(site), _save(site)
    assert find_audience(site.engine, "good").version == second.version
    assert find_audience(site.engine, f"good@{first.version}").version == first.version
    assert {row.version for row in list_audiences(site.engine)} == {first.version, second.version}
    with pytest.raises(AudienceInvalid, match="audience list"):
        find_audience(site.engine, "good@nope")


def test_a_replay_on_the_same_index_gives_the_same_members(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _save(site)
    _serve(monkeypatch, population_of(clustered()))
    result = replay(site, "good")
    assert (result.same, result.added, result.removed, result.changes) == (True, 0, 0, ())


def test_a_replay_on_another_index_says_what_changed(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _save(site)
    other = population_of(clustered(seed=5))
    _serve(monkeypatch, Population("money", other.index, "v2"))
    result = replay(site, "good")
    assert not result.same
    assert result.added == result.removed > 0
    assert "the index is v2, it was v1" in result.changes


def test_words_are_read_anew_for_a_replay(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    population, request = population_of(clustered()), LookalikeRequest((), 20)
    words = DirectionScorer(np.eye(WIDTH, dtype=np.float32)[1:2])
    found = find_lookalikes(population, request, words)
    save_audience(site, "told", population, request, found, "often tea")
    _serve(monkeypatch, population)
    asked: list[str] = []

    def read(site: Site, population: Population, text: str) -> Words:
        asked.append(text)
        return Words(text, (), False, words)

    monkeypatch.setattr("qanchor.audience.describe.read_words", read)

    assert replay(site, "told").same
    assert asked == ["often tea"]


def test_members_that_were_changed_are_not_used(site: Site) -> None:
    row = _save(site)
    path = site.home.root / row.path
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(StateError, match="were changed"):
        read_members(site, row)
    path.unlink()
    with pytest.raises(StateError, match="cannot be read"):
        read_members(site, row)


@pytest.mark.parametrize("name", ["", "../up", "A", "a b", "x" * 65, "a@b"])
def test_an_invalid_name_is_refused(site: Site, name: str) -> None:
    with pytest.raises(AudienceInvalid, match="is invalid"):
        _save(site, name)
    assert not list_audiences(site.engine)


def _keep(site: Site, name: str, users: list[str]) -> None:
    row = Audience(version=new_version(), name=name, kind="lookalike", scenario=name, parameters={})
    write_audience_version(site, row, pa.table({"user_id": pa.array(users, pa.string())}))


@settings(max_examples=15, deadline=None)
@given(
    sets=st.lists(st.lists(st.sampled_from(names(8)), min_size=1, unique=True), min_size=2, max_size=3),
    operation=st.sampled_from(["union", "intersect", "subtract"]),
)
def test_set_algebra_is_that_of_sets(
    sets: list[list[str]], operation: Operation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("set")
    url = f"sqlite:///{folder / 'qanchor.db'}"
    engine = open_engine(url)
    prepare(engine, url)
    site = Site.at(make_workspace(folder / "repo"), Home(folder), engine)
    given_names = [f"a{number}" for number in range(len(sets))]
    for name, users in zip(given_names, sets, strict=True):
        _keep(site, name, users)
    first, others = set(sets[0]), [set(users) for users in sets[1:]]
    wanted = {
        "union": first.union(*others),
        "intersect": first.intersection(*others),
        "subtract": first.difference(*others),
    }[operation]
    if wanted:
        row = combine(site, operation, given_names, "new")
        users = read_members(site, row)["user_id"].to_pylist()
        assert set(users) == wanted
        assert len(users) == len(wanted)
    else:
        with pytest.raises(AudienceInvalid, match="would be empty"):
            combine(site, operation, given_names, "new")
    pairs = compare(site, given_names)
    assert pairs[0].both == len(first & others[0])
    engine.dispose()


def test_the_best_rank_leads_and_a_result_cannot_be_replayed(site: Site, tmp_path: Path) -> None:
    _keep(site, "one", ["c", "a", "b"])
    _keep(site, "two", ["d", "b"])
    row = combine(site, "union", ["one", "two"], "both")
    assert read_members(site, row)["user_id"].to_pylist() == ["c", "d", "a", "b"]
    assert [name.split("@")[0] for name in row.parameters["of"]] == ["one", "two"]
    with pytest.raises(AudienceInvalid, match="made by union of others"):
        replay(site, "both")
    with pytest.raises(AudienceInvalid, match="one audience alone"):
        compare(site, ["one"])
