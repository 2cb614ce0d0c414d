"""Facts about a user's events in a span: each a value that can be counted again, and a sentence.

Times are UTC. Numbers are counted from the events; nothing is estimated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from qanchor.times import DAY_US, HOUR_US
from qanchor.training.useru.answers import COUNT_LEVELS, COUNT_WORDS

Int64 = NDArray[np.int64]
DAYPARTS = ("night", "morning", "afternoon", "evening")
_TOP = 3
_FEWEST_EVENTS = 4  # with fewer, a habit may be chance
_TREND = 1.5
_SHOWN_CHARACTERS = 60


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured fact.

    Args:
        name: name of the measure: events, active_days, ...
        value: measured value, in the form that `recount.py` checks.
        says: the fact as a sentence.
    """

    name: str
    value: str
    says: str


@dataclass(frozen=True)
class SelectedEvents:
    """A user's events of one span about one subject, ascending by time.

    Args:
        about: subject in words; empty: all events.
        cutoff: cut-off, microseconds UTC.
        days: length of the span; negative: before the cut-off.
        modality: int64 [events], index of each event's modality.
        time: int64 [events], microseconds UTC.
        text: object [events], text of each event.
        amount: float64 [events], NaN for a missing amount.
        modalities: names of the modalities.
        of_all: number of the user's events in the span, about any subject.
    """

    about: str
    cutoff: int
    days: int
    modality: Int64
    time: Int64
    text: NDArray[np.object_]
    amount: NDArray[np.float64]
    modalities: Sequence[str]
    of_all: int

    def __len__(self) -> int:
        return len(self.time)


def bin_edges(days: int) -> tuple[int, ...]:
    """Edges of a span's time bins in days from the cut-off: near bins are shorter."""
    return tuple(sorted({0, round(abs(days) / 10), round(abs(days) / 3), abs(days)}))


def level_word(count: int) -> str:
    """A count as one of nine words, those of the answers made on the fly."""
    return COUNT_WORDS[int(np.searchsorted(COUNT_LEVELS, count, side="right"))]


def gather_facts(events: SelectedEvents) -> dict[str, Fact]:
    """All facts of a selection, by name; of an empty one only the count."""
    measures = _MEASURES if len(events) else {"events": _count}
    facts = {name: measure(events) for name, measure in measures.items()}
    return {name: fact for name, fact in facts.items() if fact is not None}


def shown_text(text: str) -> str:
    """An event's text as sentences quote it: shortened, on one line, without double quotes."""
    return " ".join(text.split())[:_SHOWN_CHARACTERS].replace('"', "'").strip()


def choose_actions(texts: Sequence[str], counts: Sequence[int], kinds: Sequence[int], most: int) -> list[int]:
    """Actions that are frequent and unlike each other: each choice halves the weight of its modality.

    Args:
        texts: distinct actions.
        counts: number of events of each action.
        kinds: modality of each action.
        most: largest number of chosen actions.

    Returns:
        Indices of the chosen actions, in the order of choice.
    """
    chosen: list[int] = []
    words = [set(text.lower().split()) for text in texts]
    weight = np.log1p(np.asarray(counts, np.float64))
    left = sorted(range(len(texts)), key=lambda i: texts[i])
    while left and len(chosen) < most:
        best = max(left, key=lambda i: weight[i])
        chosen.append(best)
        left.remove(best)
        for i in left:
            overlap = len(words[i] & words[best]) / max(1, len(words[i] | words[best]))
            weight[i] *= (0.5 if kinds[i] == kinds[best] else 1.0) * (1 - 0.5 * overlap)
    return chosen


def _days_away(events: SelectedEvents) -> Int64:
    """Whole days between each event and the cut-off."""
    # The last microsecond before the cut-off is on day 0 before it.
    return (
        (events.cutoff - 1 - events.time) // DAY_US
        if events.days < 0
        else (events.time - events.cutoff) // DAY_US
    )


def _count(events: SelectedEvents) -> Fact:
    about = f" about {events.about}" if events.about else ""
    level = level_word(len(events))
    count = level if len(events) <= 2 else f"{level}, {len(events)}"
    return Fact("events", str(len(events)), f"Events{about}: {count} in {_counted(abs(events.days), 'day')}.")


