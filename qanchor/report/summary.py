"""The contents of the report: the data, the model, and every scenario's head on its test part."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.charts.chart import Chart
from qanchor.charts.embedding_maps import pca_chart, sample_rows
from qanchor.charts.head_charts import (
    calibration_chart,
    gain_chart,
    importance_chart,
    ks_chart,
    lift_chart,
    roc_chart,
    score_chart,
)
from qanchor.charts.overview import OverviewRow, overview_row, reached_share
from qanchor.charts.tuning_curves import TuningCurves, tuning_curves
from qanchor.errors import CheckpointInvalid, NotReady
from qanchor.events.ceilings import read_ceilings
from qanchor.events.labels import Labels, read_labels
from qanchor.events.stats import measure_log
from qanchor.explain.tuning import ScenarioRows, TuningExplanation, explain_tuning
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
from qanchor.site import Site
from qanchor.times import now
from qanchor.workspace import ScenarioSpec

_MAP_ROWS = 1_000
_NOT_EXPLAINED = "Attention and maps were left out: run the report without --no-explain."


@dataclass(frozen=True)
class ScenarioSummary:
    """One scenario's section of the report.

    Args:
        card: card of its head.
        spec: query, domain and horizon.
        data: data card.
        overview: AUCs of head and baselines.
        ceiling: best reachable AUC, where known.
        reached: share of the reachable gain over chance, where the ceiling is known.
        statements: the figures in sentences.
        checks: checks of the head.
        charts: ROC, gain, lift, KS, scores, calibration.
        importance: feature contributions; None where nothing contributes.
        calibration: predicted probability and observed rate by decile of the users.
        confusion: decisions at the KS threshold.
        campaigns: campaigns to the top 1, 5, 10 and 20% of the users.
        tuning: attention and gain of the prompt tuning; None where they were not computed.
        tuning_absent: the reason why they were not.
        tuning_charts: attention and maps, or the map of the vectors in service alone.
        curves: validation AUC during the tuning.
        lookalikes: lookalikes of known positives; None without an index.
        warnings: changes since the head was trained.
        scores: user_id, as_of, label, part and scores of the test rows.
    """

    card: HeadCard
    spec: ScenarioSpec
    data: DataCard
    overview: OverviewRow
    ceiling: float | None
    reached: float | None
    statements: tuple[Statement, ...]
    checks: tuple[Check, ...]
    charts: tuple[Chart, ...]
    importance: Chart | None
    calibration: CalibrationBins
    confusion: Confusion
    campaigns: tuple[Campaign, ...]
    tuning: TuningExplanation | None
    tuning_absent: str
    tuning_charts: tuple[Chart, ...]
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
        importance = (self.importance,) if self.importance else ()
        return (*self.charts, *importance, *self.tuning_charts, *self.curves.charts)


@dataclass(frozen=True)
class ReportSummary:
    """The whole report.

    Args:
        created_at: time of the report, UTC.
        data: statistics of the event log.
        model: version and metrics of the active model; None without one.
        scenarios: scenarios with a head, in the requested order.
        missing: names of scenarios without a head.
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
    explain: bool = False,
) -> ReportSummary:
    """Collect the contents of the report on some scenarios.

    Args:
        site: workspace, home, registry and feature repository.
        scenarios: names of scenarios, in order.
        progress: counts scenarios.
        explain: whether the model is loaded for attention, maps and the gain of tuning.

    Raises:
        NotReady: none of them has a head yet; run `qanchor-cli head train`.
        CheckpointInvalid: a head's files were edited; train it again.
    """
    heads = active_by_scenario(site.engine, Head, scenarios)
    if not heads:
        raise NotReady("there is no head to report on", "Run `qanchor-cli head train --all`.")
    # The log is counted while heads are read and the model is loaded.
    with ThreadPoolExecutor(1, "log") as pool:
        data = pool.submit(measure_log, site.event_log)
        stored = {name: _read(site, row) for name, row in heads.items()}
        explanations = _explain(site, stored, progress) if explain else dict.fromkeys(stored, _NOT_EXPLAINED)
        ceilings = read_ceilings(site.home)
        progress.start("report", total=len(heads))
        summaries = []
        for name, head in stored.items():
            summaries.append(_scenario(site, head, ceilings.get(name), explanations[name]))
            progress.advance(note=name)
    missing = tuple(name for name in scenarios if name not in heads)
    return ReportSummary(now(), data.result(), _model(site), tuple(summaries), missing)


