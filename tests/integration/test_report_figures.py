"""The report's figures equal scikit-learn's on the saved scores; a wrong one is detected."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report_figures import check_report
from qanchor.heads.train import train_head
from qanchor.progress import Silent
from qanchor.report.files import write_report
from qanchor.report.summary import summarise
from tests.unit.heads.fakes import FAST, SCENARIO, add_manifest, small_world

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A report.json, and the home of the heads that it is of."""
    folder = tmp_path_factory.mktemp("figures")
    world = small_world(folder, rows=900, seed=3)
    add_manifest(world)
    train_head(world.site, SCENARIO, FAST, Silent())
    write_report(summarise(world.site, [SCENARIO], Silent()), folder / "out" / "report.html")
    return folder / "out" / "report.json", world.site.home.root


def test_every_figure_equals_an_independent_computation(written: tuple[Path, Path]) -> None:
    differences = check_report(*written)[SCENARIO]
    assert max(differences.values()) <= 1e-9, {
        name: value for name, value in differences.items() if value > 1e-9
    }
    for kind in ("head: auc", "probe: brier", "aggregates: lift_10", "calibration: observed", "ks threshold"):
        assert kind in differences
    assert sum(name.startswith("segment") for name in differences) >= 8


@pytest.mark.parametrize(
    ("path", "broken"),
    [
        (("head", "metrics", "head", "auc"), "head: auc"),
        (("head", "metrics", "probe", "ece"), "probe: ece"),
        (("head", "segments", 0, "auc"), "auc"),
        (("confusion", "true_positives"), "decisions: true_positives"),
        (("campaigns", 2, "gain", "value"), "campaign 10%: gain"),
        (("calibration", "observed", 0), "calibration: observed"),
    ],
)
def test_a_figure_that_is_off_is_found(
    written: tuple[Path, Path], tmp_path: Path, path: tuple[str | int, ...], broken: str
) -> None:
    report, home = written
    shutil.copytree(report.parent / "scores", tmp_path / "scores")
    content = json.loads(report.read_text())
    inner = content["scenarios"][0]
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] += 1e-6
    (tmp_path / "report.json").write_text(json.dumps(content))
    differences = check_report(tmp_path / "report.json", home)[SCENARIO]
    wrong = [name for name, value in differences.items() if value > 1e-9 or not np.isfinite(value)]
    assert wrong
    assert any(broken in name for name in wrong)
