"""What the report says, collected once: the data, the model, and every scenario's head on its test part."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.charts.chart import Chart
from qanchor.charts.charts import (
    calibration_chart,
    gain_chart,
    importance_chart,
    ks_chart,
    lift_chart,
    roc_chart,
    score_chart,
)
from qanchor.charts.embedding_maps import pca_chart, sample_rows
from qanchor.charts.overview import OverviewRow, overview_row, way_to_ceiling
from qanchor.charts.tuning_curves import TuningCurves, tuning_curves
from qanchor.errors import CheckpointInvalid, NotReady
from qanchor.events.ceilings import read_ceilings
from qanchor.events.labels import Labels, read_labels
from qanchor.events.stats import measure_log
from qanchor.explain.anchor import AnchorFindings, ScenarioRows, explain_anchors
from qanchor.explain.anchor_charts import attention_chart
from qanchor.heads.card import HeadCard, read_card, read_scores, read_stored_frame
from qanchor.heads.frame import PART, HeadFrame
from qanchor.heads.spec import column, vectors
from qanchor.heads.train import SCORERS
from qanchor.metrics import CalibrationBins, calibration_bins, roc_auc
from qanchor.names import LABEL, embedding_field
from qanchor.progress import Progress
from qanchor.registry.manifests import active_manifests
from qanchor.registry.tables import Head
from qanchor.registry.versions import active_by_scenario, find_active_model
from qanchor.report.data_card import DataCard, data_card
from qanchor.report.decisions import Campaign, Confusion, campaigns, confusion
from qanchor.report.findings import Check, Statement, check, statements
from qanchor.report.lookalike_sample import LookalikeSample, sample_lookalikes
from qanchor.settings import ComputeSettings
from qanchor.site import Site
from qanchor.storage.event_log import EventLog
from qanchor.workspace import ScenarioSpec

_MAP_ROWS = 1_000
_NOT_ASKED = "The anchor was not looked at: run the report without --no-explain."


@dataclass(frozen=True)
class ScenarioSummary:
    """One scenario's pages in the report.

    Args:
        card: of its head.
        spec: its question, domain and horizon.
        data: rows of its labels and parts.
        overview: its areas.
        ceiling: best reachable area, where known.
        way: how far the head has come from chance to the ceiling.
        statements: its figures in plain words.
        checks: what a reader would ask first.
        charts: ROC, gain, lift, KS, scores, calibration.
        importance: what the score is made of; None where nothing contributes.
        calibration: predicted and observed rates in tenths of the users.
        confusion: decisions at the KS threshold.
        campaigns: the best 1, 5, 10 and 20% of the users.
        anchor: what was found of the anchor; None where it was not looked at.
        anchor_absent: why not, in words.
        anchor_charts: attention and maps, or the map of the vectors in service alone.
        curves: of the tuning.
        lookalikes: None without an index.
        warnings: what has changed since the head was trained.
        scores: user_id, as_of, label, part and scores of the test rows.
    """

    card: HeadCard
    spec: ScenarioSpec
    data: DataCard
    overview: OverviewRow
    ceiling: float | None
    way: float | None
    statements: tuple[Statement, ...]
    checks: tuple[Check, ...]
    charts: tuple[Chart, ...]
    importance: Chart | None
    calibration: CalibrationBins
    confusion: Confusion
    campaigns: tuple[Campaign, ...]
    anchor: AnchorFindings | None
    anchor_absent: str
    anchor_charts: tuple[Chart, ...]
    curves: TuningCurves
    lookalikes: LookalikeSample | None
    warnings: tuple[str, ...]
    scores: pa.Table

    @property
    def name(self) -> str:
        """The scenario's name."""
        return self.card.scenario

    @property
    def all_charts(self) -> tuple[Chart, ...]:
        """Every chart of the scenario, in the order of the page."""
        made = (self.importance,) if self.importance else ()
        return (*self.charts, *made, *self.anchor_charts, *self.curves.charts)