def _active_days(events: SelectedEvents) -> Fact:
    days = len(np.unique(events.time // DAY_US))
    return Fact("active_days", str(days), f"On {_counted(days, 'day')}.")


def _nearest(events: SelectedEvents) -> Fact:
    nearest = int(_days_away(events).min())
    if events.days < 0:
        says = f"The latest {_counted(nearest, 'day')} before." if nearest else "The latest on the last day."
    else:
        says = f"The first after {_counted(nearest, 'day')}." if nearest else "The first within a day."
    return Fact("nearest_days", str(nearest), says)


def _share(events: SelectedEvents) -> Fact | None:
    if not events.about:
        return None
    percent = round(100 * len(events) / events.of_all)
    return Fact("share", str(percent), f"That is {percent}% of all events.")


def _kinds(events: SelectedEvents) -> Fact:
    kinds = len(set(events.text.tolist()))
    return Fact("kinds", str(kinds), f"Of {kinds} different kinds." if kinds > 1 else "All of one kind.")


def _top(events: SelectedEvents) -> Fact:
    texts, first, counts = np.unique(events.text.astype(str), return_index=True, return_counts=True)
    chosen = choose_actions(texts.tolist(), counts.tolist(), events.modality[first].tolist(), _TOP)
    quoted = ", ".join(f'"{shown_text(texts[i])}" ({counts[i]})' for i in chosen)
    value = msgspec.json.encode({str(texts[i]): int(counts[i]) for i in chosen}).decode()
    return Fact("top", value, f"Chiefly {quoted}.")


def _amount(events: SelectedEvents) -> Fact | None:
    present = events.amount[~np.isnan(events.amount)]
    if not len(present):
        return None
    total = float(present.sum())
    return Fact("amount", f"{total:.2f}", f"Amounts come to {total:,.0f} in all.")


def _bins(events: SelectedEvents) -> Fact:
    edges = bin_edges(events.days)
    time_bin = np.searchsorted(np.array(edges[1:]), _days_away(events), side="right")
    counts = np.zeros((len(edges) - 1, len(events.modalities)), np.int64)
    np.add.at(counts, (time_bin, events.modality), 1)
    per_bin = [_bin_text(row, events) for row in counts]
    head = "Days back" if events.days < 0 else "Days ahead"
    ends = pairwise(edges)
    names = [f"{low + 1} to {high}" if low + 1 < high else str(high) for low, high in ends]
    listed = "; ".join(f"{name}: {text}" for name, text in zip(names, per_bin, strict=True))
    return Fact("bins", msgspec.json.encode(counts.tolist()).decode(), f"{head} {listed}.")


def _bin_text(row: Int64, events: SelectedEvents) -> str:
    if not row.sum():
        return "nothing"
    if events.about:
        return str(int(row.sum()))
    return ", ".join(
        f"{name.replace('_', ' ')} {count}"
        for name, count in zip(events.modalities, row.tolist(), strict=True)
        if count
    )


def _trend(events: SelectedEvents) -> Fact | None:
    third = bin_edges(events.days)[-2]
    if len(events) < _FEWEST_EVENTS or not third or third == abs(events.days):
        return None
    near = int((_days_away(events) < third).sum())
    word = trend_word(near, len(events) - near, third, abs(events.days) - third)
    if events.days > 0:
        word = {"rising": "falling", "falling": "rising"}.get(word, word)
    return Fact("trend", word, f"It is {word}.")


def trend_word(near: int, far: int, near_days: int, far_days: int) -> str:
    """rising, falling or steady, from the counts near the cut-off and far from it."""
    recent, earlier = near / near_days, far / far_days
    if recent > _TREND * earlier:
        return "rising"
    return "falling" if earlier > _TREND * recent else "steady"


def _daypart(events: SelectedEvents) -> Fact | None:
    if len(events) < _FEWEST_EVENTS:
        return None
    parts = np.bincount((events.time % DAY_US) // (6 * HOUR_US), minlength=4)
    best = int(parts.argmax())
    percent = round(100 * int(parts[best]) / len(events))
    return Fact("daypart", f"{DAYPARTS[best]} {percent}", f"Mostly in the {DAYPARTS[best]}, {percent}%.")


def _modalities(events: SelectedEvents) -> Fact | None:
    counts = np.bincount(events.modality, minlength=len(events.modalities)).tolist()
    counted = {name: count for name, count in zip(events.modalities, counts, strict=True) if count}
    if not events.about or len(counted) < 2:
        return None
    listed = ", ".join(f"{name.replace('_', ' ')} ({count})" for name, count in counted.items())
    return Fact("places", msgspec.json.encode(counted).decode(), f"Seen in {listed}.")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_MEASURES: dict[str, Callable[[SelectedEvents], Fact | None]] = {
    "events": _count,
    "active_days": _active_days,
    "nearest_days": _nearest,
    "share": _share,
    "kinds": _kinds,
    "top": _top,
    "amount": _amount,
    "bins": _bins,
    "trend": _trend,
    "daypart": _daypart,
    "places": _modalities,
}
