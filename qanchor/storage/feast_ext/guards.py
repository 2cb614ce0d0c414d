"""Checks of our stores: rows that they refuse to write, and rows that are too old to serve.

They hold for views over part files; to any other view the stores are what Feast's are.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
from feast import FeatureView, Field
from feast.base_feature_view import BaseFeatureView
from feast.errors import FeastError

from qanchor.errors import FeaturesInvalid
from qanchor.storage.feast_ext.views import VECTOR, is_in_parts
from qanchor.times import to_microseconds

_ALWAYS: Final = -(2**62)
_METRICS: Final = ("COSINE", "L2", "INNER_PRODUCT")


class RequestRefused(FeaturesInvalid, FeastError):  # type: ignore[misc]  # Feast has no types
    """Input that a store refuses; Feast's server answers 422 with its words."""

    def http_status_code(self) -> int:
        """Unprocessable content."""
        return 422


def check_vectors(view: FeatureView, rows: Iterable[dict[str, Any]]) -> None:
    """Refuse vectors that would poison a search or a head.

    Args:
        view: the Feast view.
        rows: protobuf values by feature name.

    Raises:
        RequestRefused: one is not finite, or not as wide as the view says.
    """
    if not is_in_parts(view):
        return
    widths = {
        field.name: field.vector_length
        for field in view.features
        if field.vector_index and field.vector_length and str(field.dtype) == VECTOR
    }
    for values in rows:
        for name, width in widths.items():
            vector = np.asarray(values[name].float_list_val.val, np.float32) if name in values else None
            if vector is not None and (len(vector) != width or not np.isfinite(vector).all()):
                raise RequestRefused(
                    f"{view.name} got a vector that is not {width} finite numbers", "Embed these users again."
                )


def check_future(view: FeatureView, event_us: Iterable[int], limit: datetime) -> None:
    """Refuse rows that would shut out every later one.

    Args:
        view: the Feast view.
        event_us: event times, microseconds UTC.
        limit: the last moment that is accepted.

    Raises:
        RequestRefused: a row is after it.
    """
    if is_in_parts(view) and max(event_us, default=_ALWAYS) > to_microseconds(limit):
        raise RequestRefused(
            f"{view.name} got a row whose event_timestamp is in the future",
            "Fix its time, or raise online_store.future_seconds.",
        )


def oldest_served(view: FeatureView, now: datetime, ttl_on_read: bool) -> int:
    """The event time, microseconds UTC, of the oldest row of the view that is served."""
    if not (ttl_on_read and is_in_parts(view) and view.ttl):
        return _ALWAYS
    return to_microseconds(now - view.ttl)


def check_search(
    view: BaseFeatureView, embedding: Sequence[float] | None, text: str | None, filters: object
) -> Field:
    """The vector's field of a view, for a search by vector alone.

    Args:
        view: the Feast view.
        embedding: the query.
        text: a search text, which has to be None.
        filters: Feast's filters, which have to be None.

    Raises:
        RequestRefused: a part of the request is not supported, or the query does not fit the view.
    """
    if embedding is None or text is not None or filters is not None:
        raise RequestRefused(
            "this online store searches by vector alone", "Pass query=, no text and no filters."
        )
    field = next((field for field in view.features if field.vector_index), None)
    if field is None:
        raise RequestRefused(
            f"{view.name} has no vector to search by", "Name a view with a field of vector_index=True."
        )
    if field.vector_length and len(embedding) != field.vector_length:
        raise RequestRefused(
            f"the query has {len(embedding)} dimensions, {view.name} has {field.vector_length}",
            "Embed the query with the same model.",
        )
    return field


def known_metric(view: BaseFeatureView, metric: str | None) -> str:
    """COSINE, L2 or INNER_PRODUCT; default: COSINE.

    Raises:
        RequestRefused: it is none of these.
    """
    name = (metric or "COSINE").upper()
    name = "INNER_PRODUCT" if name == "IP" else name
    if name not in _METRICS:
        raise RequestRefused(
            f"{view.name}: the metric {metric!r} is unknown", f"Metrics: {', '.join(_METRICS)}."
        )
    return name
