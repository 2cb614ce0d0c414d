"""Published scores and their outcomes: calibration as labels mature, and the delay of labels.

A label counts once its outcome is known (`as_of` + horizon) and it has arrived; a score counts if it was
created before its outcome could be known. So no result changes because of what arrives later.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from qanchor.events.label_arrivals import ARRIVED
from qanchor.home import Home
from qanchor.metrics import roc_auc
from qanchor.monitoring.checks import (
    Check,
    at_most,
    calibration_error,
    calibration_error_by_chance,
    figure,
    unknown,
)
from qanchor.names import AS_OF, CREATED, EVENT_TIMESTAMP, LABEL, USER_ID, score_field, score_view
from qanchor.storage.parts import list_parts
from qanchor.storage.sql import connect
from qanchor.times import DAY_SECONDS, DAY_US, TIMESTAMP, column_microseconds
from qanchor.workspace import ScenarioSpec

FEWEST: Final = 100  # rows of a month below which its calibration is not judged
SCORE: Final = "score"
HEAD: Final = "head"
_COLUMNS: Final = (USER_ID, SCORE, HEAD, EVENT_TIMESTAMP, CREATED)

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


def published_scores(home: Home, scenario: str, at: datetime, since: datetime) -> pa.Table:
    """The scores of a scenario that were published up to a moment.

    Args:
        home: folder of the offline store.
        scenario: name of the scenario.
        at: latest creation, UTC.
        since: earliest moment of the features, UTC.

    Returns:
        user_id, score, head, event_timestamp (the moment of the features), created; unordered.
    """
    field = score_field(scenario)
    files = [str(path) for path in list_parts(home.view(score_view(scenario)))]
    if not files:
        types = (pa.string(), pa.float64(), pa.string(), TIMESTAMP, TIMESTAMP)
        return pa.schema(list(zip(_COLUMNS, types, strict=True))).empty_table()
    known = pc.field(CREATED) <= pa.scalar(at, TIMESTAMP)
    recent = pc.field(EVENT_TIMESTAMP) >= pa.scalar(since, TIMESTAMP)
    columns = [USER_ID, field, f"{field}_head", EVENT_TIMESTAMP, CREATED]
    table = pads.dataset(files).to_table(columns, filter=known & recent & pc.is_finite(pc.field(field)))
    return table.rename_columns(list(_COLUMNS))


def without_hindsight(scores: pa.Table, horizon: timedelta) -> pa.Table:
    """The scores that were created before their outcome could be known.

    Args:
        scores: result of `published_scores`.
        horizon: time from the features' moment to the outcome.
    """
    return scores.filter(pc.less(scores[CREATED], pc.add(scores[EVENT_TIMESTAMP], pa.scalar(horizon))))


def newest_by_user(scores: pa.Table) -> pa.Table:
    """Each user's score of the latest moment; of several, the one created last.

    Args:
        scores: result of `published_scores`.
    """
    table = scores.sort_by([(USER_ID, "ascending"), (EVENT_TIMESTAMP, "descending"), (CREATED, "descending")])
    if not len(table):
        return table
    users = table[USER_ID].combine_chunks()
    first = np.ones(len(table), dtype=bool)
    first[1:] = np.asarray(pc.not_equal(users.slice(1), users.slice(0, len(users) - 1)))
    return table.filter(pa.array(first))


@dataclass(frozen=True)
class Outcomes:
    """Scores and labels of a scenario at a moment.

    Args:
        spec: the scenario.
        at: the moment, UTC.
        scores: published scores without hindsight.
        labels: table with user_id, as_of, label and arrived of all labels, known by then or not.
    """

    spec: ScenarioSpec
    at: datetime
    scores: pa.Table
    labels: pa.Table

    @property
    def matured(self) -> pa.Table:
        """The labels that have arrived and whose outcome is known."""
        outcome = pc.add(self.labels[AS_OF], pa.scalar(timedelta(days=self.spec.horizon_days)))
        at = pa.scalar(self.at, TIMESTAMP)
        return self.labels.filter(
            pc.and_(pc.less_equal(outcome, at), pc.less_equal(self.labels[ARRIVED], at))
        )

    def pairs(self) -> pa.Table:
        """Every matured label with the score that was in service at its time.

        That is its user's newest score, no older than `ttl_days`.

        Returns:
            user_id, as_of, label, score and head, by user and time.
        """
        with connect() as connection:
            connection.register("matured_labels", self.matured)
            connection.register("published_scores", self.scores)
            # Copied: DuckDB assumes that registered tables are small and loops over them.
            connection.execute("CREATE TEMP TABLE labels AS SELECT * FROM matured_labels")
            # Of a user and moment the score that was created last was in service.
            connection.execute(
                "CREATE TEMP TABLE scores AS SELECT * FROM published_scores QUALIFY row_number() OVER"
                " (PARTITION BY user_id, event_timestamp ORDER BY created DESC, head DESC) = 1"
            )
            return connection.execute(_PAIRS, {"ttl_days": self.spec.ttl_days}).to_arrow_table()


def calibration_cohorts(pairs: pa.Table) -> list[dict[str, Any]]:
    """Calibration by month of the labels' times and by head, the latest last.

    Args:
        pairs: result of `Outcomes.pairs`.
    """
    months = column_microseconds(pairs[AS_OF]).astype("datetime64[us]").astype("datetime64[M]")
    heads = np.array(pairs[HEAD].fill_null("").to_pylist(), dtype=object)
    labels, scores = np.asarray(pairs[LABEL], dtype=np.int64), pairs[SCORE].to_numpy()
    rows = []
    for month, head in sorted({(str(m), h) for m, h in zip(months, heads, strict=True)}):
        some = (months == np.datetime64(month)) & (heads == head)
        truth, predicted = labels[some], scores[some]
        one_class = truth.min() == truth.max()
        rows.append(
            {
                "month": month,
                "head": head,
                "rows": len(truth),
                "mean_score": float(predicted.mean()),
                "rate": float(truth.mean()),
                "calibration_error": calibration_error(truth, predicted),
                "by_chance": calibration_error_by_chance(predicted),
                "auc": None if one_class else roc_auc(truth, predicted),
            }
        )
    return rows


def calibration_check(cohorts: list[dict[str, Any]], spec: ScenarioSpec) -> Check:
    """The calibration error of the latest month with enough rows.

    Args:
        cohorts: result of `calibration_cohorts`.
        spec: the scenario.
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
    """The delay of labels, and the share of scores with a known outcome that have one.

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
        delays = (recent[ARRIVED].cast(pa.int64()).to_numpy() - known) / DAY_US
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
        counts = connection.execute(_LABELLED, {**days, "at": outcomes.at}).fetchone()
    rows, labelled = counts or (0, 0)
    if not rows:
        return unknown(name, "no published score's outcome is known yet")
    return figure(name, labelled / rows, f"of {rows:,} published scores whose outcome is known")


def _waiting(outcomes: Outcomes, matured: pa.Table, horizon: timedelta) -> Check:
    """Days since the outcome of the oldest scores after the newest label was known."""
    name = "label_wait_days"
    moments = outcomes.scores[EVENT_TIMESTAMP]
    due = pc.less_equal(pc.add(moments, pa.scalar(horizon)), pa.scalar(outcomes.at, TIMESTAMP))
    moments = moments.filter(due)
    if not len(moments):
        return unknown(name, "no published score's outcome is known yet")
    limit = outcomes.spec.monitor.max_label_wait_days
    newest = pc.max(matured[AS_OF])
    waiting = moments.filter(pc.greater(moments, newest)) if newest.is_valid else moments
    if not len(waiting):
        return at_most(name, 0.0, limit, "labels have arrived for the latest scores with a known outcome")
    oldest: datetime = pc.min(waiting).as_py()
    days = (outcomes.at - oldest - horizon).total_seconds() / DAY_SECONDS
    return at_most(name, days, limit, f"scores of {oldest:%Y-%m-%d} have no labels yet")
