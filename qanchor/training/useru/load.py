"""A built set of pairs for pre-training: cells of points that share questions as far as possible."""

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qanchor.errors import InputError, NotReady
from qanchor.events.history import EventArrays, Int64
from qanchor.times import DAY_US, column_microseconds
from qanchor.training.useru.answers import Describer, PhraseBook
from qanchor.training.useru.pairs import PairSet, UserUConfig
from qanchor.training.useru.questions import Kind
from qanchor.training.useru.spans import Points, SpanReader
from qanchor.training.useru.store import read_manifest, read_pairs
from qanchor.training.useru.summaries import SummaryShares
from qanchor.training.useru.topics import find_terms, find_topics
from qanchor.workspace import Workspace

_COLUMNS = ("user_id", "cutoff", "dataset", "kind", "days", "block", "question", "answer")
_KINDS = {
    "whole": Kind.FUTURE_WHOLE,
    "modality": Kind.FUTURE_MODALITY,
    "topic": Kind.FUTURE_TOPIC,
    "scenario": Kind.FUTURE_SCENARIO,
}
_TOPIC_DAYS = 30


def load_pairs(
    folder: Path, visible: EventArrays, workspace: Workspace, until: int, config: UserUConfig, seed: int
) -> PairSet:
    """The pairs of a set about visible users.

    Args:
        folder: folder of the set.
        visible: result of `visible_events`; pairs of other users are left out.
        workspace: names of the modalities.
        until: end of pre-training, microseconds UTC.
        config: settings of the pairs, of which cell, questions, held_share and summary are read.
        seed: seed of the arrangement.

    Raises:
        InputError: a pair reaches past `until`; build a set that ends earlier.
        NotReady: the set is damaged, or none of its users is visible.
    """
    read_manifest(folder)
    pairs = _StoredPairs.read(read_pairs(folder, columns=_COLUMNS), visible)
    reach = pairs.cutoffs + np.maximum(pairs.days, 0) * DAY_US
    if len(reach) and int(reach.max()) > until:
        raise InputError(
            f"pairs of {folder} reach past the end of pre-training",
            "Build a set with an earlier --until, or pre-train with a later one.",
        )
    if not len(reach):
        raise NotReady(f"no pair of {folder} is about a visible user", "Build a set of these events.")
    rng = np.random.default_rng([seed, 7])
    rows, trained = _arranged(pairs, config, rng)
    points = Points(pairs.users[rows[:, 0]], pairs.cutoffs[rows[:, 0]])
    days = pairs.days[rows]
    summaries = _summaries(points, np.unique(days).tolist(), visible, workspace, config.summary, rng)
    return PairSet(
        visible.users,
        points,
        pairs.kind[rows].astype(np.uint8),
        days.astype(np.int16),
        pairs.question[rows].astype(np.int32),
        pairs.answer[rows].astype(np.int32)[:, :, None],
        summaries,
        pairs.questions,
        pairs.answers,
        config.cell,
        trained,
    )


@dataclass(frozen=True)
class _StoredPairs:
    """The pairs of a set, sorted by block, user and cut-off; [pairs] each."""

    users: Int64
    cutoffs: Int64
    days: Int64
    kind: Int64
    question: Int64
    answer: Int64
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    starts: Int64  # first pair of each point, and one past the last

    @classmethod
    def read(cls, table: pa.Table, visible: EventArrays) -> "_StoredPairs":
        users = visible.user_rows(table["user_id"].to_pylist())
        block = np.asarray(table["block"]).astype(np.int64)
        cutoffs = column_microseconds(table["cutoff"])
        kept = np.flatnonzero(users >= 0)
        kept = kept[np.lexsort((cutoffs[kept], users[kept], block[kept]))]
        table = table.take(pa.array(kept))
        users, cutoffs = users[kept], cutoffs[kept]
        kind = [int(_KINDS.get(name, Kind.PAST_TOPIC)) for name in table["kind"].to_pylist()]
        uqa = np.asarray(table["dataset"].to_pylist(), dtype=object) == "uqa"
        questions, answers = PhraseBook(), PhraseBook()
        question = questions.numbers(table["question"].to_pylist()).astype(np.int64)
        answer = answers.numbers(table["answer"].to_pylist()).astype(np.int64)
        new = np.flatnonzero(np.diff(users, prepend=-1) | np.diff(cutoffs, prepend=-1))
        return cls(
            users,
            cutoffs,
            np.asarray(table["days"]).astype(np.int64),
            np.where(uqa, int(Kind.PAST_TOPIC), np.array(kind, np.int64)),
            question,
            answer,
            tuple(questions.texts),
            tuple(answers.texts),
            np.append(new, len(users)).astype(np.int64),
        )

    def of_point(self, point: int) -> list[int]:
        return list(range(int(self.starts[point]), int(self.starts[point + 1])))


