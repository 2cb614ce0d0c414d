"""The users that an audience is built from, and what became of each line of their file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from qanchor.audience.population import Population
from qanchor.errors import SeedsInvalid
from qanchor.names import USER_ID
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


def read_users(path: Path, what: str = "seeds") -> list[str]:
    """The user ids of a file, in its order: text (one a line), or CSV or Parquet with user_id.

    Args:
        path: the file.
        what: what the file is, for messages.

    Raises:
        SeedsInvalid: the file cannot be read, has no column user_id or names nobody; mend it.
    """
    remedy = "Give a text file with one user_id a line, or CSV or Parquet with a column user_id."
    try:
        ids = _read_ids(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise SeedsInvalid(f"{what} file {path} cannot be read: {reason}", remedy) from error
    except KeyError:
        raise SeedsInvalid(f"{what} file {path} has no column {USER_ID}", remedy) from None
    users = [user.strip() for user in ids if user is not None and user.strip()]
    if not users:
        raise SeedsInvalid(f"{what} file {path} names no user", remedy)
    return users


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


def _read_ids(path: Path) -> list[str | None]:
    if path.suffix == ".parquet":
        table = pq.read_table(path, columns=[USER_ID])
    elif path.suffix == ".csv":
        options = pa_csv.ConvertOptions(column_types={USER_ID: pa.string()}, strings_can_be_null=False)
        table = pa_csv.read_csv(path, convert_options=options)
    else:
        lines = path.read_text(encoding="utf-8").splitlines()
        return list(lines[1:] if lines and lines[0].strip() == USER_ID else lines)
    ids: list[str | None] = table[USER_ID].cast(pa.string()).to_pylist()
    return ids
