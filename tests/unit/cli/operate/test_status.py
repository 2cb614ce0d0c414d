"""`status` names what is old, what alarms, and the one command that is due."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cli.operate.status import next_command
from qanchor.monitoring.checks import Check
from qanchor.monitoring.monitor import ScenarioHealth
from qanchor.monitoring.records import LastCheck, record
from qanchor.registry.overview import EventSummary, ModelSummary, Overview, ScenarioSummary
from qanchor.registry.session import transaction
from qanchor.registry.tables import LedgerFile, PromptVersion
from qanchor.registry.versions import active_model, register_prompt
from tests.unit.cli.conftest import Run, run_json
from tests.unit.embedding.world import World

NOW = datetime(2026, 9, 1, tzinfo=UTC)
DONE = ScenarioSummary(
    "money",
    "risk",
    labels=10,
    positive_share=0.5,
    prompt="p1",
    vectors=5,
    as_of=NOW - timedelta(days=1),
    fingerprint="f",
    indexed=5,
    head_auc=0.7,
    head_at=NOW,
)
EMPTY = ScenarioSummary("login", "risk")
MODEL = ModelSummary("m1", "tiny", NOW, NOW)
LOG = EventSummary(10, 1, "2026-01-01", "2026-08-31")


def due(
    *scenarios: ScenarioSummary,
    log: EventSummary = LOG,
    model: ModelSummary | None = MODEL,
    checks: dict[str, LastCheck] | None = None,
) -> str | None:
    ttl = {one.scenario: 30 for one in scenarios}
    return next_command(Overview(log, model, scenarios, ()), checks or {}, ttl, NOW)


def test_the_chain_is_followed_in_its_order() -> None:
    assert (
        due(EMPTY, log=EventSummary(0, 0, None, None), model=None) == "qanchor-cli events load events.parquet"
    )
    assert due(EMPTY, model=None) == "qanchor-cli pretrain"
    assert due(EMPTY) == "qanchor-cli backfill --all"
    assert due(DONE, EMPTY) == "qanchor-cli backfill --scenario login"
    assert due(replace(DONE, indexed=None)) == "qanchor-cli index build --all"
    assert due(replace(DONE, head_at=None)) == "qanchor-cli head train --all"
    assert due(replace(DONE, head_at=None, labels=None)) is None
    assert due(DONE) is None


@pytest.mark.parametrize(
    ("old", "command"),
    [
        (replace(DONE, prompt_is_stale=True), "tune"),
        (replace(DONE, vectors_are_behind=True), "backfill"),
        (replace(DONE, index_is_behind=True), "index build"),
        (replace(DONE, head_is_behind=True), "head train"),
    ],
)
def test_what_is_old_is_made_again(old: ScenarioSummary, command: str) -> None:
    other = replace(DONE, scenario="brand")
    assert due(old, other) == f"qanchor-cli {command} --scenario money"


def test_expired_vectors_are_refreshed_where_there_are_later_events() -> None:
    expired = replace(DONE, as_of=NOW - timedelta(days=31))
    assert due(expired) == "qanchor-cli refresh --all"
    assert due(expired, log=replace(LOG, last_date="2026-08-01")) is None


def test_an_alarm_is_looked_into_last() -> None:
    alarm = {"money": LastCheck(NOW, ("embedding_psi",))}
    assert due(DONE, checks=alarm) == "qanchor-cli monitor --all"
    assert due(DONE, checks={"money": LastCheck(NOW, ())}) is None


def test_a_new_prompt_before_the_backfill_is_named(world: World, run: Run) -> None:
    run("backfill", "--all")
    with transaction(world.engine) as session:
        session.add(LedgerFile(name="a", event_date="2026-01-01", rows=10, state="published"))
    name = next(iter(world.workspace.scenarios))
    version = active_model(world.engine).version
    register_prompt(
        world.engine,
        PromptVersion(
            version="p9", scenario=name, model_version=version, path="", content_hash="h", metrics={}
        ),
    )
    at = datetime(2026, 8, 1, 12, tzinfo=UTC)
    alarm = Check("embedding_psi", 0.4, 0.25, "alarm")
    record(world.home, [ScenarioHealth(name, at, "h1", (alarm,), (), ())])

    code, out, _ = run("status")
    assert code == 0
    assert f"old: vectors of an earlier prompt or model serve: {name}\n" in out
    assert f"alarm: {name}: embedding_psi (2026-08-01 12:00 UTC)\n" in out
    assert f"next: qanchor-cli backfill --scenario {name}\n" in out
    assert out.count("next:") == 1
    document = run_json(run, "status")
    row = next(row for row in document["scenarios"] if row["scenario"] == name)
    assert (row["vectors_are_behind"], row["alarms"]) == (True, ["embedding_psi"])
    assert row["checked_at"] == "2026-08-01T12:00:00Z"
    assert document["next"] == f"qanchor-cli backfill --scenario {name}"
    assert json.dumps(document)
