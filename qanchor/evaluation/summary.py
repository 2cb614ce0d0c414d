"""What the report says, collected once: the data, the model, and every scenario's head on its test part."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.audience.index import open_scenario_index
from qanchor.audience.lookalike import LookalikeRequest, find_lookalikes
from qanchor.audience.population import Population
from qanchor.errors import InputError, NotReady, StateError
from qanchor.evaluation.charts import (
    Chart,
    calibration_chart,
    ks_chart,
    lift_chart,
    map_chart,
    roc_chart,
    score_chart,
)
from qanchor.evaluation.overview import OverviewRow, overview_row, way_to_ceiling
from qanchor.events.ceilings import read_ceilings
from qanchor.events.labels import Labels, read_labels
from qanchor.events.stats import measure_log
from qanchor.heads.card import HeadCard, read_card, read_scores
from qanchor.heads.frame import PART
from qanchor.heads.spec import column, vector_width, vectors
from qanchor.heads.train import SCORERS, Surroundings
from qanchor.names import AS_OF, LABEL, USER_ID, embedding_field, embedding_view
from qanchor.progress import Progress
from qanchor.registry.manifests import active_manifests
from qanchor.registry.session import transaction
from qanchor.registry.tables import Head, PromptVersion
from qanchor.registry.versions import active_by_scenario, find_active_model
from qanchor.storage.event_log import EventLog

_SEEDS, _SHOWN = 50, 8


@dataclass(frozen=True)
class Confusion:
    """Decisions at the KS threshold, counted on the test part.

    Args:
        threshold: score from which a user is flagged.
        true_positives: flagged, label 1.
        false_positives: flagged, label 0.
        false_negatives: not flagged, label 1.
        true_negatives: not flagged, label 0.
    """

    threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        """Share of label 1 among the flagged."""
        return self.true_positives / max(self.true_positives + self.false_positives, 1)

    @property
    def recall(self) -> float:
        """Share of label 1 that is flagged."""
        return self.true_positives / max(self.true_positives + self.false_negatives, 1)


@dataclass(frozen=True)
class LookalikeSample:
    """What the index finds for known positives.

    Args:
        seeds: users with label 1 in the training part that were searched with.
        taken: users taken, a tenth of the index.
        labelled: how many of them have a test label.
        rate: share of label 1 among those; None where there are none.
        base_rate: share of label 1 in the test part.
        best: rank, user_id, cosine, and label or None.
    """

    seeds: int
    taken: int
    labelled: int
    rate: float | None
    base_rate: float
    best: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class ScenarioSummary:
    """One scenario's pages in the report.

    Args:
        card: of its head.
        domain: risk, marketing or engagement.
        query: the question that anchors its embedding.
        horizon_days: prediction window.
        label_rows: of the whole label set.
        positives: of the whole label set.
        overview: its areas.
        ceiling: best reachable area, where known.
        way: how far the head has come from chance to the ceiling.
        charts: ROC, KS, scores, lift, calibration and, with vectors, the map.
        tuned: areas of a linear probe before and after tuning, on the validation part; None where unknown.
        confusion: decisions at the KS threshold.
        lookalikes: None without an index.
        warnings: what has changed since the head was trained.
    """

    card: HeadCard
    domain: str
    query: str
    horizon_days: int
    label_rows: int
    positives: int
    overview: OverviewRow
    ceiling: float | None
    way: float | None
    charts: tuple[Chart, ...]
    tuned: tuple[float | None, float | None]
    confusion: Confusion
    lookalikes: LookalikeSample | None
    warnings: tuple[str, ...]


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


def summarise(around: Surroundings, scenarios: Sequence[str], progress: Progress) -> ReportSummary:
    """Collect everything that the report of some scenarios says.

    Args:
        around: feature repository, home, registry, workspace.
        scenarios: names, in order.
        progress: counts scenarios.

    Raises:
        NotReady: none of them has a head yet; run `qanchor-cli head train`.
        CheckpointInvalid: a head's files were edited; train it again.
    """
    heads = active_by_scenario(around.engine, Head, scenarios)
    if not heads:
        raise NotReady("there is no head to report on", "Run `qanchor-cli head train --all`.")
    ceilings = read_ceilings(around.home)
    progress.start("report", total=len(heads))
    found = []
    for name, row in heads.items():
        found.append(_scenario(around, name, row, ceilings.get(name)))
        progress.advance(note=name)
    data = measure_log(EventLog(around.home.events, around.workspace))
    missing = tuple(name for name in scenarios if name not in heads)
    return ReportSummary(datetime.now(UTC), data, _model(around), tuple(found), missing)


def _model(around: Surroundings) -> dict[str, Any] | None:
    row = find_active_model(around.engine)
    if row is None:
        return None
    return {
        "version": row.version,
        "preset": row.preset,
        "content_hash": row.content_hash,
        "trained_until": row.trained_until.isoformat(),
        "metrics": row.metrics,
    }


def _scenario(around: Surroundings, name: str, row: Head, ceiling: float | None) -> ScenarioSummary:
    folder = around.home.root / row.path
    card = read_card(folder, str(row.metrics.get("card_hash")))
    table = read_scores(folder)
    test = table.filter(pc.equal(table[PART], "test"))
    truth = np.asarray(test[LABEL], dtype=np.int64)
    scores = {s: test[s].to_numpy() for s in SCORERS if test[s].null_count == 0}
    spec, labels = around.workspace.scenario(name), read_labels(around.home, name)
    tuning = _tuning(around, card)
    head = card.metrics["head"]
    charts = [
        roc_chart(truth, scores),
        ks_chart(truth, scores["head"]),
        score_chart(truth, scores["head"]),
        lift_chart(truth, scores),
        calibration_chart(truth, scores["head"]),
    ]
    return ScenarioSummary(
        card=card,
        domain=spec.domain,
        query=spec.query,
        horizon_days=spec.horizon_days,
        label_rows=labels.table.num_rows,
        positives=labels.positives,
        overview=overview_row(name, card.metrics, _number(tuning, "test_auc_base_probe"), ceiling),
        ceiling=ceiling,
        way=way_to_ceiling(head["auc"], ceiling),
        charts=(*charts, *_maps(around, name, test, truth)),
        tuned=(_number(tuning, "valid_auc_base_probe"), _number(tuning, "valid_auc_tuned_probe")),
        confusion=_confusion(truth, scores["head"], head["ks_threshold"]),
        lookalikes=_lookalikes(around, name, table, test),
        warnings=tuple(_changes(around, card, labels)),
    )


def _tuning(around: Surroundings, card: HeadCard) -> dict[str, Any]:
    """What tuning the scenario's prompt measured; empty where it is untuned."""
    if card.prompt_version is None:
        return {}
    with transaction(around.engine) as session:
        prompt = session.get(PromptVersion, card.prompt_version)
        return dict(prompt.metrics) if prompt else {}


