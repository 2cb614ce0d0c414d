"""A scenario in service, looked at as of a moment: every figure with its limit, and what it is drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.errors import CheckpointInvalid, NotReady
from qanchor.evaluation.monitoring.checks import Check, Floats, unknown
from qanchor.evaluation.monitoring.drift import score_drift, score_runs, vector_drift
from qanchor.evaluation.monitoring.freshness import (
    active_users,
    embedding_freshness,
    fresh_users,
    score_freshness,
)
from qanchor.evaluation.monitoring.outcomes import (
    Outcomes,
    calibration_check,
    calibration_cohorts,
    label_checks,
)
from qanchor.evaluation.monitoring.published import HEAD, newest_by_user, published_scores, without_hindsight
from qanchor.events.label_arrivals import ARRIVED, arrivals, read_arrivals
from qanchor.events.labels import read_labels
from qanchor.heads.card import read_scores, read_stored_frame
from qanchor.heads.frame import PART
from qanchor.heads.score import LoadedHead, load_head
from qanchor.heads.spec import column, vectors
from qanchor.heads.train import Surroundings
from qanchor.names import AS_OF, LABEL, USER_ID, embedding_field
from qanchor.registry.manifests import active_manifests
from qanchor.registry.session import transaction
from qanchor.registry.tables import EmbeddingManifest, Head, LabelSet
from qanchor.registry.versions import active_by_scenario
from qanchor.storage.editions import CurrentVectors, current_vectors
from qanchor.storage.event_log import EventLog

_HISTORY: Final = timedelta(days=400)


@dataclass(frozen=True)
class ScenarioHealth:
    """What a look at a scenario found.

    Args:
        scenario: its name.
        at: as of when, UTC.
        head: the champion's version; None without one.
        checks: every figure.
        runs: the champion's last scoring runs, the latest last.
        calibration: by month of the labels and head, the latest last.
    """

    scenario: str
    at: datetime
    head: str | None
    checks: tuple[Check, ...]
    runs: tuple[dict[str, Any], ...]
    calibration: tuple[dict[str, Any], ...]

    @property
    def alarms(self) -> tuple[Check, ...]:
        """The figures beyond their limits."""
        return tuple(check for check in self.checks if check.state == "alarm")


def watched_scenarios(around: Surroundings) -> list[str]:
    """The scenarios with vectors or a head in service, in the order of scenarios.yaml."""
    names = list(around.workspace.scenarios)
    found = (
        active_manifests(around.engine, names).keys() | active_by_scenario(around.engine, Head, names).keys()
    )
    return [name for name in names if name in found]


def monitor(
    around: Surroundings, scenarios: Sequence[str], at: datetime | None = None
) -> list[ScenarioHealth]:
    """Look at scenarios in service.

    Args:
        around: feature repository, home, registry, workspace.
        scenarios: their names.
        at: only scores made, labels come in and outcomes known by then count; UTC, default: now. Vectors and
            head are those that serve now.

    Raises:
        UnknownScenario: scenarios.yaml does not name one.
        NotReady: a label file is damaged.
    """
    moment = at or datetime.now(UTC)
    for name in scenarios:
        around.workspace.scenario(name)
    log = EventLog(around.home.events, around.workspace)
    active = active_users(log, moment, around.workspace.window_days)
    return [_Look(around, name, moment).health(active) for name in scenarios]


class _Look:
    """One scenario as of one moment."""

    def __init__(self, around: Surroundings, scenario: str, at: datetime) -> None:
        self._around = around
        self._scenario = scenario
        self._spec = around.workspace.scenario(scenario)
        self._at = at

    def health(self, active: pa.Array) -> ScenarioHealth:
        manifest = active_manifests(self._around.engine, [self._scenario]).get(self._scenario)
        current = self._current(manifest)
        head, serves = self._head(manifest)
        scores = published_scores(self._around.home, self._scenario, self._at, self._at - _HISTORY)
        own = scores.filter(pc.equal(scores[HEAD], head.card.version)) if head else scores.slice(0, 0)
        newest, asked = newest_by_user(own), (self._spec, self._at)
        reference = _test_scores(head)
        outcomes = Outcomes(
            self._spec,
            self._at,
            without_hindsight(scores, timedelta(days=self._spec.horizon_days)),
            self._labels(),
        )
        cohorts = calibration_cohorts(outcomes.pairs())
        checks = [serves, *self._vector_checks(head, manifest, current, serves)]
        if manifest is not None:
            checks += embedding_freshness(manifest, current, active, asked)
        checks += [
            score_drift(reference, newest["score"].to_numpy(), self._spec.monitor),
            *score_freshness(newest, fresh_users(current, self._spec, self._at), asked),
            calibration_check(cohorts, self._spec),
            *label_checks(outcomes),
        ]
        return ScenarioHealth(
            self._scenario,
            self._at,
            head.card.version if head else None,
            tuple(checks),
            tuple(score_runs(own, reference)),
            tuple(cohorts),
        )

    def _current(self, manifest: EmbeddingManifest | None) -> CurrentVectors:
        if manifest is None:
            return CurrentVectors(
                pa.array([], pa.string()), np.empty(0, np.int64), np.empty((0, 0), np.float32)
            )
        return current_vectors(self._around.home.root / manifest.path, self._scenario)

    def _head(self, manifest: EmbeddingManifest | None) -> tuple[LoadedHead | None, Check]:
        """The champion, and whether it can score the vectors that serve."""
        name = "head_serves"
        try:
            head = load_head(self._scenario, self._around)
        except NotReady as error:
            return None, unknown(name, error.problem)
        except CheckpointInvalid as error:
            return None, Check(name, 0.0, 1.0, "alarm", at_least=True, note=error.problem)
        if head.card.width and (manifest is None or manifest.fingerprint != head.card.fingerprint):
            note = "the vectors in service are of another embedding space; train the head again"
            return head, Check(name, 0.0, 1.0, "alarm", at_least=True, note=note)
        return head, Check(name, 1.0, 1.0, "ok", at_least=True, note=f"head {head.card.version}")

    def _vector_checks(
        self,
        head: LoadedHead | None,
        manifest: EmbeddingManifest | None,
        current: CurrentVectors,
        serves: Check,
    ) -> list[Check]:
        names = ("embedding_psi", "centroid_drift")
        if manifest is None:
            return [unknown(name, "no vector is in service") for name in names]
        if head is None or not head.card.width or serves.state == "alarm":
            reason = "there is no champion that reads these vectors to compare them with"
            return [unknown(name, reason) for name in names]
        return vector_drift(_training_vectors(head), current.vectors, self._spec.monitor)

    def _labels(self) -> pa.Table:
        """user_id, as_of, label and arrived."""
        try:
            table = read_labels(self._around.home, self._scenario).table
        except NotReady:
            if (self._around.home.labels / f"{self._scenario}.parquet").exists():
                raise
            columns = pa.schema([(USER_ID, pa.string()), (LABEL, pa.int8())])
            empty = columns.empty_table()
            for name in (AS_OF, ARRIVED):
                empty = empty.append_column(name, pa.array([], pa.timestamp("us", tz="UTC")))
            return empty
        with transaction(self._around.engine) as session:
            row = session.get(LabelSet, self._scenario)
        loaded = row.created_at.replace(tzinfo=UTC) if row else self._at
        table = table.select([USER_ID, AS_OF, LABEL]).sort_by([(USER_ID, "ascending"), (AS_OF, "ascending")])
        known = arrivals(table, read_arrivals(self._around.home, self._scenario), loaded)
        return table.append_column(ARRIVED, known[ARRIVED])


def _test_scores(head: LoadedHead | None) -> Floats:
    """What the champion said of the rows that it was judged on."""
    if head is None:
        return np.empty(0)
    rows = read_scores(head.folder)
    scores: Floats = rows.filter(pc.equal(rows[PART], "test"))["head"].to_numpy()
    return scores


def _training_vectors(head: LoadedHead) -> NDArray[np.float32]:
    frame = read_stored_frame(head.folder, head.card)
    found = vectors(column(frame.table_of("train"), embedding_field(head.card.scenario)), head.card.width)
    return found[np.isfinite(found[:, 0])]
