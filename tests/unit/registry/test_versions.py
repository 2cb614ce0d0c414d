"""What serves: one version of each thing, the newest that was registered."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from qanchor.errors import NotReady
from qanchor.registry import versions
from qanchor.registry.tables import Head, ModelVersion, PromptVersion, Scenario
from qanchor.workspace import ScenarioSpec, Workspace
from tests.unit.registry.rows import head, index, manifest, model, prompt


def _count(engine: Engine, kind: type[ModelVersion] | type[PromptVersion], **where: object) -> int:
    with Session(engine) as session:
        return session.scalar(select(func.count()).select_from(kind).filter_by(**where)) or 0


def test_the_newest_model_serves_and_the_earlier_one_is_kept(engine: Engine) -> None:
    versions.register_model(engine, model("m1"))
    versions.register_model(engine, model("m2"))
    assert versions.active_model(engine).version == "m2"
    assert _count(engine, ModelVersion) == 2
    assert _count(engine, ModelVersion, active=True) == 1


def test_a_registration_that_fails_leaves_the_earlier_version_active(engine: Engine) -> None:
    versions.register_model(engine, model("m1"))
    broken = model("m2", metrics={"loss": object()})  # no JSON
    with pytest.raises(Exception, match="JSON"):
        versions.register_model(engine, broken)
    assert versions.active_model(engine).version == "m1"


@pytest.mark.parametrize(
    ("ask", "remedy"),
    [
        (versions.active_model, "pretrain"),
        (lambda engine: versions.active_index(engine, "money"), "index build --scenario money"),
        (lambda engine: versions.active_head(engine, "money"), "head train --scenario money"),
    ],
    ids=["model", "index", "head"],
)
def test_what_was_never_made_names_the_command_that_makes_it(engine: Engine, ask, remedy: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NotReady, match=remedy):
        ask(engine)


def test_a_prompt_of_one_scenario_leaves_the_others_alone(engine: Engine) -> None:
    versions.register_model(engine, model("m1"))
    for row in (prompt("p1"), prompt("p2", "fraud"), prompt("p3")):
        versions.register_prompt(engine, row)
    found = versions.active_by_scenario(engine, PromptVersion, ["fraud", "money", "value"])
    assert {name: row.version for name, row in found.items()} == {"fraud": "p2", "money": "p3"}


def test_a_prompt_of_an_earlier_model_stays_and_names_its_model(engine: Engine) -> None:
    versions.register_model(engine, model("m1"))
    versions.register_prompt(engine, prompt("p1"))
    versions.register_model(engine, model("m2"))
    kept = versions.active_by_scenario(engine, PromptVersion, ["money"])["money"]
    assert (kept.version, kept.model_version) == ("p1", "m1")


def test_an_earlier_prompt_is_put_back_in_use_and_the_others_stay_as_they_are(engine: Engine) -> None:
    versions.register_model(engine, model("m1"))
    for version, scenario in (("p1", "money"), ("p2", "money"), ("q1", "takeout")):
        versions.register_prompt(engine, prompt(version, scenario))
    assert versions.use_prompt(engine, "money", "p1").version == "p1"
    in_use = versions.active_by_scenario(engine, PromptVersion, ["money", "takeout"])
    assert {name: row.version for name, row in in_use.items()} == {"money": "p1", "takeout": "q1"}
    with pytest.raises(NotReady, match=r"has no prompt 'q1'.*p2, p1"):
        versions.use_prompt(engine, "money", "q1")
    with pytest.raises(NotReady, match="has 2 prompts 'p'"):
        versions.use_prompt(engine, "money", "p")
    assert versions.active_by_scenario(engine, PromptVersion, ["money"])["money"].version == "p1"


def test_index_and_head_are_handed_out_by_scenario(engine: Engine) -> None:
    versions.register_model(engine, model("m1"))
    with Session(engine) as session, session.begin():
        session.add(manifest(id=7))
    versions.register_index(engine, index("i1", 7))
    versions.register_index(engine, index("i2", 7))
    versions.register_head(engine, head("h1"))
    assert versions.active_index(engine, "money").version == "i2"
    assert versions.active_head(engine, "money").version == "h1"
    assert versions.active_by_scenario(engine, Head, ["fraud"]) == {}


def test_scenarios_follow_the_file_and_those_gone_from_it_stay(engine: Engine) -> None:
    money = ScenarioSpec(domain="risk", query="Will this user fall behind?")
    fraud = ScenarioSpec(domain="risk", query="Is this account honest?")
    workspace = Workspace(Path(), 90, {}, {"money": money, "fraud": fraud})
    versions.sync_scenarios(engine, workspace)
    changed = money.model_copy(update={"query": "Will this user pay late?"})
    versions.sync_scenarios(engine, replace(workspace, scenarios={"money": changed}))
    with Session(engine) as session:
        queries = {row.name: row.query for row in session.scalars(select(Scenario))}
    assert queries == {"money": "Will this user pay late?", "fraud": "Is this account honest?"}
