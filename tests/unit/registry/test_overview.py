"""The overview names what is there and what no longer fits together."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from qanchor.registry.manifests import begin_manifest
from qanchor.registry.overview import ScenarioSummary, read_overview
from qanchor.registry.tables import LabelSet, LedgerFile
from qanchor.registry.versions import register_head, register_index, register_model, register_prompt
from qanchor.workspace import ScenarioSpec, Workspace
from tests.unit.registry.rows import NOON, activate_manifest, head, index, manifest, model, prompt

WORKSPACE = Workspace(
    Path(), 90, {}, {"money": ScenarioSpec(domain="risk", query="Will this user fall behind?")}
)


def _chain(engine: Engine) -> ScenarioSummary:
    return read_overview(engine, WORKSPACE).scenarios[0]


def _embed(engine: Engine) -> int:
    row = begin_manifest(engine, manifest())
    activate_manifest(engine, row, 40, "hash")
    return row.id


def test_an_empty_registry_gives_an_empty_overview(engine: Engine) -> None:
    overview = read_overview(engine, WORKSPACE)
    assert (overview.events.events, overview.model, overview.jobs) == (0, None, ())
    assert overview.scenarios == (ScenarioSummary("money", "risk"),)


def test_the_whole_chain_is_summed_up(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.add(LedgerFile(name="a", event_date="2026-01-01", rows=10, state="published"))
        session.add(LedgerFile(name="b", event_date="2026-02-01", rows=5, state="published"))
        session.add(
            LabelSet(
                scenario="money",
                path="x",
                rows=8,
                positives=2,
                earliest_as_of=datetime(2026, 1, 1),
                content_hash="",
            )
        )
    register_model(engine, model())
    register_prompt(engine, prompt("p1"))
    register_index(engine, index("i1", _embed(engine)))
    register_head(engine, head("h1"))
    overview = read_overview(engine, WORKSPACE)
    assert (overview.events.events, overview.events.files) == (15, 2)
    assert (overview.events.first_date, overview.events.last_date) == ("2026-01-01", "2026-02-01")
    summary = overview.scenarios[0]
    assert summary.tuned_at and summary.embedded_at and summary.indexed_at and summary.head_at
    ageless = replace(summary, tuned_at=None, embedded_at=None, indexed_at=None, head_at=None)
    assert ageless == ScenarioSummary(
        "money", "risk", 8, 0.25, "p1", False, 40, NOON, "f1", 2, False, 0.75, False, True
    )


def test_a_prompt_of_an_earlier_model_is_marked(engine: Engine) -> None:
    register_model(engine, model("m1"))
    register_prompt(engine, prompt("p1"))
    register_model(engine, model("m2"))
    assert _chain(engine).prompt_is_stale


def test_an_index_of_earlier_vectors_is_marked(engine: Engine) -> None:
    register_model(engine, model())
    register_index(engine, index("i1", _embed(engine)))
    _embed(engine)
    assert _chain(engine).index_is_behind


def test_a_head_of_another_space_is_marked(engine: Engine) -> None:
    register_model(engine, model())
    _embed(engine)
    register_head(engine, head("h1", fingerprint="other"))
    assert _chain(engine).head_is_behind


def test_vectors_of_an_earlier_prompt_or_model_are_marked(engine: Engine) -> None:
    register_model(engine, model("m1"))
    _embed(engine)
    assert not _chain(engine).vectors_are_behind
    register_prompt(engine, prompt("p1"))
    assert _chain(engine).vectors_are_behind
    row = begin_manifest(engine, manifest(prompt_version="p1"))
    activate_manifest(engine, row, 40, "hash")
    assert not _chain(engine).vectors_are_behind
    register_model(engine, model("m2"))  # the prompt is of m1, and no longer in use
    assert _chain(engine).vectors_are_behind
