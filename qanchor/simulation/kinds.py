"""Every kind of event in slot order, and which of them labels and spending count."""

from qanchor.simulation.catalogue import catalogue
from qanchor.simulation.kind import MODALITIES, SLOTS, Kind
from qanchor.simulation.wording import POOLS

__all__ = ["INDEX", "KINDS", "MODALITIES", "SLOTS", "SPENDING", "SPENDING_CATEGORIES", "TARGETS", "Kind"]

TARGETS = ("claim", "late_fee", "concert", "forest", "takeout", "premium", "redeem")

KINDS: tuple[Kind, ...] = tuple(
    sorted(
        catalogue(),
        key=lambda kind: list(SLOTS).index(kind.slot),
    )
)
INDEX: dict[str, int] = {kind.name: i for i, kind in enumerate(KINDS)}
SPENDING_CATEGORIES = frozenset({"food", "shopping", "entertainment", "transport", "travel", "household"})
# Every kind with one step that is spending; each has exactly one.
SPENDING = tuple(
    kind.name
    for kind in KINDS
    if SLOTS[kind.slot].modality == "bill"
    and any(POOLS[pool][0][0] == "pays" and POOLS[pool][0][1] in SPENDING_CATEGORIES for pool in kind.pools)
)

if missing := {pool for kind in KINDS for pool in kind.pools} - set(POOLS):
    raise ValueError(f"kinds without words: {sorted(missing)}")
