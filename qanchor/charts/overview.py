"""The AUC of baselines, embeddings and heads of all scenarios on one scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["aggregates", "base", "probe", "head", "ceiling"]
MARK_NAMES: dict[Kind, str] = {
    "aggregates": "best head on aggregates",
    "base": "linear probe, untuned embedding",
    "probe": "linear probe, embedding",
    "head": "LightGBM head, 95% interval",
    "ceiling": "best reachable AUC",
}


@dataclass(frozen=True)
class Mark:
    """One AUC on a scenario's row.

    Args:
        kind: scorer or embedding of the AUC.
        value: area under the ROC curve.
    """

    kind: Kind
    value: float

    @property
    def name(self) -> str:
        """Text in the legend."""
        return MARK_NAMES[self.kind]


@dataclass(frozen=True)
class OverviewRow:
    """The AUCs of a scenario.

    Args:
        scenario: name of the scenario.
        marks: known AUCs in the order of drawing.
        low: lower end of the head's interval.
        high: upper end of the head's interval.
    """

    scenario: str
    marks: tuple[Mark, ...]
    low: float | None
    high: float | None


def overview_row(
    scenario: str,
    measured: Mapping[str, Mapping[str, float]],
    base: float | None = None,
    ceiling: float | None = None,
) -> OverviewRow:
    """A scenario's row from its head's metrics.

    Args:
        scenario: name of the scenario.
        measured: metrics by scorer: head and, where known, probe and aggregates.
        base: AUC of a linear probe on the untuned embedding.
        ceiling: best reachable AUC.
    """
    areas: dict[Kind, float | None] = {
        "ceiling": ceiling,
        "aggregates": measured.get("aggregates", {}).get("auc"),
        "base": base,
        "probe": measured.get("probe", {}).get("auc"),
        "head": measured["head"]["auc"],
    }
    marks = tuple(Mark(kind, value) for kind, value in areas.items() if value is not None)
    return OverviewRow(scenario, marks, measured["head"]["auc_low"], measured["head"]["auc_high"])


def scale(rows: Sequence[OverviewRow]) -> tuple[float, float]:
    """The common range of all rows, rounded outwards to steps of .05."""
    values = [mark.value for row in rows for mark in row.marks]
    values += [end for row in rows for end in (row.low, row.high) if end is not None]
    low, high = min(values, default=0.5), max(values, default=1.0)
    return max(0.0, min(0.5, int(low * 20) / 20)), min(1.0, (int(high * 20 - 1e-9) + 1) / 20)


def reached_share(auc: float, ceiling: float | None) -> float | None:
    """Share of the reachable gain over chance: 0 at an AUC of .5, 1 at the ceiling; None without one."""
    return None if ceiling is None or ceiling <= 0.5 else (auc - 0.5) / (ceiling - 0.5)
