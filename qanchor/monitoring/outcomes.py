"""Scores against what came of them: calibration as labels mature, and how late labels are.

A label counts once its outcome is known (`as_of` + horizon) and it has come in; a score counts if it was made
before its own outcome could be known. So no figure of a moment changes because of what came later.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qanchor.events.label_arrivals import ARRIVED
from qanchor.metrics import roc_auc
from qanchor.monitoring.checks import (
    Check,
    at_most,
    calibration_error,
    calibration_error_by_chance,
    figure,
    unknown,
)
from qanchor.monitoring.published import HEAD, MOMENT_OF, SCORE
from qanchor.names import AS_OF, LABEL
from qanchor.storage.sql import connect
from qanchor.times import TIMESTAMP
from qanchor.workspace import ScenarioSpec

FEWEST: Final = 100  # rows of a month below which its calibration is not judged
_DAY_US: Final = 86_400_000_000

_PAIRS = """
    SELECT l.user_id, l.as_of, l.label, s.score, s.head
    FROM labels l ASOF JOIN scores s ON l.user_id = s.user_id AND l.as_of >= s.event_timestamp
    WHERE l.as_of <= s.event_timestamp + to_days($ttl_days)
    ORDER BY l.user_id, l.as_of
"""
_LABELLED = """
    SELECT count(*) AS matured, count(*) FILTER (EXISTS (
        SELECT 1 FROM labels l WHERE l.user_id = s.user_id
        AND l.as_of BETWEEN s.event_timestamp AND s.event_timestamp + to_days($ttl_days)
    )) AS labelled
    FROM scores s WHERE s.event_timestamp + to_days($horizon_days) <= $at
