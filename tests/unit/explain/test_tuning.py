"""Explanations of tuning, by a random small model and frames with tuned vectors of the same model."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from qanchor.embedding.spaces import Space
from qanchor.events.history import Int64, load_event_arrays
from qanchor.explain import tuning as tested
from qanchor.explain.tuning import ScenarioRows, TuningExplanation, TuningOptions, explain_tuning
from qanchor.heads.calibrate import Calibration
from qanchor.heads.frame import HeadFrame
from qanchor.home import Home
from qanchor.linear_probe import ProbeRows, fit_probe
from qanchor.metrics import roc_auc
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.soft_prompt import SoftPrompt
from qanchor.progress import Silent
from qanchor.registry.session import open_engine
from qanchor.registry.tables import ModelVersion
from qanchor.site import Site
from qanchor.workspace import ScenarioSpec
from tests.unit.explain.test_edited_log import Log
from tests.unit.explain.test_event_effects import LOADED, WIDTH, card
from tests.unit.model.worlds import HOUR, QUERIES, START, WORKSPACE, event_table

TABLE = event_table(5, 60, 2400)
USERS, ROWS = 60, 240
PROMPT = SoftPrompt(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), torch.zeros(2, WIDTH))
CUTOFFS = START + (20 + np.arange(ROWS) % 17) * 24 * HOUR
LABELS = (np.random.default_rng(1).random(ROWS) < 0.4).astype(np.int64)
PART = np.repeat(np.array([0, 1, 2], np.int8), [120, 50, 70])


class CountingEmbedder(UserEmbedder):
    """Counts its calls."""

    calls: list[int]

    def embed(self, arrays: Any, rows: Int64, cutoffs: Int64, questions: Any) -> Any:
        self.calls.append(len(questions))
        return super().embed(arrays, rows, cutoffs, questions)


def vectors_of(query: Query) -> Any:
    arrays = load_event_arrays(Log(TABLE), WORKSPACE)
    rows = arrays.user_rows([f"u{row % USERS}" for row in range(ROWS)])
    return UserEmbedder(LOADED).embed(arrays, rows, CUTOFFS, [query])[0]


def scenario(name: str, query: Query, fingerprint: str = "f") -> ScenarioRows:
    """A head's frame whose vectors in service are those of a query."""
    table = pa.table(
        {
            "user_id": [f"u{row % USERS}" for row in range(ROWS)],
            "as_of": pa.array(CUTOFFS, pa.int64()).cast(pa.timestamp("us", "UTC")),
            "label": LABELS,
            f"emb_{name}": pa.array(vectors_of(query).tolist(), pa.list_(pa.float32())),
        }
    )
    level = Calibration("level", (0.0,), (0.0,), 1.0)
    made = card(level).model_copy(update={"scenario": name, "fingerprint": fingerprint})
    return ScenarioRows(made, HeadFrame(name, table, PART, WIDTH, "m1"))


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Explain scenarios with given queries; the stored model and the log are replaced."""
    embedder = CountingEmbedder(LOADED)
    embedder.calls = []

    def run(given: list[tuple[ScenarioRows, Query]], options: TuningOptions | None = None) -> Any:
        queries = {rows.card.scenario: query for rows, query in given}

        def spaces(_site: Site, names: list[str], _precision: str) -> list[Space]:
            model = ModelVersion(version="m1", path="models/m1")
            return [Space(name, queries[name].text, model, None, None, "f") for name in names]

        def load(_site: Site, chosen: list[Space]) -> Any:
            return embedder, [queries[space.scenario] for space in chosen]

        monkeypatch.setattr(tested, "active_spaces", spaces)
        monkeypatch.setattr(tested, "load_embedder", load)
        monkeypatch.setattr(Site, "event_log", Log(TABLE))
        monkeypatch.setattr(tested, "event_words", lambda _: Counter({"tea": 1, "coffee": 1, "rent": 1}))
        spec = ScenarioSpec(
            domain="risk", query="Will this user buy?", positive="buys tea", negative="no tea"
        )
        workspace = replace(WORKSPACE, scenarios=dict.fromkeys(queries, spec))
        site = Site.at(workspace, Home(tmp_path), open_engine("sqlite://"))
        rows = [one for one, _ in given]
        return explain_tuning(site, rows, Silent(), options), embedder.calls

    return run


def test_a_tuned_scenario_is_compared_with_its_untuned_vectors_on_the_same_rows(look: Any) -> None:
    query = Query(QUERIES[0], PROMPT)
    results, _ = look([(scenario("risk", query), query)])
    one = results["risk"]
    assert isinstance(one, TuningExplanation)
    assert one.gain is not None
    assert (one.gain.rows, one.gain.sampled) == ({"train": 120, "valid": 50, "test": 70}, False)
    for side, made in (("base", Query(QUERIES[0])), ("tuned", query)):
        vectors = vectors_of(made)
        train, valid, test = (part == PART for part in range(3))
        probe = fit_probe(ProbeRows(vectors[train], LABELS[train], vectors[valid], LABELS[valid]))
        expected = roc_auc(LABELS[test], probe.predict(vectors[test]))
        assert getattr(one.gain, side)["auc"] == pytest.approx(expected, abs=1e-9)
    assert one.gain.test_rows.tolist() == list(range(170, 240))
    assert one.zero_label is not None
    assert one.zero_label.auc.value == pytest.approx(roc_auc(LABELS[170:], one.zero_label.scores))
    assert (one.attention.users, one.attention.prompt is not None) == (70, True)
    assert [chart.name for chart in one.maps] == ["pca_base", "pca_tuned", "tsne_base", "tsne_tuned"]


def test_an_untuned_scenario_has_no_before_and_after(look: Any) -> None:
    query = Query(QUERIES[1])
    results, _ = look([(scenario("risk", query), query)])
    one = results["risk"]
    assert one.gain is None
    assert one.attention.prompt is None
    assert [chart.name for chart in one.maps] == ["pca_tuned", "tsne_tuned"]


def test_scenarios_of_the_same_histories_are_embedded_in_one_pass_as_if_alone(look: Any) -> None:
    first, second = Query(QUERIES[0], PROMPT), Query(QUERIES[1], PROMPT)
    given = [(scenario("risk", first), first), (scenario("tea", second), second)]
    both, calls = look(given)
    assert calls == [2]
    alone, _ = look(given[1:])
    # Vectors agree to float32 whoever stands beside them, and so do the figures.
    assert alone["tea"].gain.base == pytest.approx(both["tea"].gain.base, rel=1e-5)
    shares = [[shift.before for shift in results["tea"].attention.modalities] for results in (alone, both)]
    assert shares[0] == pytest.approx(shares[1], rel=1e-5)


def test_a_head_of_another_space_is_said_to_need_a_new_one(look: Any) -> None:
    query = Query(QUERIES[0], PROMPT)
    fits = scenario("risk", query)
    results, _ = look([(fits, query), (scenario("tea", query, fingerprint="other"), query)])
    assert "train the head again" in results["tea"]
    assert isinstance(results["risk"], TuningExplanation)


def test_a_frame_without_vectors_is_said_to_have_none(look: Any) -> None:
    query = Query(QUERIES[0], PROMPT)
    rows = scenario("risk", query)
    empty = pa.nulls(ROWS, pa.list_(pa.float32()))
    column = rows.frame.table.column_names.index("emb_risk")
    frame = replace(rows.frame, table=rows.frame.table.set_column(column, "emb_risk", empty))
    results, calls = look([(replace(rows, frame=frame), query)])
    assert (results["risk"], calls) == ("No test row has an embedding.", [])


def test_more_rows_than_asked_for_are_sampled_and_said_so(look: Any) -> None:
    query = Query(QUERIES[0], PROMPT)
    options = TuningOptions(users=20, points=30, rows={"train": 60, "valid": 50, "test": 50})
    results, _ = look([(scenario("risk", query), query)], options)
    one = results["risk"]
    assert (one.gain.rows, one.gain.sampled) == ({"train": 60, "valid": 50, "test": 50}, True)
    assert one.attention.users == 20
    assert all(sum(len(series.x) for series in chart.series) == 30 for chart in one.maps)
