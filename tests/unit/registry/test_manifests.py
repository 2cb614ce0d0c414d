"""Vectors are visible once their manifest is active, and only one set of a scenario is."""

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from qanchor.errors import NotReady
from qanchor.registry import manifests
from qanchor.registry.tables import EmbeddingManifest
from qanchor.registry.versions import register_model
from tests.unit.registry.rows import activate_manifest, manifest, model


@pytest.fixture(autouse=True)
def _model(engine: Engine) -> None:
    register_model(engine, model())


def _states(engine: Engine) -> list[str]:
    with Session(engine) as session:
        return [
            row.state for row in session.scalars(select(EmbeddingManifest).order_by(EmbeddingManifest.id))
        ]


def test_a_set_that_is_being_built_is_not_seen(engine: Engine) -> None:
    manifests.begin_manifest(engine, manifest())
    with pytest.raises(NotReady, match="backfill --scenario money"):
        manifests.active_manifest(engine, "money")


def test_activating_retires_the_earlier_set(engine: Engine) -> None:
    for content in ("a", "b"):
        row = manifests.begin_manifest(engine, manifest())
        activate_manifest(engine, row, 5, content)
    serving = manifests.active_manifest(engine, "money")
    assert (serving.content_hash, serving.rows) == ("b", 5)
    assert _states(engine) == ["retired", "active"]


def test_a_set_whose_run_was_killed_is_marked_by_the_next_run(engine: Engine) -> None:
    for _ in range(2):
        manifests.begin_manifest(engine, manifest())
    assert _states(engine) == ["failed", "building"]


def test_a_job_goes_on_with_the_set_that_it_began(engine: Engine) -> None:
    first = manifests.begin_manifest(engine, manifest(job_id=4))
    assert manifests.begin_manifest(engine, manifest(job_id=4)).id == first.id
    assert manifests.begin_manifest(engine, manifest(job_id=5)).id != first.id
    assert _states(engine) == ["failed", "building"]


def test_a_set_that_waits_is_not_seen_and_is_found_by_promotion(engine: Engine) -> None:
    row = manifests.begin_manifest(engine, manifest())
    for state in (manifests.CANDIDATE, manifests.PROMOTING):
        manifests.note_manifest(engine, row, state=state)
        assert manifests.active_manifests(engine, ["money"]) == {}
        assert manifests.waiting_manifests(engine, ["money"])["money"].id == row.id


def test_the_set_that_served_last_is_the_one_to_go_back_to(engine: Engine) -> None:
    rows = [manifests.begin_manifest(engine, manifest(job_id=n)) for n in (1, 2, 3)]
    for number in (0, 1, 0, 2):
        manifests.activate_manifests(engine, {"money": rows[number]})
    assert manifests.earlier_manifests(engine, ["money"])["money"].id == rows[0].id
    assert _states(engine) == ["retired", "retired", "active"]


def test_scenarios_do_not_touch_each_other(engine: Engine) -> None:
    for scenario in ("money", "fraud"):
        row = manifests.begin_manifest(engine, manifest(scenario))
        activate_manifest(engine, row, 5, scenario)
    found = manifests.active_manifests(engine, ["fraud", "money", "value"])
    assert [row.content_hash for row in found.values()] == ["fraud", "money"]


def test_part_names_sort_by_manifest_then_number() -> None:
    names = [manifests.part_name(owner, number) for owner in (2, 10) for number in (0, 3, 11)]
    assert names == sorted(names)