@dataclass(frozen=True)
class ReportSummary:
    """The whole report.

    Args:
        created_at: UTC.
        data: figures of the event log.
        model: figures of the active model; None without one.
        scenarios: those with a head, in the order of scenarios.yaml.
        missing: scenarios without a head.
    """

    created_at: datetime
    data: dict[str, Any]
    model: dict[str, Any] | None
    scenarios: tuple[ScenarioSummary, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Stored:
    card: HeadCard
    scores: pa.Table
    frame: HeadFrame

    @property
    def test_scores(self) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Labels of the test rows, and their scores by scorer."""
        test = self.scores.filter(pc.equal(self.scores[PART], "test"))
        scores = {name: test[name].to_numpy() for name in SCORERS if test[name].null_count == 0}
        return np.asarray(test[LABEL], dtype=np.int64), scores


def summarise(
    site: Site,
    scenarios: Sequence[str],
    progress: Progress,
    compute: ComputeSettings | None = None,
) -> ReportSummary:
    """Collect what the report of some scenarios says.

    Args:
        site: feature repository, home, registry, workspace.
        scenarios: names, in order.
        progress: counts scenarios.
        compute: what the model runs on to explain the anchor; None: the anchor is not looked at.

    Raises:
        NotReady: none of them has a head yet; run `qanchor-cli head train`.
        CheckpointInvalid: a head's files were edited; train it again.
    """
    heads = active_by_scenario(site.engine, Head, scenarios)
    if not heads:
        raise NotReady("there is no head to report on", "Run `qanchor-cli head train --all`.")
    # The log is counted while heads are read and the model is loaded.
    with ThreadPoolExecutor(1, "log") as pool:
        data = pool.submit(measure_log, EventLog(site.home.events, site.workspace))
        stored = {name: _read(site, row) for name, row in heads.items()}
        anchors = _anchors(site, compute, stored, progress)
        ceilings = read_ceilings(site.home)
        progress.start("report", total=len(heads))
        found = []
        for name, one in stored.items():
            found.append(_scenario(site, one, ceilings.get(name), anchors[name]))
            progress.advance(note=name)
    missing = tuple(name for name in scenarios if name not in heads)
    return ReportSummary(datetime.now(UTC), data.result(), _model(site), tuple(found), missing)


def _read(site: Site, row: Head) -> _Stored:
    folder = site.home.root / row.path
    card = read_card(folder, str(row.metrics.get("card_hash")))
    stored = _Stored(card, read_scores(folder, card), read_stored_frame(folder, card))
    truth, test = stored.test_scores
    if abs(roc_auc(truth, test["head"]) - card.metrics["head"]["auc"]) > 1e-9:
        raise CheckpointInvalid(
            f"the scores of {folder} are not those that its card was made from",
            f"Run `qanchor-cli head train --scenario {card.scenario}` again.",
        )
    return stored


def _anchors(
    site: Site, compute: ComputeSettings | None, stored: Mapping[str, _Stored], progress: Progress
) -> Mapping[str, AnchorFindings | str]:
    if compute is None:
        return dict.fromkeys(stored, _NOT_ASKED)
    rows = [ScenarioRows(one.card, one.frame) for one in stored.values()]
    try:
        return explain_anchors(site, compute, rows, progress)
    except (NotReady, CheckpointInvalid) as error:
        # The heads' own figures need no model: the page says what is missing and does without.
        return dict.fromkeys(stored, f"The model cannot be read: {error}")


def _model(site: Site) -> dict[str, Any] | None:
    row = find_active_model(site.engine)
    if row is None:
        return None
    return {
        "version": row.version,
        "preset": row.preset,
        "content_hash": row.content_hash,
        "trained_until": row.trained_until.isoformat(),
        "metrics": row.metrics,
    }


def _scenario(
    site: Site, stored: _Stored, ceiling: float | None, looked: AnchorFindings | str
) -> ScenarioSummary:
    card, name = stored.card, stored.card.scenario
    anchor = looked if isinstance(looked, AnchorFindings) else None
    spec, labels = site.workspace.scenario(name), read_labels(site.home, name)
    truth, scores = stored.test_scores
    head = card.metrics["head"]
    warnings = tuple(_changes(site, card, labels))
    base = anchor.gain.base["auc"] if anchor and anchor.gain else None
    return ScenarioSummary(
        card=card,
        spec=spec,
        data=data_card(labels, stored.scores),
        overview=overview_row(name, card.metrics, base, ceiling),
        ceiling=ceiling,
        way=way_to_ceiling(head["auc"], ceiling),
        statements=statements(card, spec, ceiling, anchor),
        checks=check(card, warnings),
        charts=_charts(truth, scores),
        importance=importance_chart(card.importance["groups"]),
        calibration=calibration_bins(truth, scores["head"]),
        confusion=confusion(truth, scores["head"], head["ks_threshold"]),
        campaigns=campaigns(head),
        anchor=anchor,
        anchor_absent="" if isinstance(looked, AnchorFindings) else looked,
        anchor_charts=(attention_chart(anchor.attention), *anchor.maps) if anchor else _plain_map(stored),
        curves=tuning_curves(site.engine, name, card.prompt_version),
        lookalikes=sample_lookalikes(site, name, stored.scores),
        warnings=warnings,
        scores=_with_probes(stored, anchor),
    )


def _charts(truth: NDArray[np.int64], scores: dict[str, NDArray[np.float64]]) -> tuple[Chart, ...]:
    return (
        roc_chart(truth, scores),
        gain_chart(truth, scores),
        lift_chart(truth, scores),
        ks_chart(truth, scores["head"]),
        score_chart(truth, scores["head"]),
        calibration_chart(truth, scores["head"]),
    )


def _plain_map(stored: _Stored) -> tuple[Chart, ...]:
    """The vectors that the head was fitted on, where no model is there to make others."""
    frame = stored.frame
    if not frame.width:
        return ()
    matrix = vectors(column(frame.table, embedding_field(frame.scenario)), frame.width)
    rows = np.flatnonzero(frame.rows("test") & np.isfinite(matrix[:, 0]))
    if len(rows) < 3:
        return ()
    rows = rows[sample_rows(len(rows), _MAP_ROWS)]
    return (pca_chart("pca_tuned", "In service: PCA", matrix[rows], frame.labels[rows]),)


def _with_probes(stored: _Stored, anchor: AnchorFindings | None) -> pa.Table:
    """The test rows' scores, and beside them those of both embeddings' probes and of words alone."""
    table = stored.scores
    columns = {}
    if anchor and anchor.gain:
        columns["base_probe"] = anchor.gain.test_rows, anchor.gain.base_scores
        columns["tuned_probe"] = anchor.gain.test_rows, anchor.gain.tuned_scores
    if anchor and anchor.words:
        columns["words_alone"] = anchor.words.test_rows, anchor.words.scores
    for name, (rows, scores) in columns.items():
        values = np.full(table.num_rows, np.nan)
        values[rows] = scores
        table = table.append_column(name, pa.array(values, from_pandas=True))
    return table.filter(pc.equal(table[PART], "test"))


def _changes(site: Site, card: HeadCard, labels: Labels) -> list[str]:
    changes = []
    if labels.content_hash != card.labels_hash:
        changes.append("The labels have changed since this head was trained.")
    manifest = active_manifests(site.engine, [card.scenario]).get(card.scenario)
    if manifest is None or manifest.fingerprint != card.fingerprint:
        changes.append("The embeddings have changed since this head was trained: train it again.")
    return changes
