"""The users that an audience is built from, and what became of each line of their file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from qanchor.audience.population import Population
from qanchor.errors import SeedsInvalid
from qanchor.storage.vectors import Rows, Vectors


@dataclass(frozen=True)
class Seeds:
    """Seeds as the index knows them.

    Args:
        users: string [seeds], distinct, in the order given: those that are searched with.
        rows: int64 [seeds], their rows in the index.
        vectors: float32 [seeds, width].
        unknown: users that the index does not have, in the order given.
        without_events: users whose history is empty at the index's cut-off: all of them share one vector,
            which says nothing about them. They are not searched with.
        duplicates: how many times a user was named again.
    """

    users: pa.Array
    rows: Rows
    vectors: Vectors
    unknown: tuple[str, ...]
    without_events: tuple[str, ...]
    duplicates: int

    def take(self, places: Rows) -> "Seeds":
        """Some of the seeds that are searched with; nothing else is said of them."""
        users = self.users.take(pa.array(places, pa.int64()))
        return Seeds(users, self.rows[places], self.vectors[places], (), (), 0)


def hash_users(users: Sequence[str]) -> str:
    """SHA-256 of a set of users; their order and repetitions do not count."""
    return hashlib.sha256("\n".join(sorted(set(users))).encode()).hexdigest()


def find_seeds(population: Population, given: Sequence[str]) -> Seeds:
    """Look seeds up, and say of each what became of it.

    Args:
        population: whose index knows them.
        given: user ids, repetitions and unknown ones included.

    Raises:
        SeedsInvalid: none can be searched with, or all have the same vector; the message says which.
    """
    distinct = list(dict.fromkeys(given))
    rows = population.index.rows_of(distinct)
    known = rows >= 0
    empty = known & population.is_eventless(rows)
    unknown, without_events = (
        tuple(user for user, there in zip(distinct, places, strict=True) if there)
        for places in (~known, empty)
    )
    _refuse_unusable(distinct, unknown, without_events)
    chosen = rows[known & ~empty]
    vectors = population.index.vectors(chosen)
    if len(distinct) == 1 < len(given):
        raise SeedsInvalid(
            f"the {len(given):,} seeds given are all the same user", "Give others, or it once."
        )
    if len(chosen) > 1 and not np.any(np.ptp(vectors, axis=0) > 1e-7):
        raise SeedsInvalid(
            f"the {len(chosen):,} seeds are identical: all have the same vector", "Give seeds that differ."
        )
    users = population.index.user_ids(chosen)
    return Seeds(users, chosen, vectors, unknown, without_events, len(given) - len(distinct))


def _refuse_unusable(distinct: Sequence[str], unknown: Sequence[str], without_events: Sequence[str]) -> None:
    if len(unknown) + len(without_events) < len(distinct):
        return
    first = f", the first is {distinct[0]!r}" if distinct else ""
    if without_events:
        raise SeedsInvalid(
            f"no seed can be searched with: {len(without_events):,} have no events at the embeddings'"
            f" cut-off and {len(unknown):,} have no embedding{first}",
            "Give users with events inside the history window.",
        )
    raise SeedsInvalid(
        f"none of the {len(distinct):,} seeds has an embedding{first}",
        "Use ids of users in the event log, or run `qanchor-cli backfill` and `index build` again.",
    )
