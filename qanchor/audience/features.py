"""Profile and activity features of users as of the embeddings' cut-off, from the offline views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa

from qanchor.names import ACTIVITY_VIEW, PROFILE_VIEW, USER_ID
from qanchor.site import Site
from qanchor.storage.parts import require_parts
from qanchor.storage.sql import connect, quote

# The rows of `rows_as_of` for one moment: with one cut-off for all users no ASOF join is needed.
_NEWEST = """
    SELECT {columns} FROM users LEFT JOIN (
        SELECT user_id, {columns} FROM read_parquet($parts, filename=true, file_row_number=true)
        WHERE event_timestamp <= $as_of AND created <= $as_of AND event_timestamp >= $oldest
        QUALIFY row_number() OVER (
            PARTITION BY user_id
            ORDER BY event_timestamp DESC, created DESC, filename DESC, file_row_number DESC
        ) = 1
    ) USING (user_id) ORDER BY position
"""


@dataclass(frozen=True)
class OfflineFeatures:
    """Features of users as the offline store knew them at one moment.

    Args:
        site: offline store and workspace.
        as_of: moment, UTC: nothing that happened or was written later is read.
    """

    site: Site
    as_of: datetime

    @cached_property
    def columns(self) -> Mapping[str, str]:
        """The view of each feature, by the feature's name."""
        activity = dict.fromkeys(self.site.workspace.activity_columns, ACTIVITY_VIEW)
        return activity | dict.fromkeys(self.site.workspace.profile_columns, PROFILE_VIEW)

    def read(self, users: pa.Array, columns: Sequence[str]) -> pa.Table:
        """Features of users.

        Args:
            users: string [users], distinct.
            columns: names of features, or user_id.

        Returns:
            One row for each user in their order; null where nothing was known within the view's time to live.

        Raises:
            NotReady: a view was never applied; run `feast apply`.
        """
        table = pa.table({USER_ID: users})
        for view in dict.fromkeys(self.columns[name] for name in columns if name != USER_ID):
            named = [name for name in columns if self.columns.get(name) == view]
            features = self._read_view(view, users, named)
            for name in named:
                table = table.append_column(name, features[name])
        return table

    def _read_view(self, view: str, users: pa.Array, columns: Sequence[str]) -> pa.Table:
        listed = ", ".join(quote(name) for name in columns)
        as_of = self.as_of.astimezone(UTC)
        parameters = {
            "parts": [str(path) for path in require_parts(self.site.home.view(view))],
            "as_of": as_of,
            "oldest": as_of - timedelta(days=self.site.workspace.window_days),
        }
        with connect() as connection:
            connection.register("requested", pa.table({USER_ID: users, "position": np.arange(len(users))}))
            # Of a registered table DuckDB does not know the size, and chooses joins as if it were tiny.
            connection.execute("CREATE TEMP TABLE users AS SELECT * FROM requested")
            return connection.execute(_NEWEST.format(columns=listed), parameters).to_arrow_table()
