"""Small worlds, builds and points for the UserU tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from qanchor.events.history import EventArrays, arrays_from_table
from qanchor.progress import Silent
from qanchor.times import to_microseconds
from qanchor.training.useru.build import Job, build_set
from qanchor.training.useru.facts import Fact
from qanchor.training.useru.points import visible_events
from qanchor.training.useru.store import Manifest, read_pairs
from qanchor.training.useru.survey import BuildConfig
from qanchor.training.useru.writer import GroundedWriter
from tests.unit.training.worlds import UNTIL, tiny_events, tiny_workspace

END = to_microseconds(UNTIL)
WORKSPACE = tiny_workspace()
LISTED: Mapping[str, tuple[str, ...]] = {
    "northern ports": ("oslo",),
    "ballads": ("ballad",),
    "dances": ("waltz", "march"),
    "space travel": ("rocket",),
}
CONFIG = BuildConfig(cutoffs=2, step_days=10, horizons_days=(7, 14, 30), topics=3)


def visible(events: pd.DataFrame | None = None) -> EventArrays:
    """What pre-training may see of the events."""
    table = tiny_events() if events is None else events
    return visible_events(arrays_from_table(table, WORKSPACE), END, frozenset())


def build(
    folder: Path,
    events: pd.DataFrame | None = None,
    config: BuildConfig = CONFIG,
    **job: Any,
) -> Manifest:
    """A set in the folder; by the grounded writer unless `job` names another."""
    made = Job(**{"writer": GroundedWriter(), "listed": LISTED, "folder": folder, **job})
    return build_set(visible(events), WORKSPACE, END, config, made, Silent())


def rows_of(folder: Path, dataset: str, dropped: bool = False) -> list[dict[str, Any]]:
    """The pairs of one data set."""
    table: pa.Table = read_pairs(folder, dropped)
    rows: list[dict[str, Any]] = table.to_pylist()
    return [row for row in rows if row["dataset"] == dataset]


def tampered(fact: Fact) -> Fact:
    """The fact with another value of the same form."""
    wrong = {
        "trend": {"rising": "falling", "falling": "steady", "steady": "rising"}.get(fact.value, ""),
        "daypart": f"{fact.value.split()[0]} {(int(fact.value.split()[-1]) + 7) % 100}"
        if fact.name == "daypart"
        else "",
    }.get(fact.name)
    if wrong:
        return Fact(fact.name, wrong, fact.says)
    digits = [i for i, character in enumerate(fact.value) if character.isdigit()]
    # Not a digit of a name: in the JSON of `top`, numbers follow a colon.
    at = next(i for i in digits if fact.name != "top" or fact.value[i - 1] == ":")
    other = str((int(fact.value[at]) + 1) % 10) if fact.value[at] != "9" else "8"
    return Fact(fact.name, fact.value[:at] + other + fact.value[at + 1 :], fact.says)
