"""Facts counted again, event by event, by other code than the code that measured them.

It reads the log's arrays and applies the cut-off itself, so that an error in reading a span or in a fact's
arithmetic shows as a refuted fact.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from qanchor.events.history import EventArrays
from qanchor.times import DAY_US
from qanchor.training.useru.facts import DAYPARTS, Fact, bin_edges, trend_word
from qanchor.training.useru.topics import words_of
from qanchor.workspace import Workspace


@dataclass(frozen=True)
class Event:
    """One event of a user.

    Args:
        modality: name of the modality.
        time: microseconds UTC.
        text: text that the model reads.
        amount: amount of the event; None: missing.
    """

    modality: str
    time: int
    text: str
    amount: float | None


@dataclass(frozen=True)
class Claim:
    """The events that the facts of one answer are about.

    Args:
        row: row of the user.
        cutoff: cut-off, microseconds UTC.
        days: length of the span; negative: before the cut-off.
        words: words of the topic, of which an event has at least one; None: any topic.
        modality: modality of the events; empty: any modality.
    """

    row: int
    cutoff: int
    days: int
    words: frozenset[str] | None = None
    modality: str = ""

    @property
    def narrowed(self) -> bool:
        """Whether it is about a topic or a modality."""
        return self.words is not None or bool(self.modality)


class Recounter:
    """Checks facts against the events.

    Args:
        arrays: visible events.
        workspace: names of the modalities and amounts.
    """

    def __init__(self, arrays: EventArrays, workspace: Workspace) -> None:
        self._arrays = arrays
        self._workspace = workspace
        self._last: tuple[int, list[Event]] = (-1, [])

    def events(self, claim: Claim) -> list[Event]:
        """The user's events in the claim's span, about any topic."""
        low, high = sorted((claim.cutoff, claim.cutoff + claim.days * DAY_US))
        row, history = self._last
        if row != claim.row:
            history = list(self._history(claim.row))
            self._last = claim.row, history  # one assignment, because threads share it
        return [event for event in history if low <= event.time < high]

    def refuted(self, claim: Claim, facts: tuple[Fact, ...]) -> list[str]:
        """The names of the facts that the events refute."""
        everything = self.events(claim)
        matching = [event for event in everything if _matches(event, claim)]
        counted = _Counted(claim, matching, everything, tuple(self._workspace.modalities))
        return [fact.name for fact in facts if not _CHECKS[fact.name](counted, fact.value)]

    def _history(self, row: int) -> Iterator[Event]:
        for events in self._arrays.modalities:
            spec = self._workspace.modalities[events.name]
            field = spec.numbers.index(spec.amount) if spec.amount else None
            for i in range(int(events.offsets[row]), int(events.offsets[row + 1])):
                amount = None if field is None else float(events.numbers[i, field])
                present = None if amount is None or math.isnan(amount) else amount
                yield Event(events.name, int(events.time[i]), self._arrays.texts[events.text[i]], present)


@dataclass(frozen=True)
class _Counted:
    claim: Claim
    matching: list[Event]
    everything: list[Event]
    modalities: tuple[str, ...]

    def day(self, event: Event) -> int:
        """Whole days between event and cut-off."""
        away = event.time - self.claim.cutoff
        return away // DAY_US if self.claim.days > 0 else (-away - 1) // DAY_US


def _matches(event: Event, claim: Claim) -> bool:
    if claim.modality and event.modality != claim.modality:
        return False
    return claim.words is None or not claim.words.isdisjoint(_words_of(event.text))


@lru_cache(maxsize=1 << 16)
def _words_of(text: str) -> frozenset[str]:
    return frozenset(words_of(text))


def _check_events(counted: _Counted, value: str) -> bool:
    return len(counted.matching) == int(value)


def _check_active_days(counted: _Counted, value: str) -> bool:
    return len({event.time // DAY_US for event in counted.matching}) == int(value)


def _check_nearest(counted: _Counted, value: str) -> bool:
    return min(counted.day(event) for event in counted.matching) == int(value)


def _check_share(counted: _Counted, value: str) -> bool:
    exact = 100 * len(counted.matching) / max(1, len(counted.everything))
    return counted.claim.narrowed and abs(exact - int(value)) <= 0.5


def _check_kinds(counted: _Counted, value: str) -> bool:
    return len({event.text for event in counted.matching}) == int(value)


def _check_top(counted: _Counted, value: str) -> bool:
    counts = Counter(event.text for event in counted.matching)
    return all(counts[text] == count for text, count in json.loads(value).items())


def _check_amount(counted: _Counted, value: str) -> bool:
    total = math.fsum(event.amount for event in counted.matching if event.amount is not None)
    return math.isclose(total, float(value), rel_tol=1e-6, abs_tol=0.011)


def _check_bins(counted: _Counted, value: str) -> bool:
    edges = bin_edges(counted.claim.days)
    tally = Counter(
        (sum(counted.day(event) >= edge for edge in edges[1:-1]), event.modality)
        for event in counted.matching
    )
    stated = json.loads(value)
    return len(stated) == len(edges) - 1 and all(
        count == tally[number, name]
        for number, row in enumerate(stated)
        for name, count in zip(counted.modalities, row, strict=True)
    )


def _check_trend(counted: _Counted, value: str) -> bool:
    third, days = bin_edges(counted.claim.days)[-2], abs(counted.claim.days)
    near = sum(counted.day(event) < third for event in counted.matching)
    word = trend_word(near, len(counted.matching) - near, third, days - third)
    if counted.claim.days > 0 and word != "steady":
        word = "falling" if word == "rising" else "rising"
    return word == value


def _check_daypart(counted: _Counted, value: str) -> bool:
    name, percent = value.split()
    hits = sum(DAYPARTS[event.time % DAY_US * 4 // DAY_US] == name for event in counted.matching)
    return abs(100 * hits / max(1, len(counted.matching)) - int(percent)) <= 0.5


def _check_modalities(counted: _Counted, value: str) -> bool:
    stated: dict[str, int] = json.loads(value)
    return Counter(event.modality for event in counted.matching) == stated


_CHECKS: dict[str, Callable[[_Counted, str], bool]] = {
    "events": _check_events,
    "active_days": _check_active_days,
    "nearest_days": _check_nearest,
    "share": _check_share,
    "kinds": _check_kinds,
    "top": _check_top,
    "amount": _check_amount,
    "bins": _check_bins,
    "trend": _check_trend,
    "daypart": _check_daypart,
    "places": _check_modalities,
}