def _read(site: Site, row: Head) -> _Stored:
    folder = site.home.root / row.path
    card = read_card(folder, str(row.metrics.get("card_hash")))
    stored = _Stored(card, read_scores(folder, card), read_stored_frame(folder, card))
    truth, test = stored.test_scores
    if abs(roc_auc(truth, test["head"]) - card.metrics["head"]["auc"]) > 1e-9:
        raise CheckpointInvalid(
            f"the scores of {folder} do not match its card",
            f"Run `qanchor-cli head train --scenario {card.scenario}` again.",
        )
    return stored


def _explain(
    site: Site, stored: Mapping[str, _Stored], progress: Progress
) -> Mapping[str, TuningExplanation | str]:
    rows = [ScenarioRows(head.card, head.frame) for head in stored.values()]
    try:
        return explain_tuning(site, rows, progress)
    except (NotReady, CheckpointInvalid) as error:
        # The heads' metrics need no model: the page names the problem and shows the rest.
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
    site: Site, stored: _Stored, ceiling: float | None, explanation: TuningExplanation | str
) -> ScenarioSummary:
    card, name = stored.card, stored.card.scenario
    tuning = explanation if isinstance(explanation, TuningExplanation) else None
    spec, labels = site.workspace.scenario(name), read_labels(site.home, name)
    truth, scores = stored.test_scores
    head = card.metrics["head"]
    warnings = tuple(_changes(site, card, labels))
    base = tuning.gain.base["auc"] if tuning and tuning.gain else None
    return ScenarioSummary(
        card=card,
        spec=spec,
        data=data_card(labels, stored.scores),
        overview=overview_row(name, card.metrics, base, ceiling),
        ceiling=ceiling,
        reached=reached_share(head["auc"], ceiling),
        statements=statements(card, spec, ceiling, tuning),
        checks=check(card, warnings),
        charts=_charts(truth, scores),
        importance=importance_chart(card.importance["groups"]),
        calibration=calibration_bins(truth, scores["head"]),
        confusion=confusion(truth, scores["head"], head["ks_threshold"]),
        campaigns=campaigns(head),
        tuning=tuning,
        tuning_absent=explanation if isinstance(explanation, str) else "",
        tuning_charts=tuning.charts if tuning else _map_in_service(stored),
        curves=tuning_curves(site, name, card.prompt_version),
        lookalikes=sample_lookalikes(site, name, stored.scores),
        warnings=warnings,
        scores=_with_probes(stored, tuning),
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


def _map_in_service(stored: _Stored) -> tuple[Chart, ...]:
    """A map of the vectors that the head was fitted on, which needs no model."""
    frame = stored.frame
    if not frame.width:
        return ()
    matrix = vectors(column(frame.table, embedding_field(frame.scenario)), frame.width)
    rows = np.flatnonzero(frame.rows("test") & np.isfinite(matrix[:, 0]))
    if len(rows) < 3:
        return ()
    rows = rows[sample_rows(len(rows), _MAP_ROWS)]
    return (pca_chart("pca_tuned", "In service: PCA", matrix[rows], frame.labels[rows]),)


def _with_probes(stored: _Stored, tuning: TuningExplanation | None) -> pa.Table:
    """The test rows' scores, those of both embeddings' probes and the zero-label scores."""
    table = stored.scores
    columns = {}
    if tuning and tuning.gain:
        columns["base_probe"] = tuning.gain.test_rows, tuning.gain.base_scores
        columns["tuned_probe"] = tuning.gain.test_rows, tuning.gain.tuned_scores
    if tuning and tuning.zero_label:
        columns["words_alone"] = tuning.zero_label.test_rows, tuning.zero_label.scores
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
