"""A built set of pairs on disk: Parquet with every pair's provenance, and a manifest that counts them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from qanchor.errors import InputError, NotReady
from qanchor.times import TIMESTAMP

FORMAT = 1
PAIRS, DROPPED, MANIFEST = "pairs.parquet", "dropped.parquet", "useru.json"
_FACT = pa.struct({"name": pa.string(), "value": pa.string(), "says": pa.string()})
SCHEMA = pa.schema(
    {
        "pair_id": pa.string(),
        "user_id": pa.string(),
        "cutoff": TIMESTAMP,
        "dataset": pa.string(),
        "kind": pa.string(),
        "topic": pa.string(),
        "days": pa.int32(),
        "block": pa.int32(),
        "question": pa.string(),
        "answer": pa.string(),
        "verdict": pa.string(),
        "faults": pa.list_(pa.string()),
        "facts": pa.list_(_FACT),
        "facts_used": pa.list_(pa.string()),
        "draft": pa.string(),
        "writer": pa.string(),
        "model": pa.string(),
        "prompt_hash": pa.string(),
    }
)
_FLUSH_ROWS = 5_000


class Manifest(msgspec.Struct, frozen=True, omit_defaults=False):
    """Contents and provenance of a set.

    Args:
        format: version of the files' format.
        created_at: moment of the build, UTC.
        until: end of the events that were read, exclusive, UTC.
        complete: whether all requested pairs are there.
        stopped: reason for an incomplete set; else empty.
        build: settings of the build.
        pool: topics, each with its name, its words in the log and whether it was listed.
        points: number of users at a cut-off.
        users: number of distinct users.
        counts: pairs by verdict, dataset, kind, horizon and topic, and statements checked and mended.
        words: answers by number of words, in steps of ten.
        faults: faults by kind, most frequent first.
        spending: calls, tokens and cost of a language model; empty without one.
        content_hash: hash of the pairs, independent of the order of the rows.
    """

    format: int
    created_at: datetime
    until: datetime
    complete: bool
    stopped: str
    build: dict[str, Any]
    pool: list[dict[str, Any]]
    points: int
    users: int
    counts: dict[str, dict[str, int]]
    words: dict[str, int]
    faults: dict[str, int]
    spending: dict[str, float]
    content_hash: str


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that is in use.

    Raises:
        InputError: the folder has content; name another one.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists already", "Name a new folder, or remove that one first.")


class PairSink:
    """Writes pairs piece by piece, and counts them.

    Args:
        folder: folder of the files; it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._rows: dict[str, list[Mapping[str, Any]]] = {PAIRS: [], DROPPED: []}
        self._files = {
            name: pq.ParquetWriter(folder / name, SCHEMA, compression="zstd") for name in self._rows
        }
        self.tally = Tally()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add pairs; dropped ones go to their own file."""
        for row in rows:
            self._rows[DROPPED if row["verdict"] == "dropped" else PAIRS].append(row)
            self.tally.count(row)
        for name, waiting in self._rows.items():
            if len(waiting) >= _FLUSH_ROWS:
                self._flush(name)

    def close(self) -> None:
        """Finish the files."""
        for name, file in self._files.items():
            self._flush(name)
            file.close()

    def _flush(self, name: str) -> None:
        if self._rows[name]:
            self._files[name].write_table(pa.Table.from_pylist(self._rows[name], SCHEMA))
            self._rows[name] = []


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a set's manifest as JSON into its folder."""
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (folder / MANIFEST).write_bytes(content + b"\n")


class Tally:
    """Counts of a set's rows."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("verdict", "dataset", "kind", "horizon", "topic", "statements")
        }
        self.words: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self._hash = 0

    def count(self, row: Mapping[str, Any]) -> None:
        """Count one row."""
        self.counts["verdict"][row["verdict"]] += 1
        self.counts["statements"]["checked"] += row["statements"]
        self.counts["statements"]["mended"] += row["replaced"]
        self.faults.update(kind_of_fault(fault) for fault in row["faults"])
        if row["verdict"] == "dropped":
            return
        self.counts["dataset"][row["dataset"]] += 1
        self.counts["kind"][f"{row['dataset']} {row['kind']}"] += 1
        if row["dataset"] == "future":
            self.counts["horizon"][str(row["days"])] += 1
        else:
            self.counts["topic"][row["topic"]] += 1
        self.words[len(row["answer"].split()) // 10 * 10] += 1
        # A sum does not depend on the order of the threads.
        self._hash = (self._hash + int(row["pair_id"], 16)) % 2**64

    @property
    def content_hash(self) -> str:
        """A hash of all kept rows."""
        return f"{self._hash:016x}"

    def sorted_counts(self) -> dict[str, dict[str, int]]:
        """The counts, most frequent first; horizons ascending."""
        result = {name: dict(counter.most_common()) for name, counter in self.counts.items()}
        result["horizon"] = dict(sorted(result["horizon"].items(), key=lambda item: int(item[0])))
        return result


def kind_of_fault(fault: str) -> str:
    """The kind of a fault: `says 15 days, which no cited fact does` is a wrong number."""
    for kind, signs in (
        ("wrong number", ("which no cited fact does",)),
        ("wrong direction", ("which the events are not", "though there are events")),
        ("foreign name", ("names ",)),
        ("foreign quotation", ("quotes ",)),
        ("no such fact", ("is no fact", "rests on no fact")),
        ("refuted fact", ("the events refute",)),
    ):
        if any(sign in fault for sign in signs):
            return kind
    return fault


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a set.

    Raises:
        NotReady: the folder has no set, or one of another format; build one.
    """
    remedy = "Build one with `qanchor-cli useru build`, and name its folder."
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except OSError:
        raise NotReady(f"there is no set of pairs in {folder}", remedy) from None
    except msgspec.DecodeError as error:
        raise NotReady(f"{folder / MANIFEST} is damaged: {error}", remedy) from error
    if manifest.format != FORMAT:
        raise NotReady(f"the set in {folder} has format {manifest.format}, not {FORMAT}", remedy)
    return manifest


def read_pairs(folder: Path, dropped: bool = False, columns: Sequence[str] | None = None) -> pa.Table:
    """The pairs of a set, or its dropped ones.

    Raises:
        NotReady: the file is missing or damaged; build the set again.
    """
    path = folder / (DROPPED if dropped else PAIRS)
    try:
        return pq.read_table(path, columns=list(columns) if columns else None)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:160]
        raise NotReady(f"{path} cannot be read: {reason}", "Build the set again.") from error