def _number(values: dict[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) else None


def _maps(around: Surroundings, name: str, test: pa.Table, truth: NDArray[np.int64]) -> list[Chart]:
    view, field = embedding_view(name), embedding_field(name)
    frame = around.source.training_frame(test.select([USER_ID, AS_OF]), [view])
    values = column(frame, field)
    width = vector_width(values)
    if not width:
        return []
    matrix = vectors(values, width)
    held = np.isfinite(matrix[:, 0])
    return [map_chart(matrix[held], truth[held])] if held.sum() > 2 else []


def _confusion(truth: NDArray[np.int64], scores: NDArray[np.float64], threshold: float) -> Confusion:
    flagged, ones = scores >= threshold, truth == 1
    return Confusion(
        threshold,
        int((flagged & ones).sum()),
        int((flagged & ~ones).sum()),
        int((~flagged & ones).sum()),
        int((~flagged & ~ones).sum()),
    )


def _lookalikes(around: Surroundings, name: str, table: pa.Table, test: pa.Table) -> LookalikeSample | None:
    train = table.filter(pc.and_(pc.equal(table[PART], "train"), pc.equal(table[LABEL], 1)))
    seeds = list(dict.fromkeys(train[USER_ID].to_pylist()))[:_SEEDS]
    try:
        index = open_scenario_index(around.home, around.engine, name).index
        taken = max(1, min(max(_SHOWN, index.size // 10), index.size - len(seeds)))
        request = LookalikeRequest(seeds, taken, "centroid")
        found = find_lookalikes(Population(name, index), request).table
    except (StateError, InputError):
        # No index yet, or one that knows none of the seeds: the page does without.
        return None
    labels = dict(zip(test[USER_ID].to_pylist(), test[LABEL].to_pylist(), strict=True))
    known = [labels[user] for user in found[USER_ID].to_pylist() if user in labels]
    best = tuple(
        {
            "rank": row["rank"],
            "user_id": row[USER_ID],
            "cosine": 1 - row["distance"],
            "label": labels.get(row[USER_ID]),
        }
        for row in found.slice(0, _SHOWN).to_pylist()
    )
    rate = sum(known) / len(known) if known else None
    return LookalikeSample(
        len(seeds), found.num_rows, len(known), rate, float(np.mean(list(labels.values()))), best
    )


def _changes(around: Surroundings, card: HeadCard, labels: Labels) -> list[str]:
    changes = []
    if labels.content_hash != card.labels_hash:
        changes.append("The labels have changed since this head was trained.")
    manifest = active_manifests(around.engine, [card.scenario]).get(card.scenario)
    if manifest is None or manifest.fingerprint != card.fingerprint:
        changes.append("The embeddings have changed since this head was trained: train it again.")
    return changes
