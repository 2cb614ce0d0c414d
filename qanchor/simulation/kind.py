"""A kind of event, and the slots of a day that kinds share.

Kinds of one slot share that slot's volume (a softmax), so that a user's interests move the mix of texts far
more than the counts. Each kind of the slot `daily` has its daily rate instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MODALITIES = ("bill", "mini_program", "spm", "app", "search", "tabular")


@dataclass(frozen=True)
class Slot:
    """A modality's share of a day.

    Args:
        modality: modality of its kinds.
        volume: mean events on an active day of an average user.
        effects: weight of each feature on the log of the volume.
    """

    modality: str
    volume: float
    effects: Mapping[str, float] = field(default_factory=dict)


SLOTS: dict[str, Slot] = {
    "food": Slot("bill", 0.34, {"takeout": 0.15}),
    "shop": Slot("bill", 0.32, {"premium": 0.15, "bargain": 0.1}),
    "leisure": Slot("bill", 0.30, {"music": 0.1, "concert.planning": 0.4, "money.distressed": 0.3}),
    "mini": Slot("mini_program", 0.75, {"eco": 0.1, "grove.playing": 0.35, "deals.hunting": 0.2}),
    "page": Slot("spm", 0.20, {"money.distressed": 0.4, "concert.planning": 0.3, "deals.hunting": 0.3}),
    "app": Slot("app", 0.45, {"money.distressed": 0.3, "money.slipping": 0.2, "takeout": 0.1}),
    "search": Slot("search", 0.45, {"deals.hunting": 0.3, "concert.planning": 0.4, "premium": 0.1}),
    "daily": Slot("bill", 0.0),
}


@dataclass(frozen=True)
class Kind:
    """One kind of event.

    Args:
        name: name of the kind.
        slot: key of SLOTS.
        base: logit within the slot; for `daily`, log of the rate per day.
        effects: weight of each feature (trait or `regime.state`) on the logit.
        steps: pools of a script's events in order; empty: one event, of the pool with the kind's name.
        amount: median and log-deviation of the money, where the modality has any.
        hour: mean and deviation of the hour of day.
        active_only: whether it happens on days with a log-in only.
    """

    name: str
    slot: str
    base: float
    effects: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    amount: tuple[float, float] = (0.0, 0.0)
    hour: tuple[float, float] = (15.0, 4.0)
    active_only: bool = True

    @property
    def pools(self) -> tuple[str, ...]:
        """The pools of its events in order."""
        return self.steps or (self.name,)