def _arranged(pairs: _StoredPairs, config: UserUConfig, rng: np.random.Generator) -> tuple[Int64, int]:
    """Pair numbers [rows, questions] and the number of training rows: whole cells, held-out users last.

    A point is repeated until most of its pairs are used.
    """
    points = np.arange(len(pairs.starts) - 1)
    held_users = rng.random(int(pairs.users.max()) + 1) < config.held_share
    held = held_users[pairs.users[pairs.starts[:-1]]]
    training, checking = points[~held], points[held]
    if len(training) >= config.cell:
        training = training[: len(training) // config.cell * config.cell]
    repeats = max(1, round(len(pairs.users) / len(points) / config.questions))
    rows: list[list[int]] = []
    used: set[int] = set()
    for part, times in ((training, repeats), (checking, 1)):
        for at in np.tile(np.arange(0, len(part), config.cell), times).tolist():
            members = [pairs.of_point(int(point)) for point in part[at : at + config.cell]]
            cell = _cell_rows(pairs, members, used, config.questions, rng)
            used.update(pair for row in cell for pair in row)
            rows += cell
    return np.array(rows, np.int64), len(training) * repeats


def _cell_rows(
    pairs: _StoredPairs,
    members: Sequence[list[int]],
    used: AbstractSet[int],
    questions: int,
    rng: np.random.Generator,
) -> list[list[int]]:
    """Pair numbers of each member of a cell, one per slot: preferably a question that most members have.

    Pairs of `used` are in an earlier row already: unused ones come first.
    """
    rows: list[list[int]] = [[] for _ in members]
    for slot in rng.permutation(questions).tolist():
        past = bool(slot % 2)
        options = [
            _candidates(pairs, member, used, row, past) for member, row in zip(members, rows, strict=True)
        ]
        shared = Counter(int(pairs.question[i]) for some in options for i in some)
        texts = sorted(shared)
        share = np.array([shared[text] for text in texts], np.float64) ** 2
        question = texts[int(rng.choice(len(texts), p=share / share.sum()))]
        for row, some in zip(rows, options, strict=True):
            same = [i for i in some if pairs.question[i] == question]
            row.append(same[0] if same else some[int(rng.integers(0, len(some)))])
    return rows


def _candidates(
    pairs: _StoredPairs, member: list[int], used: AbstractSet[int], row: list[int], past: bool
) -> list[int]:
    """A point's pairs for a slot: unused ones of the past or the future, or the next best."""
    new_in_row = [i for i in member if i not in row]
    unused = [i for i in new_in_row if i not in used]
    return [i for i in unused if (pairs.days[i] < 0) == past] or unused or new_in_row or member


def _summaries(
    points: Points,
    spans: list[int],
    visible: EventArrays,
    workspace: Workspace,
    shares: SummaryShares,
    rng: np.random.Generator,
) -> dict[int, NDArray[np.float32]]:
    """The summary of each span; a repeated point is read once."""
    distinct, row = np.unique(np.stack([points.rows, points.cutoffs]), axis=1, return_inverse=True)
    once = Points(distinct[0].copy(), distinct[1].copy())
    terms = find_terms(visible)
    reader = SpanReader(visible, workspace, terms)
    topics = find_topics(reader.read(once, -_TOPIC_DAYS).terms, terms, rng)
    rows = row.reshape(-1)
    describers = {
        days: Describer(reader.read(once, days), terms, topics, workspace, PhraseBook()) for days in spans
    }
    return {days: describer.summary(shares)[rows] for days, describer in describers.items()}
