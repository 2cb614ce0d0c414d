"""Planted faults of a head in service: each raises its own alarm, and a healthy one raises none."""

from pathlib import Path

import numpy as np
import pytest

from qanchor.embedding.gates import centroid_drift
from qanchor.monitoring.drift import component_psi
from qanchor.monitoring.monitor import watched_scenarios
from qanchor.names import score_view
from tests.unit.heads.fakes import SCENARIO, add_manifest, small_world
from tests.unit.monitoring.service import (
    Service,
    drawn,
    vectors_of,
)

TODAY = 45.0


def test_a_healthy_head_raises_no_alarm(service: Service) -> None:
    states = service.states(TODAY)
    # The event log is empty, so nobody is known to be active.
    assert {name for name, state in states.items() if state == "unknown"} == {"embedding_coverage"}
    assert set(states.values()) == {"ok", "unknown"}
    assert len(states) == 13


def test_scores_of_another_distribution_raise_one_alarm(service: Service) -> None:
    service.publish(35, service.calibrated**0.3)
    health = service.look(TODAY)
    assert [check.name for check in health.alarms] == ["score_psi"]
    assert str(health.alarms[0]).startswith("score_psi is ")
    assert [run["day"] for run in health.runs] == ["2026-03-01", "2026-04-05"]
    assert health.runs[0]["psi"] < 0.1
    assert health.runs[1]["psi"] > 0.25


def test_vectors_of_another_distribution_raise_their_alarms(service: Service) -> None:
    vectors = vectors_of(service.world)
    moved = vectors + np.float32(1.5) * np.roll(np.eye(8, dtype=np.float32)[0], 3)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    service.serve(35, moved)
    assert service.alarms(TODAY) == ["embedding_psi", "centroid_drift"]
    # The same rows in another order are the same distribution.
    service.serve(35, vectors[::-1])
    assert service.alarms(TODAY) == []


def test_broken_vectors_are_counted(service: Service) -> None:
    vectors = vectors_of(service.world)
    vectors[3] = np.nan
    vectors[4] *= 2
    service.serve(35, vectors)
    health = service.look(TODAY)
    assert [check.name for check in health.alarms] == ["bad_vectors"]
    assert health.alarms[0].value == pytest.approx(2 / len(vectors))


def test_vectors_of_another_space_are_an_alarm_and_no_drift(service: Service) -> None:
    add_manifest(service.world, fingerprint="e" * 32)
    service.serve(35, vectors_of(service.world))
    states = service.states(TODAY)
    assert service.alarms(TODAY) == ["head_serves"]
    assert (states["embedding_psi"], states["centroid_drift"]) == ("unknown", "unknown")


def test_an_edited_head_is_an_alarm(service: Service) -> None:
    card = service.site.home.heads / SCENARIO / service.head / "card.json"
    card.write_text(card.read_text().replace('"rounds"', '"round"'))
    health = service.look(TODAY)
    assert [check.name for check in health.alarms] == ["head_serves"]
    assert "was changed since it was written" in health.alarms[0].note


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_scores_that_do_not_come_true_are_an_alarm(service: Service, power: float) -> None:
    service.label(0, 40, drawn(service.calibrated**power))
    health = service.look(TODAY)
    assert [check.name for check in health.alarms] == ["calibration_error"]
    (cohort,) = health.calibration
    assert (cohort["month"], cohort["rows"], cohort["head"]) == ("2026-03", 1500, service.head)
    assert (cohort["rate"] > cohort["mean_score"]) == (power < 1)


def test_labels_count_only_once_their_outcome_is_known_and_they_are_there(service: Service) -> None:
    service.label(0, 40, drawn(service.calibrated**0.3))
    unknown = {"calibration_error": "unknown", "label_delay_days": "unknown"}
    for at in (29.9, 39.9):
        states = service.states(at)
        assert {name: states[name] for name in unknown} == unknown
    assert service.states(40)["calibration_error"] == "alarm"
    # Some banks write an outcome down early; it is not known before the horizon has passed.
    service.label(0, 5, drawn(service.calibrated**0.3))
    assert service.states(29.9)["calibration_error"] == "unknown"
    assert service.states(30)["calibration_error"] == "alarm"


def test_scores_made_with_hindsight_do_not_count(service: Service) -> None:
    service.publish(0, np.array(drawn(service.calibrated), dtype=float) * 0.9 + 0.05, created=30.5)
    assert service.states(TODAY)["calibration_error"] == "unknown"


def test_scores_and_labels_after_the_moment_change_nothing(service: Service) -> None:
    before = service.look(TODAY)
    service.publish(35.5, service.calibrated**0.2, created=50)
    assert service.look(TODAY) == before
    assert service.look(51) != before


def test_labels_that_do_not_come_are_an_alarm_after_their_time(service: Service) -> None:
    (service.site.home.labels / f"{SCENARIO}.parquet").unlink()
    # The first run's outcome is known on day 30; 45 days are allowed.
    assert "label_wait_days" not in service.alarms(74)
    assert "label_wait_days" in service.alarms(76)
    checks = {check.name: check for check in service.look(76).checks}
    assert checks["label_wait_days"].value == pytest.approx(46)
    assert checks["labelled_share"].value == 0


def test_labels_of_the_first_run_let_the_second_one_wait_for_its_own(service: Service) -> None:
    checks = {check.name: check for check in service.look(70).checks}
    assert checks["label_wait_days"].value == pytest.approx(5)
    assert checks["labelled_share"].value == pytest.approx(0.5)
    assert checks["label_delay_days"].value == pytest.approx(10)


def test_old_vectors_and_scores_are_alarms(service: Service) -> None:
    assert {"embedding_age_days", "score_age_days"} <= set(service.alarms(66))
    checks = {check.name: check for check in service.look(66).checks}
    assert checks["embedding_age_days"].value == pytest.approx(31)


def test_few_scored_users_are_an_alarm(service: Service) -> None:
    service.publish(35, service.calibrated[:1200])
    (service.site.home.view(score_view(SCENARIO)) / "000.0.parquet").unlink()
    health = service.look(TODAY)
    assert [check.name for check in health.alarms] == ["score_coverage"]
    assert health.alarms[0].value == pytest.approx(0.8)


def test_without_a_head_or_scores_nothing_is_judged(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    assert watched_scenarios(world.site) == []
    add_manifest(world)
    assert watched_scenarios(world.site) == [SCENARIO]
    service = Service(world.site, world, "none", np.empty(0))
    health = service.look(TODAY)
    assert (health.alarms, health.head, health.runs, health.calibration) == ((), None, (), ())


def test_figures_of_vectors_are_what_they_are_called() -> None:
    random = np.random.default_rng(0)
    still = random.normal(size=(4000, 3)).astype(np.float32)
    moved = random.normal(size=(4000, 3)).astype(np.float32) + np.array([0, 0, 1], dtype=np.float32)
    drifts = component_psi(still, moved)
    assert drifts[:2].max() < 0.02
    # Two normal distributions a standard deviation apart: (0 - 1)^2 in the limit of many bins.
    assert drifts[2] == pytest.approx(1, abs=0.15)
    one = np.array([[1.0, 0.0]], dtype=np.float32)
    assert centroid_drift(one, one[:, ::-1]) == pytest.approx(1)
