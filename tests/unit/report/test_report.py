import json
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy import select

from qanchor.errors import CheckpointInvalid, NotReady
from qanchor.heads.train import train_head
from qanchor.progress import Silent
from qanchor.registry.session import transaction
from qanchor.registry.tables import PromptVersion
from qanchor.registry.versions import active_head
from qanchor.report.files import report_json, write_report
from qanchor.report.summary import ReportSummary, summarise
from tests.unit.heads.fakes import FAST, SCENARIO, World, add_manifest, small_world

CHARTS = ["roc", "gain", "lift", "ks", "scores", "calibration", "importance", "pca_tuned"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = small_world(tmp_path)
    add_manifest(made, prompt_fold=4)
    train_head(made.site, SCENARIO, FAST, Silent())
    return made


def summary_of(world: World) -> ReportSummary:
    return summarise(world.site, [SCENARIO], Silent())


def test_the_summary_repeats_the_figures_of_the_head(world: World) -> None:
    summary = summary_of(world)
    (one,) = summary.scenarios
    figures = report_json(summary)["scenarios"][0]
    head = active_head(world.site.engine, SCENARIO)
    assert figures["head"]["metrics"]["head"] == head.metrics["test"]["head"]
    assert [chart.name for chart in one.all_charts] == CHARTS
    counts = one.confusion
    flagged = counts.true_positives + counts.false_positives
    assert flagged + counts.false_negatives + counts.true_negatives == 48
    rates = counts.recall - counts.false_positives / (counts.false_positives + counts.true_negatives)
    assert rates == pytest.approx(head.metrics["test"]["head"]["ks"])
    assert (one.warnings, one.ceiling, one.lookalikes) == ((), None, None)


def test_the_ceiling_and_the_tuning_are_shown_where_they_are_known(world: World) -> None:
    (world.site.home.labels / "ceilings.json").write_text('{"risk": 0.95}')
    with transaction(world.site.engine) as session:
        prompt = session.scalars(select(PromptVersion)).one()
        prompt.metrics = {"valid_auc_by_step": [[0, 0.6], [20, 0.7]], "best_step": 20, "tokens": 6}
    (one,) = summary_of(world).scenarios
    assert one.ceiling == 0.95
    assert one.reached == pytest.approx((one.card.metrics["head"]["auc"] - 0.5) / 0.45)
    assert [chart.name for chart in one.curves.charts] == ["tuning_steps"]
    assert any("--tokens" in reason for reason in one.curves.missing)


def test_what_changed_since_the_training_is_said(world: World) -> None:
    add_manifest(world, fingerprint="e" * 32)
    from tests.unit.events.test_labels import label_table
    from tests.unit.heads.fakes import NOON

    path = world.site.home.root / "new.parquet"
    import pyarrow.parquet as pq

    from qanchor.events.labels import LabelLoader

    table = label_table(30, as_of=[NOON] * 30, fold=[i // 2 % 5 for i in range(30)])
    assert isinstance(table, pa.Table)
    pq.write_table(table, path)
    LabelLoader(world.site.home, world.site.engine, world.site.workspace).load(path, SCENARIO)
    (one,) = summary_of(world).scenarios
    assert ["labels have changed" in one.warnings[0], "embeddings have changed" in one.warnings[1]] == [
        True,
        True,
    ]


def test_no_head_and_an_edited_head_name_the_command(world: World, tmp_path: Path) -> None:
    row = active_head(world.site.engine, SCENARIO)
    card = world.site.home.root / row.path / "card.json"
    card.write_text(card.read_text() + " ")
    with pytest.raises(CheckpointInvalid, match="head train --scenario risk"):
        summary_of(world)
    bare = small_world(tmp_path / "bare")
    with pytest.raises(NotReady, match="qanchor-cli head train --all"):
        summarise(bare.site, [SCENARIO], Silent())


def test_the_report_is_one_page_with_figures_beside_it(world: World, tmp_path: Path) -> None:
    page = tmp_path / "out" / "report.html"
    files = write_report(summary_of(world), page)
    assert files[0] == page
    figures = json.loads((page.parent / "report.json").read_text())
    assert (
        figures["scenarios"][0]["areas"]["head"] == figures["scenarios"][0]["head"]["metrics"]["head"]["auc"]
    )
    images = sorted(path.name for path in (page.parent / "figures").iterdir())
    assert images == sorted(["overview.png", *(f"risk_{name}.png" for name in CHARTS)])
    assert all((page.parent / "figures" / n).read_bytes().startswith(b"\x89PNG") for n in images)
    text = page.read_text()
    assert text.count('<svg class="chart"') == len(CHARTS)
    for outside in ("http://", "https://", "src=", "url(", "@import"):
        assert outside not in text
    assert "prefers-color-scheme: dark" in text


def test_what_users_wrote_is_escaped_on_the_page(world: World, tmp_path: Path) -> None:
    from dataclasses import replace

    summary = summary_of(world)
    spec = summary.scenarios[0].spec.model_copy(update={"query": "<script>alert(1)</script>"})
    hostile = replace(summary.scenarios[0], spec=spec)
    page = tmp_path / "report.html"
    write_report(replace(summary, scenarios=(hostile,)), page)
    assert "<script>alert(1)" not in page.read_text()
    assert "&lt;script&gt;alert(1)" in page.read_text()
