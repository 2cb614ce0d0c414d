"""What pre-training may see: events before a moment, of users who are not held out."""

from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, ModalityEvents


def visible_events(arrays: EventArrays, until: int, exclude_users: AbstractSet[str]) -> EventArrays:
    """The arrays as if the log ended at `until` and the excluded users had never been there.

    Users and texts that are not seen before `until` are gone as well, and texts are sorted, so that
    nothing later can move a row number, a word or a random draw.

    Args:
        arrays: all events.
        until: microseconds since the epoch, UTC; events at or after it are left out.
        exclude_users: user ids to leave out.
    """
    kept_user = ~np.isin(arrays.users, np.array(sorted(exclude_users), dtype=object))
    keep = [(e.time < until) & np.repeat(kept_user, np.diff(e.offsets)) for e in arrays.modalities]
    counts = [
        np.add.reduceat(np.append(mask, False), e.offsets[:-1]) * (np.diff(e.offsets) > 0)
        for mask, e in zip(keep, arrays.modalities, strict=True)
    ]
    seen = np.sum(counts, axis=0) > 0 if counts else np.zeros(len(arrays.users), bool)
    used = sorted(
        {
            int(i)
            for e, mask in zip(arrays.modalities, keep, strict=True)
            for i in np.unique(e.text[mask]).tolist()
        },
        key=lambda i: arrays.texts[i],
    )
    renumber = np.full(len(arrays.texts), -1, np.int32)
    renumber[used] = np.arange(len(used), dtype=np.int32)
    modalities = tuple(
        _restricted(e, mask, count[seen].astype(np.int64), renumber)
        for e, mask, count in zip(arrays.modalities, keep, counts, strict=True)
    )
    return EventArrays(arrays.users[seen], tuple(arrays.texts[i] for i in used), modalities)


def _restricted(
    events: ModalityEvents, mask: NDArray[np.bool_], counts: NDArray[np.int64], renumber: NDArray[np.int32]
) -> ModalityEvents:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    text = renumber[events.text[mask]]
    return ModalityEvents(events.name, offsets, events.time[mask], text, events.numbers[mask])
