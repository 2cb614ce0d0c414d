"""A scenario in service, looked at as of a moment: every figure with its limit, and what it is drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.errors import NotReady
from qanchor.events.label_arrivals import ARRIVED, arrivals, read_arrivals
from qanchor.events.labels import read_labels
from qanchor.monitoring.champion import Champion, load_champion
from qanchor.monitoring.checks import Check, unknown
from qanchor.monitoring.drift import score_drift, score_runs, vector_drift
from qanchor.monitoring.freshness import (
    active_users,
    embedding_freshness,
    fresh_users,
    score_freshness,
)
from qanchor.monitoring.outcomes import (
    Outcomes,
    calibration_check,
    calibration_cohorts,
    label_checks,
)
from qanchor.monitoring.published import HEAD, newest_by_user, published_scores, without_hindsight
from qanchor.names import AS_OF, LABEL, USER_ID
from qanchor.registry.manifests import active_manifests
from qanchor.registry.session import transaction
from qanchor.registry.tables import EmbeddingManifest, Head, LabelSet
from qanchor.registry.versions import active_by_scenario
from qanchor.site import Site
from qanchor.storage.event_log import EventLog
from qanchor.storage.generations import CurrentVectors, current_vectors

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


def watched_scenarios(site: Site) -> list[str]:
    """The scenarios with vectors or a head in service, in the order of scenarios.yaml."""
    names = list(site.workspace.scenarios)
    found = active_manifests(site.engine, names).keys() | active_by_scenario(site.engine, Head, names).keys()
    return [name for name in names if name in found]


def monitor(site: Site, scenarios: Sequence[str], at: datetime | None = None) -> list[ScenarioHealth]:
    """Look at scenarios in service.

    Args:
        site: feature repository, home, registry, workspace.
        scenarios: their names.
        at: only scores made, labels come in and outcomes known by then count; UTC, default: now. Vectors and
            head are those that serve now.

    Raises:
        UnknownScenario: scenarios.yaml does not name one.
        NotReady: a label file is damaged.
    """
    moment = at or datetime.now(UTC)
    for name in scenarios:
        site.workspace.scenario(name)
    log = EventLog(site.home.events, site.workspace)
    active = active_users(log, moment, site.workspace.window_days)
    return [_Look(site, name, moment).health(active) for name in scenarios]


class _Look:
    """One scenario as of one moment."""

    def __init__(self, site: Site, scenario: str, at: datetime) -> None:
        self._site = site
        self._scenario = scenario
        self._spec = site.workspace.scenario(scenario)
        self._at = at

    def health(self, active: pa.Array) -> ScenarioHealth:
        manifest = active_manifests(self._site.engine, [self._scenario]).get(self._scenario)
        current = self._current(manifest)
        champion, serves = load_champion(self._scenario, self._site, manifest)
        version = champion.card.version if champion else None
        scores = published_scores(self._site.home, self._scenario, self._at, self._at - _HISTORY)
        own = scores.filter(pc.equal(scores[HEAD], version or ""))
        newest, asked = newest_by_user(own), (self._spec, self._at)
        reference = champion.test_scores if champion else np.empty(0)
        outcomes = Outcomes(
            self._spec,
            self._at,
            without_hindsight(scores, timedelta(days=self._spec.horizon_days)),
            self._labels(),
        )
        cohorts = calibration_cohorts(outcomes.pairs())
        checks = [serves, *self._vector_checks(champion, manifest, current)]
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
            version,
            tuple(checks),
            tuple(score_runs(own, reference)),
            tuple(cohorts),
        )

    def _current(self, manifest: EmbeddingManifest | None) -> CurrentVectors:
        if manifest is None:
            return CurrentVectors(
                pa.array([], pa.string()), np.empty(0, np.int64), np.empty((0, 0), np.float32)
            )
        return current_vectors(self._site.home.root / manifest.path, self._scenario)

    def _vector_checks(
        self, champion: Champion | None, manifest: EmbeddingManifest | None, current: CurrentVectors
    ) -> list[Check]:
        names = ("embedding_psi", "centroid_drift")
        if manifest is None:
            return [unknown(name, "no vector is in service") for name in names]
        if champion is None or champion.vectors is None:
            reason = "there is no champion that reads these vectors to compare them with"
            return [unknown(name, reason) for name in names]
        return vector_drift(champion.vectors, current.vectors, self._spec.monitor)

    def _labels(self) -> pa.Table:
        """user_id, as_of, label and arrived."""
        try:
            table = read_labels(self._site.home, self._scenario).table
        except NotReady:
            if (self._site.home.labels / f"{self._scenario}.parquet").exists():
                raise
            columns = pa.schema([(USER_ID, pa.string()), (LABEL, pa.int8())])
            empty = columns.empty_table()
            for name in (AS_OF, ARRIVED):
                empty = empty.append_column(name, pa.array([], pa.timestamp("us", tz="UTC")))
            return empty
        with transaction(self._site.engine) as session:
            row = session.get(LabelSet, self._scenario)
        loaded = row.created_at.replace(tzinfo=UTC) if row else self._at
        table = table.select([USER_ID, AS_OF, LABEL]).sort_by([(USER_ID, "ascending"), (AS_OF, "ascending")])
        known = arrivals(table, read_arrivals(self._site.home, self._scenario), loaded)
        return table.append_column(ARRIVED, known[ARRIVED])