"""


@dataclass(frozen=True)
class Outcomes:
    """What is known of a scenario's scores at a moment.

    Args:
        spec: of the scenario.
        at: the moment, UTC.
        scores: published ones without hindsight.
        labels: user_id, as_of, label and arrived; all of them, known or not.
    """

    spec: ScenarioSpec
    at: datetime
    scores: pa.Table
    labels: pa.Table

    @property
    def matured(self) -> pa.Table:
        """The labels that have come in and whose outcome is known."""
        outcome = pc.add(self.labels[AS_OF], pa.scalar(timedelta(days=self.spec.horizon_days)))
        at = pa.scalar(self.at, TIMESTAMP)
        return self.labels.filter(
            pc.and_(pc.less_equal(outcome, at), pc.less_equal(self.labels[ARRIVED], at))
        )

    def pairs(self) -> pa.Table:
        """Every matured label with the score that was in service at its time.

        That is its user's score of the latest moment, no older than `ttl_days`.

        Returns:
            user_id, as_of, label, score and head, by user and time.
        """
        with connect() as connection:
            connection.register("given_labels", self.matured)
            connection.register("given_scores", self.scores)
            # Tables of its own: DuckDB takes registered ones for small and loops over them.
            connection.execute("CREATE TEMP TABLE labels AS SELECT * FROM given_labels")
            # Of one user and moment the score that was made last served.
            connection.execute(
                "CREATE TEMP TABLE scores AS SELECT * FROM given_scores QUALIFY row_number() OVER"
                " (PARTITION BY user_id, event_timestamp ORDER BY created DESC, head DESC) = 1"
            )
            return connection.execute(_PAIRS, {"ttl_days": self.spec.ttl_days}).to_arrow_table()


def calibration_cohorts(pairs: pa.Table) -> list[dict[str, Any]]:
    """Calibration by month of the labels' times and by head, the latest last.

    Args:
        pairs: as of `Outcomes.pairs`.
    """
    months = np.asarray(pairs[AS_OF].cast(pa.timestamp("us"))).astype("datetime64[M]")
    heads = np.array(pairs[HEAD].fill_null("").to_pylist(), dtype=object)
    labels, scores = np.asarray(pairs[LABEL], dtype=np.int64), pairs[SCORE].to_numpy()
    rows = []
    for month, head in sorted({(str(m), h) for m, h in zip(months, heads, strict=True)}):
        some = (months == np.datetime64(month)) & (heads == head)
        truth, chances = labels[some], scores[some]
        one_class = truth.min() == truth.max()
        rows.append(
            {
                "month": month,
                "head": head,
                "rows": len(truth),
                "mean_score": float(chances.mean()),
                "rate": float(truth.mean()),
                "calibration_error": calibration_error(truth, chances),
                "by_chance": calibration_error_by_chance(chances),
                "auc": None if one_class else roc_auc(truth, chances),
            }
        )
    return rows


def calibration_check(cohorts: list[dict[str, Any]], spec: ScenarioSpec) -> Check:
    """The latest month with enough rows, held against its limit.

    Args:
        cohorts: as of `calibration_cohorts`.
        spec: of the scenario.
    """
    name = "calibration_error"
    judged = [row for row in cohorts if row["rows"] >= FEWEST]
    if not judged:
        rows = sum(row["rows"] for row in cohorts)
        return unknown(name, f"{rows:,} published scores have a label whose outcome is known")
    last = judged[-1]
    note = (
        f"{last['month']}, {last['rows']:,} rows of head {last['head']}: mean score "
        f"{last['mean_score']:.3f}, rate {last['rate']:.3f}"
    )
    limit = spec.monitor.max_calibration_error
    return at_most(name, last["calibration_error"], limit, note, last["by_chance"])


def label_checks(outcomes: Outcomes) -> list[Check]:
    """How late labels are, and how many scores whose outcome is known have one.

    Args:
        outcomes: scores and labels.
    """
    spec, matured = outcomes.spec, outcomes.matured
    horizon = timedelta(days=spec.horizon_days)
    checks = []
    if len(matured):
        newest = pc.subtract(pc.max(matured[AS_OF]), pa.scalar(timedelta(days=90)))
        recent = matured.filter(pc.greater_equal(matured[AS_OF], newest))
        known = pc.add(recent[AS_OF], pa.scalar(horizon)).cast(pa.int64()).to_numpy()
        delays = (recent[ARRIVED].cast(pa.int64()).to_numpy() - known) / _DAY_US
        note = f"median of {len(delays):,} labels from outcome to arrival"
        checks.append(figure("label_delay_days", float(np.median(delays)), note))
    else:
        checks.append(unknown("label_delay_days", "no label's outcome is known yet"))
    return [*checks, _labelled(outcomes, matured), _waiting(outcomes, matured, horizon)]


def _labelled(outcomes: Outcomes, matured: pa.Table) -> Check:
    name = "labelled_share"
    days = {"ttl_days": outcomes.spec.ttl_days, "horizon_days": outcomes.spec.horizon_days}
    with connect() as connection:
        connection.register("labels", matured)
        connection.register("scores", outcomes.scores)
        found = connection.execute(_LABELLED, {**days, "at": outcomes.at}).fetchone()
    rows, labelled = found or (0, 0)
    if not rows:
        return unknown(name, "no published score's outcome is known yet")
    return figure(name, labelled / rows, f"of {rows:,} published scores whose outcome is known")


def _waiting(outcomes: Outcomes, matured: pa.Table, horizon: timedelta) -> Check:
    """How long the oldest run of scores after the newest label has waited since its outcome was known."""
    name = "label_wait_days"
    moments = outcomes.scores[MOMENT_OF]
    due = pc.less_equal(pc.add(moments, pa.scalar(horizon)), pa.scalar(outcomes.at, TIMESTAMP))
    moments = moments.filter(due)
    if not len(moments):
        return unknown(name, "no published score's outcome is known yet")
    limit = outcomes.spec.monitor.max_label_wait_days
    newest = pc.max(matured[AS_OF])
    waiting = moments.filter(pc.greater(moments, newest)) if newest.is_valid else moments
    if not len(waiting):
        return at_most(name, 0.0, limit, "labels have come in for the latest scores whose outcome is known")
    oldest: datetime = pc.min(waiting).as_py()
    days = (outcomes.at - oldest - horizon).total_seconds() / 86_400
    return at_most(name, days, limit, f"scores of {oldest:%Y-%m-%d} have no labels yet")
