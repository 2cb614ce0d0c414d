"""The health check of scenarios in service as of a moment: every value with its limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.errors import CheckpointInvalid, NotReady
from qanchor.events.label_arrivals import ARRIVED, arrivals, read_arrivals
from qanchor.events.labels import read_labels
from qanchor.heads.card import HeadCard, read_scores, read_stored_frame
from qanchor.heads.frame import PART
from qanchor.heads.score import load_head
from qanchor.heads.spec import column, vectors
from qanchor.monitoring.checks import Check, Floats, unknown
from qanchor.monitoring.drift import score_drift, score_runs, vector_drift
from qanchor.monitoring.freshness import active_users, embedding_freshness, fresh_users, score_freshness
from qanchor.monitoring.outcomes import (
    HEAD,
    SCORE,
    Outcomes,
    calibration_check,
    calibration_cohorts,
    label_checks,
    newest_by_user,
    published_scores,
    without_hindsight,
)
from qanchor.names import AS_OF, LABEL, USER_ID, embedding_field
from qanchor.registry.manifests import active_manifests
from qanchor.registry.session import transaction
from qanchor.registry.tables import EmbeddingManifest, Head, LabelSet
from qanchor.registry.versions import active_by_scenario
from qanchor.site import Site
from qanchor.storage.generations import CurrentVectors, current_vectors
from qanchor.times import TIMESTAMP, as_utc, now

_HISTORY: Final = timedelta(days=400)
_HEAD_SERVES: Final = "head_serves"
_LABELS: Final = pa.schema(
    [(USER_ID, pa.string()), (LABEL, pa.int8()), (AS_OF, TIMESTAMP), (ARRIVED, TIMESTAMP)]
)


@dataclass(frozen=True)
class ScenarioHealth:
    """The result of a scenario's health check.

    Args:
        scenario: name of the scenario.
        at: time of the check, UTC.
        head: the champion's version; None without one.
        checks: every value with its limit.
        runs: the champion's last scoring runs, the latest last.
        calibration: calibration by month of the labels and head, the latest last.
    """

    scenario: str
    at: datetime
    head: str | None
    checks: tuple[Check, ...]
    runs: tuple[dict[str, Any], ...]
    calibration: tuple[dict[str, Any], ...]

    @property
    def alarms(self) -> tuple[Check, ...]:
        """The checks beyond their limits."""
        return tuple(check for check in self.checks if check.state == "alarm")


@dataclass(frozen=True)
class _Champion:
    """The head in service.

    Args:
        card: card of the head.
        test_scores: scores of the test rows, (rows,).
        vectors: vectors of its training rows, (rows, dim); None where it reads none of those in service.
    """

    card: HeadCard
    test_scores: Floats
    vectors: NDArray[np.float32] | None


def watched_scenarios(site: Site) -> list[str]:
    """The scenarios with vectors or a head in service, in the order of scenarios.yaml."""
    names = list(site.workspace.scenarios)
    served = active_manifests(site.engine, names).keys() | active_by_scenario(site.engine, Head, names).keys()
    return [name for name in names if name in served]


def monitor(site: Site, scenarios: Sequence[str], at: datetime | None = None) -> list[ScenarioHealth]:
    """Check scenarios in service.

    Args:
        site: workspace, home, registry and feature repository.
        scenarios: names of scenarios.
        at: moment up to which scores, labels and outcomes count, UTC; default: now. Vectors and head are
            always those in service now.

    Raises:
        UnknownScenario: scenarios.yaml does not name one.
        NotReady: a label file is damaged.
    """
    moment = now() if at is None else as_utc(at)
    for name in scenarios:
        site.workspace.scenario(name)
    active = active_users(site.event_log, moment, site.workspace.window_days)
    return [_health(site, name, moment, active) for name in scenarios]


def _health(site: Site, scenario: str, at: datetime, active: pa.Array) -> ScenarioHealth:
    spec = site.workspace.scenario(scenario)
    manifest = active_manifests(site.engine, [scenario]).get(scenario)
    current = _current_vectors(site, scenario, manifest)
    champion, head_serves = _load_champion(site, scenario, manifest)
    version = champion.card.version if champion else None
    reference = champion.test_scores if champion else np.empty(0)
    scores = published_scores(site.home, scenario, at, at - _HISTORY)
    of_champion = scores.filter(pc.equal(scores[HEAD], version or ""))
    newest = newest_by_user(of_champion)
    scored_before = without_hindsight(scores, timedelta(days=spec.horizon_days))
    outcomes = Outcomes(spec, at, scored_before, _labels(site, scenario, at))
    cohorts = calibration_cohorts(outcomes.pairs())
    checks = [head_serves]
    if manifest is None or champion is None or champion.vectors is None:
        reason = "no vector is in service" if manifest is None else "no champion reads these vectors"
        checks += [unknown(name, reason) for name in ("embedding_psi", "centroid_drift")]
    else:
        checks += vector_drift(champion.vectors, current.vectors, spec.monitor)
    if manifest is not None:
        checks += embedding_freshness(manifest, current, active, spec, at)
    checks += [
        score_drift(reference, newest[SCORE].to_numpy(), spec.monitor),
        *score_freshness(newest, fresh_users(current, spec, at), spec, at),
        calibration_check(cohorts, spec),
        *label_checks(outcomes),
    ]
    runs = score_runs(of_champion, reference)
    return ScenarioHealth(scenario, at, version, tuple(checks), tuple(runs), tuple(cohorts))


def _load_champion(
    site: Site, scenario: str, manifest: EmbeddingManifest | None
) -> tuple[_Champion | None, Check]:
    """The champion, where its files are whole, and whether it can score the vectors in service."""
    try:
        head = load_head(site, scenario)
        rows = read_scores(head.folder, head.card)
        frame = read_stored_frame(head.folder, head.card)
    except NotReady as error:
        return None, unknown(_HEAD_SERVES, error.problem)
    except CheckpointInvalid as error:
        return None, _head_check(0.0, error.problem)
    card, scores = head.card, rows.filter(pc.equal(rows[PART], "test"))["head"].to_numpy()
    serves = _head_check(1.0, f"head {card.version}")
    if not card.width:
        return _Champion(card, scores, None), serves
    if manifest is None or manifest.fingerprint != card.fingerprint:
        note = "the vectors in service are of another embedding space; train the head again"
        return _Champion(card, scores, None), _head_check(0.0, note)
    trained = vectors(column(frame.table_of("train"), embedding_field(scenario)), card.width)
    return _Champion(card, scores, trained[np.isfinite(trained[:, 0])]), serves


def _head_check(value: float, note: str) -> Check:
    return Check(_HEAD_SERVES, value, 1.0, "ok" if value else "alarm", at_least=True, note=note)


def _current_vectors(site: Site, scenario: str, manifest: EmbeddingManifest | None) -> CurrentVectors:
    if manifest is None:
        return CurrentVectors(pa.array([], pa.string()), np.empty(0, np.int64), np.empty((0, 0), np.float32))
    return current_vectors(site.home.root / manifest.path, scenario)


def _labels(site: Site, scenario: str, at: datetime) -> pa.Table:
    """user_id, as_of, label and arrived of every label."""
    try:
        table = read_labels(site.home, scenario).table
    except NotReady:
        if (site.home.labels / f"{scenario}.parquet").exists():
            raise
        return _LABELS.empty_table()
    with transaction(site.engine) as session:
        row = session.get(LabelSet, scenario)
    loaded = as_utc(row.created_at) if row else at
    table = table.select([USER_ID, AS_OF, LABEL]).sort_by([(USER_ID, "ascending"), (AS_OF, "ascending")])
    arrived = arrivals(table, read_arrivals(site.home, scenario), loaded)
    return table.append_column(ARRIVED, arrived[ARRIVED])
