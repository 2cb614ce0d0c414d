"""One Feast view in the online store, row by row: a stream writes rows and reads how new they are.

As in qanchor.storage.features, feast is imported by the calls that need it.
"""

import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final

import pyarrow as pa

from qanchor import names
from qanchor.errors import StoreUnavailable
from qanchor.storage.features import FeatureRepository, views_applied
from qanchor.times import to_microseconds

_SECOND_US: Final = 1_000_000


class OnlineView:
    """Reads the times of rows and writes newer rows; the online store itself refuses older ones.

    Args:
        features: the repository.
        view: a view without vectors, keyed by user_id.
    """

    def __init__(self, features: FeatureRepository, view: str) -> None:
        self._features, self._name = features, view

    def prepare(self) -> None:
        """Make sure that Feast knows the view: a repository that was never applied is applied now.

        Raises:
            NotReady: others have applied it without this view; run `feast apply`.
        """
        if not self._features.home.feast_registry.exists():
            self._features.apply()
        self.newest([""])

    @cached_property
    def _view(self) -> Any:
        return self._features.store.get_feature_view(self._name)

    @property
    def _online(self) -> Any:
        return self._features.store._get_provider().online_store

    @property
    def _is_guarded(self) -> bool:
        # Only this project's online stores have packed rows, and times to the microsecond.
        return hasattr(self._online, "write_packed")

    def newest(self, users: Sequence[str]) -> dict[str, int]:
        """The event_timestamp of the row that is served, by user, for users that have one.

        Returns:
            Microseconds since the epoch; the end of the second where the store keeps no microseconds.

        Raises:
            NotReady: Feast does not know the view; run `feast apply`.
            StoreUnavailable: the online store does not answer.
        """
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        keys = [EntityKey(join_keys=[names.USER_ID], entity_values=[Value(string_val=u)]) for u in users]
        with _answering(), views_applied():
            config, one = self._features.store.config, [self._view.features[0].name]
            rows = self._online.online_read(config, self._view, keys, one)
        rounding = 0 if self._is_guarded else _SECOND_US - 1
        return {
            user: to_microseconds(moment) + rounding
            for user, (moment, _) in zip(users, rows, strict=True)
            if moment is not None
        }

    def write(self, table: pa.Table) -> None:
        """Write rows; one that is older than what is served changes nothing.

        Args:
            table: every column of the view.

        Raises:
            StoreUnavailable: the online store does not answer; some rows may be written.
            FeaturesInvalid: a time is too far in the future.
        """
        if not len(table):
            return
        store = self._features.store
        with _answering():
            if self._is_guarded:
                from qanchor.storage.feast_ext.packing import pack_rows

                self._online.write_packed(store.config, self._view, pack_rows(table, self._view))
            else:
                store.write_to_online_store(self._name, table.to_pandas(), allow_registry_cache=True)

    def close(self) -> None:
        """Give the store's connections back."""
        self._features.close()


def open_online_view(features: FeatureRepository) -> OnlineView:
    """The activity view, ready to be written.

    Raises:
        NotReady: others have applied the repository without it; run `feast apply`.
    """
    view = OnlineView(features, names.ACTIVITY_VIEW)
    view.prepare()
    return view


@contextmanager
def _answering() -> Iterator[None]:
    # A user of Redis has imported its client; others need not.
    redis = sys.modules.get("redis")
    broken = (sqlite3.OperationalError, OSError, *((redis.RedisError,) if redis else ()))
    try:
        yield
    except broken as error:
        raise StoreUnavailable(
            f"the online store does not answer: {error!r}", "Start it; the consumer tries again by itself."
        ) from error
