"""Checks of our online stores: rows that they refuse to write, and rows that are too old to serve."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import numpy as np
from feast import FeatureView

from qanchor.errors import FeaturesInvalid
from qanchor.times import to_microseconds

_ALWAYS: Final = -(2**62)


def check_vectors(view: FeatureView, rows: Iterable[dict[str, Any]]) -> None:
    """Refuse vectors that would poison a search or a head.

    Args:
        view: the Feast view.
        rows: protobuf values by feature name.

    Raises:
        FeaturesInvalid: one is not finite, or not as wide as the view says.
    """
    widths = {field.name: field.vector_length for field in view.features if field.vector_index}
    for values in rows:
        for name, width in widths.items():
            vector = np.asarray(values[name].float_list_val.val, np.float32) if name in values else None
            if vector is not None and (len(vector) != width or not np.isfinite(vector).all()):
                raise FeaturesInvalid(
                    f"{view.name} got a vector that is not {width} finite numbers", "Embed these users again."
                )


def check_future(view: FeatureView, event_us: Iterable[int], limit: datetime) -> None:
    """Refuse rows that would shut out every later one.

    Args:
        view: the Feast view.
        event_us: event times, microseconds UTC.
        limit: the last moment that is accepted.

    Raises:
        FeaturesInvalid: a row is after it.
    """
    if max(event_us, default=_ALWAYS) > to_microseconds(limit):
        raise FeaturesInvalid(
            f"{view.name} got a row whose event_timestamp is in the future",
            "Fix its time, or raise online_store.future_seconds.",
        )


def oldest_served(view: FeatureView, now: datetime, ttl_on_read: bool) -> int:
    """The event time, microseconds UTC, of the oldest row of the view that is served."""
    return to_microseconds(now - view.ttl) if ttl_on_read and view.ttl else _ALWAYS
