"""Facts about what a user did in a span: each a number or a list that can be counted again, and a sentence.

Times are UTC. Numbers are those of the events themselves; nothing is estimated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from qanchor.training.useru.answers import COUNT_LEVELS, COUNT_WORDS
from qanchor.training.useru.spans import DAY

Int64 = NDArray[np.int64]
DAYPARTS = ("night", "morning", "afternoon", "evening")
_HOUR = 3_600_000_000
_TOP = 3
_OFTEN_ENOUGH = 4  # events, below which a habit is chance
_TREND = 1.5
_SHOWN_CHARACTERS = 60


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that is so.

    Args:
        name: what was measured: events, active_days, ...
        value: what came out, in the form that `recount.py` checks.
        says: the fact as a sentence.
    """

    name: str
    value: str
    says: str


@dataclass(frozen=True)
class Seen:
    """A user's events in one span about one thing, ascending by time.

    Args:
        about: the thing in words; empty: everything.
        cutoff: microseconds UTC.
        days: length of the span; negative: before the cut-off.
        modality: int64 [events], position of each event's modality.
        time: int64 [events], microseconds UTC.
        text: object [events].
        amount: float64 [events], NaN where there is none.
        modalities: the modalities' names.
        of_all: the user's events of the span, whatever they are about.
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
    """Days from the cut-off where the time bins of a span begin and end: near ones are shorter."""
    return tuple(sorted({0, round(abs(days) / 10), round(abs(days) / 3), abs(days)}))


def level_word(count: int) -> str:
    """A count as one of nine words; the same words as the answers made on the fly."""
    return COUNT_WORDS[int(np.searchsorted(COUNT_LEVELS, count, side="right"))]


def gather_facts(seen: Seen) -> dict[str, Fact]:
    """All facts that can be told about a span, by name; of an empty span the count alone."""
    measures = _MEASURES if len(seen) else {"events": _events}
    facts = {name: measure(seen) for name, measure in measures.items()}
    return {name: fact for name, fact in facts.items() if fact is not None}


def shown_text(text: str) -> str:
    """An event's text as sentences quote it: its beginning, on one line, without double quotes."""
    return " ".join(text.split())[:_SHOWN_CHARACTERS].replace('"', "'").strip()


def choose_actions(texts: Sequence[str], counts: Sequence[int], kinds: Sequence[int], most: int) -> list[int]:
    """Actions that are frequent and unlike each other: each one halves the worth of its modality and words.

    Args:
        texts: distinct actions.
        counts: how often each happened.
        kinds: each one's modality.
        most: how many to choose.

    Returns:
        Positions, in the order of choice.
    """
    chosen: list[int] = []
    words = [set(text.lower().split()) for text in texts]
    worth = np.log1p(np.asarray(counts, np.float64))
    left = sorted(range(len(texts)), key=lambda i: texts[i])
    while left and len(chosen) < most:
        best = max(left, key=lambda i: worth[i])
        chosen.append(best)
        left.remove(best)
        for i in left:
            alike = len(words[i] & words[best]) / max(1, len(words[i] | words[best]))
            worth[i] *= (0.5 if kinds[i] == kinds[best] else 1.0) * (1 - 0.5 * alike)
    return chosen


def _days_away(seen: Seen) -> Int64:
    """Whole days between each event and the cut-off."""
    # The last microsecond before the cut-off is on day 0 before it.
    return (seen.cutoff - 1 - seen.time) // DAY if seen.days < 0 else (seen.time - seen.cutoff) // DAY


def _events(seen: Seen) -> Fact:
    about = f" about {seen.about}" if seen.about else ""
    level = level_word(len(seen))
    told = level if len(seen) <= 2 else f"{level}, {len(seen)}"
    return Fact("events", str(len(seen)), f"Events{about}: {told} in {_counted(abs(seen.days), 'day')}.")


