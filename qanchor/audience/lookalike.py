"""Lookalike search: the users nearest to a list of seeds, in the space of one scenario."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qanchor.errors import InputError, SeedsInvalid
from qanchor.names import USER_ID
from qanchor.storage.vectors import Rows, VectorIndex, Vectors

Method = Literal["centroid", "nearest"]

_CHUNK = 256


@dataclass(frozen=True)
class LookalikeRequest:
    """What is searched for.

    Args:
        seeds: user ids, duplicates and unknown ones included.
        k: users wanted.
        method: 'centroid' ranks by the cosine to the mean of the seeds: the audience as a whole.
            'nearest' ranks by the cosine to the nearest seed: seeds of several kinds each count.
        include_seeds: whether seeds may be found too.
    """

    seeds: Sequence[str]
    k: int
    method: Method = "centroid"
    include_seeds: bool = False


@dataclass(frozen=True)
class Lookalikes:
    """What was found.

    Args:
        table: rank (from 1), user_id, score, nearest_seed, distance; best first. `score` is the cosine that
            ranks, `distance` is 1 - cosine to the nearest seed.
        seeds: distinct seeds that the search used.
        unknown: seeds that the index does not have, in the order given.
        duplicates: seeds given again.
        population: users that could be found.
        asked: the k asked for; more than the table has rows where the population is smaller.
    """

    table: pa.Table
    seeds: int
    unknown: tuple[str, ...]
    duplicates: int
    population: int
    asked: int


def read_seeds(path: Path) -> list[str]:
    """The user ids of a seeds file, in its order: text (one a line), or CSV or Parquet with user_id.

    Raises:
        SeedsInvalid: the file cannot be read, has no column user_id or names nobody; mend it.
    """
    remedy = "Give a text file with one user_id a line, or CSV or Parquet with a column user_id."
    try:
        ids = _read_ids(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise SeedsInvalid(f"seeds file {path} cannot be read: {reason}", remedy) from error
    except KeyError:
        raise SeedsInvalid(f"seeds file {path} has no column {USER_ID}", remedy) from None
    seeds = [seed.strip() for seed in ids if seed is not None and seed.strip()]
    if not seeds:
        raise SeedsInvalid(f"seeds file {path} names no user", remedy)
    return seeds


def find_lookalikes(index: VectorIndex, request: LookalikeRequest) -> Lookalikes:
    """The users nearest to the seeds.

    Args:
        index: of the scenario.
        request: what is searched for.

    Raises:
        SeedsInvalid: no seed is known, or nobody is left to find; use ids of embedded users.
    """
    distinct = list(dict.fromkeys(request.seeds))
    rows = index.rows_of(distinct)
    unknown = tuple(seed for seed, row in zip(distinct, rows, strict=True) if row < 0)
    known = rows[rows >= 0]
    if not len(known):
        first = f", the first is {distinct[0]!r}" if distinct else ""
        raise SeedsInvalid(
            f"none of the {len(distinct):,} seeds has an embedding{first}",
            "Use ids of users in the event log, or run `qanchor-cli backfill` and `index build` again.",
        )
    population = len(index.users) - (0 if request.include_seeds else len(known))
    if population < 1:
        raise SeedsInvalid("every embedded user is a seed", "Give fewer seeds, or use --include-seeds.")
    banned = None if request.include_seeds else known
    k = min(request.k, population)
    seeds = index.vectors(known)
    search = _by_centroid if request.method == "centroid" else _by_nearest
    scores, found = search(index, seeds, k, banned)
    return Lookalikes(
        _ranked(index, scores, found, known),
        len(known),
        unknown,
        len(request.seeds) - len(distinct),
        population,
        request.k,
    )


def write_lookalikes(found: Lookalikes, path: Path) -> None:
    """Write the table as CSV or Parquet, by the file's ending; whole or not at all.

    Raises:
        InputError: the ending is neither, or the folder does not exist.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise InputError(f"--out {path} ends in neither .csv nor .parquet", "Name the file so.")
    if not path.parent.is_dir():
        raise InputError(f"folder {path.parent} does not exist", "Make it first.")
    staged = path.with_name(f".{path.name}.tmp")
    writer = pa_csv.write_csv if path.suffix == ".csv" else pq.write_table
    try:
        writer(found.table, staged)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


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


def _by_centroid(index: VectorIndex, seeds: Vectors, k: int, banned: Rows | None) -> tuple[Vectors, Rows]:
    centre = seeds.mean(axis=0, keepdims=True)
    centre /= max(float(np.linalg.norm(centre)), 1e-12)
    scores, rows = index.search(centre, k, banned)
    return scores[0], rows[0]


def _by_nearest(index: VectorIndex, seeds: Vectors, k: int, banned: Rows | None) -> tuple[Vectors, Rows]:
    # The k best by nearest seed are among each seed's own k best.
    best: NDArray[np.float32] = np.full(len(index.users), -np.inf, np.float32)
    for start in range(0, len(seeds), _CHUNK):
        scores, rows = index.search(seeds[start : start + _CHUNK], k, banned)
        there = rows >= 0
        np.maximum.at(best, rows[there], scores[there])
    rows = np.argpartition(-best, k - 1)[:k]
    return best[rows], rows


def _ranked(index: VectorIndex, scores: Vectors, rows: Rows, seeds: Rows) -> pa.Table:
    there = rows >= 0
    scores, rows = scores[there], rows[there]
    # Rows ascend with the ids, so that equal scores are ranked by id.
    order = np.lexsort((rows, -scores))
    scores, rows = scores[order], rows[order]
    nearest, cosine = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    seed_vectors = index.vectors(seeds)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        cosines = index.vectors(rows[part]) @ seed_vectors.T
        nearest[part] = seeds[cosines.argmax(axis=1)]
        cosine[part] = cosines.max(axis=1)
    return pa.table(
        {
            "rank": np.arange(1, len(rows) + 1),
            USER_ID: index.users.take(pa.array(rows)),
            "score": scores,
            "nearest_seed": index.users.take(pa.array(nearest)),
            "distance": np.clip(1.0 - cosine, 0.0, 2.0),
        }
    )
