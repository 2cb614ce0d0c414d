from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from qanchor.charts.tuning_curves import step_chart, token_chart, tuning_curves
from qanchor.registry.session import transaction
from qanchor.registry.tables import PromptVersion
from tests.unit.heads.fakes import SCENARIO, add_manifest, small_world

COURSE = {"valid_auc_by_step": [[0, 0.61], [20, 0.7], [40, 0.69]], "best_step": 20, "tokens": 6}


def add_prompt(engine: Engine, version: str, metrics: dict[str, Any]) -> None:
    with transaction(engine) as session:
        session.add(
            PromptVersion(
                version=version,
                scenario=SCENARIO,
                model_version="m1",
                path=f"models/m1/prompts/{version}",
                content_hash="0" * 64,
                test_fold=4,
                metrics=metrics,
                active=False,
            )
        )


def test_the_course_of_the_tuning_is_drawn_with_the_step_that_was_kept() -> None:
    chart = step_chart(COURSE)
    assert chart is not None
    assert (chart.series[0].x, chart.series[0].y) == ([0, 20, 40], [0.61, 0.7, 0.69])
    assert chart.rules == ((20.0, "kept"),)
    assert chart.y.low < 0.61
    assert chart.y.high > 0.7


def test_small_differences_are_not_magnified() -> None:
    chart = token_chart({2: 0.7001, 6: 0.7002}, 6)
    assert chart is not None
    assert chart.y.high - chart.y.low > 0.02


def test_tokens_are_compared_over_all_tunings_of_the_model(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    add_manifest(world, prompt_fold=4)
    engine = world.site.engine
    add_prompt(engine, "p2", {"tokens": 2, "valid_auc_tuned_probe": 0.60})
    add_prompt(engine, "p3", {"tokens": 2, "valid_auc_tuned_probe": 0.65})
    add_prompt(engine, "p4", COURSE | {"valid_auc_tuned_probe": 0.70})
    curves = tuning_curves(world.site, SCENARIO, "p4")
    assert [chart.name for chart in curves.charts] == ["tuning_steps", "tuning_tokens"]
    assert curves.tokens is not None
    assert (curves.tokens.series[0].x, curves.tokens.series[0].y) == ([2, 6], [0.65, 0.70])
    assert curves.missing == ()


def test_what_was_not_recorded_is_said_to_be_absent(tmp_path: Path) -> None:
    world = small_world(tmp_path)
    add_manifest(world, prompt_fold=4)
    curves = tuning_curves(world.site, SCENARIO, "p1")
    assert curves.charts == ()
    assert "not recorded" in curves.missing[0]
    assert "--tokens 2" in curves.missing[1]
    untuned = tuning_curves(world.site, SCENARIO, None)
    assert untuned.charts == ()
    assert "untuned" in untuned.missing[0]