def _active_days(seen: Seen) -> Fact:
    days = len(np.unique(seen.time // DAY))
    return Fact("active_days", str(days), f"On {_counted(days, 'day')}.")


def _nearest(seen: Seen) -> Fact:
    nearest = int(_days_away(seen).min())
    if seen.days < 0:
        says = f"The latest {_counted(nearest, 'day')} before." if nearest else "The latest on the last day."
    else:
        says = f"The first after {_counted(nearest, 'day')}." if nearest else "The first within a day."
    return Fact("nearest_days", str(nearest), says)


def _share(seen: Seen) -> Fact | None:
    if not seen.about:
        return None
    percent = round(100 * len(seen) / seen.of_all)
    return Fact("share", str(percent), f"That is {percent}% of all events.")


def _kinds(seen: Seen) -> Fact:
    kinds = len(set(seen.text.tolist()))
    return Fact("kinds", str(kinds), f"Of {kinds} different kinds." if kinds > 1 else "All of one kind.")


def _top(seen: Seen) -> Fact:
    texts, first, counts = np.unique(seen.text.astype(str), return_index=True, return_counts=True)
    chosen = choose_actions(texts.tolist(), counts.tolist(), seen.modality[first].tolist(), _TOP)
    told = ", ".join(f'"{shown_text(texts[i])}" ({counts[i]})' for i in chosen)
    value = msgspec.json.encode({str(texts[i]): int(counts[i]) for i in chosen}).decode()
    return Fact("top", value, f"Chiefly {told}.")


def _amount(seen: Seen) -> Fact | None:
    present = seen.amount[~np.isnan(seen.amount)]
    if not len(present):
        return None
    total = float(present.sum())
    return Fact("amount", f"{total:.2f}", f"Amounts come to {total:,.0f} in all.")


def _bins(seen: Seen) -> Fact:
    edges = bin_edges(seen.days)
    place = np.searchsorted(np.array(edges[1:]), _days_away(seen), side="right")
    counts = np.zeros((len(edges) - 1, len(seen.modalities)), np.int64)
    np.add.at(counts, (place, seen.modality), 1)
    per_bin = [_bin_text(row, seen) for row in counts]
    # The days of a span are counted from the cut-off, in both directions.
    head = "Days back" if seen.days < 0 else "Days ahead"
    ends = pairwise(edges)
    names = [f"{low + 1} to {high}" if low + 1 < high else str(high) for low, high in ends]
    told = "; ".join(f"{name}: {text}" for name, text in zip(names, per_bin, strict=True))
    return Fact("bins", msgspec.json.encode(counts.tolist()).decode(), f"{head} {told}.")


def _bin_text(row: Int64, seen: Seen) -> str:
    if not row.sum():
        return "nothing"
    if seen.about:
        return str(int(row.sum()))
    return ", ".join(
        f"{name.replace('_', ' ')} {count}"
        for name, count in zip(seen.modalities, row.tolist(), strict=True)
        if count
    )


def _trend(seen: Seen) -> Fact | None:
    third = bin_edges(seen.days)[-2]
    if len(seen) < _OFTEN_ENOUGH or not third or third == abs(seen.days):
        return None
    near = int((_days_away(seen) < third).sum())
    word = trend_word(near, len(seen) - near, third, abs(seen.days) - third)
    if seen.days > 0:
        word = {"rising": "falling", "falling": "rising"}.get(word, word)
    return Fact("trend", word, f"It is {word}.")


def trend_word(near: int, far: int, near_days: int, far_days: int) -> str:
    """rising, falling or steady, from the counts near the cut-off and far from it."""
    recent, earlier = near / near_days, far / far_days
    if recent > _TREND * earlier:
        return "rising"
    return "falling" if earlier > _TREND * recent else "steady"


def _daypart(seen: Seen) -> Fact | None:
    if len(seen) < _OFTEN_ENOUGH:
        return None
    parts = np.bincount((seen.time % DAY) // (6 * _HOUR), minlength=4)
    best = int(parts.argmax())
    percent = round(100 * int(parts[best]) / len(seen))
    return Fact("daypart", f"{DAYPARTS[best]} {percent}", f"Mostly in the {DAYPARTS[best]}, {percent}%.")


def _places(seen: Seen) -> Fact | None:
    counts = np.bincount(seen.modality, minlength=len(seen.modalities)).tolist()
    seen_in = {name: count for name, count in zip(seen.modalities, counts, strict=True) if count}
    if not seen.about or len(seen_in) < 2:
        return None
    told = ", ".join(f"{name.replace('_', ' ')} ({count})" for name, count in seen_in.items())
    return Fact("places", msgspec.json.encode(seen_in).decode(), f"Seen in {told}.")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_MEASURES: dict[str, Callable[[Seen], Fact | None]] = {
    "events": _events,
    "active_days": _active_days,
    "nearest_days": _nearest,
    "share": _share,
    "kinds": _kinds,
    "top": _top,
    "amount": _amount,
    "bins": _bins,
    "trend": _trend,
    "daypart": _daypart,
    "places": _places,
}
