"""The aggregates of a user's history: the one list of what is counted and over how many days.

The activity view computes them with SQL over the log (`events.activity`), the model with arrays in memory
(`model.window`), UserU with arrays over spans of its own (`training.useru.spans`). A property test holds the
three to each other. A span of D days before a cut-off holds the events of 0 < age <= D days.
"""

from dataclasses import dataclass
from typing import Final, Literal

# Of one modality's events: how many; how many distinct times (lines of one order share one); how many days
# have any; the sum and the mean of a number; the age of the newest and of the oldest.
Kind = Literal["count", "moments", "active_days", "sum", "mean", "recency", "tenure"]


@dataclass(frozen=True)
class Aggregate:
    """One number about one modality's events before a cut-off.

    Args:
        kind: what is computed.
        days: length of the span before the cut-off; None: all events that are read.
    """

    kind: Kind
    days: int | None = None

    @property
    def name(self) -> str:
        """Such as `sum_30d` or `recency_days`."""
        return f"{self.kind}_days" if self.days is None else f"{self.kind}_{self.days}d"

    def column(self, modality: str) -> str:
        """Its column in the activity view."""
        return f"act_{modality}_{self.name}"


ACTIVITY_WINDOWS_DAYS: Final = (1, 7, 30, 90)
_ACTIVITY: Final = (
    *(Aggregate(kind, days) for days in ACTIVITY_WINDOWS_DAYS for kind in ("count", "sum")),
    Aggregate("recency"),
)

# The order of both is the order of the columns that stored models were trained on.
SUMMARY: Final = (
    *(Aggregate("count", days) for days in (1, 7, 30)),
    *(Aggregate("active_days", days) for days in (7, 30, None)),
    Aggregate("recency"),
    Aggregate("tenure"),
)
SUMMARY_OF_NUMBER: Final = (*(Aggregate("sum", days) for days in (None, 7, 30)), Aggregate("mean"))

_TABULAR_DAYS: Final = (7, 14, 30, 60, 90, 180)
TABULAR: Final[tuple[Kind, ...]] = ("count", "moments", "active_days")
TABULAR_OF_NUMBER: Final[tuple[Kind, ...]] = ("sum", "mean")


def activity_aggregates(has_amount: bool) -> list[Aggregate]:
    """The activity view's aggregates of one modality.

    Args:
        has_amount: whether the modality has an amount to sum.
    """
    return [aggregate for aggregate in _ACTIVITY if has_amount or aggregate.kind != "sum"]


def tabular_spans(window_days: int) -> tuple[int, ...]:
    """The spans of the model's aggregate tokens, ascending; the last one is the window."""
    return (*(days for days in _TABULAR_DAYS if days < window_days), window_days)
