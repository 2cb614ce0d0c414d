"""The scores that were published: the history that drift and calibration are judged by."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from qanchor.home import Home
from qanchor.names import CREATED, EVENT_TIMESTAMP, USER_ID, score_field, score_view
from qanchor.storage.parts import list_parts
from qanchor.times import TIMESTAMP

SCORE, HEAD, MOMENT_OF = "score", "head", EVENT_TIMESTAMP
_COLUMNS = (USER_ID, SCORE, HEAD, MOMENT_OF, CREATED)


def published_scores(home: Home, scenario: str, at: datetime, since: datetime) -> pa.Table:
    """The scores of a scenario that were known at a moment.

    Args:
        home: where the offline store lies.
        scenario: whose.
        at: scores created later are left out; UTC.
        since: features of earlier moments are left out; UTC.

    Returns:
        user_id, score, head, event_timestamp (the moment of the features), created; in no order.
    """
    field = score_field(scenario)
    files = [str(path) for path in list_parts(home.view(score_view(scenario)))]
    if not files:
        types = (pa.string(), pa.float64(), pa.string(), TIMESTAMP, TIMESTAMP)
        return pa.schema(list(zip(_COLUMNS, types, strict=True))).empty_table()
    known = pc.field(CREATED) <= pa.scalar(at, TIMESTAMP)
    recent = pc.field(MOMENT_OF) >= pa.scalar(since, TIMESTAMP)
    columns = [USER_ID, field, f"{field}_head", MOMENT_OF, CREATED]
    table = pads.dataset(files).to_table(columns, filter=known & recent & pc.is_finite(pc.field(field)))
    return table.rename_columns(list(_COLUMNS))


def without_hindsight(scores: pa.Table, horizon: timedelta) -> pa.Table:
    """The scores that were made before their own outcome could be known.

    Args:
        scores: as of `published_scores`.
        horizon: from the features' moment to the outcome.
    """
    return scores.filter(pc.less(scores[CREATED], pc.add(scores[MOMENT_OF], pa.scalar(horizon))))


def newest_by_user(scores: pa.Table) -> pa.Table:
    """Each user's score of the latest moment, the last one made of it.

    Args:
        scores: as of `published_scores`.
    """
    table = scores.sort_by([(USER_ID, "ascending"), (MOMENT_OF, "descending"), (CREATED, "descending")])
    if not len(table):
        return table
    users = table[USER_ID].combine_chunks()
    first = np.ones(len(table), dtype=bool)
    first[1:] = np.asarray(pc.not_equal(users.slice(1), users.slice(0, len(users) - 1)))
    return table.filter(pa.array(first))
