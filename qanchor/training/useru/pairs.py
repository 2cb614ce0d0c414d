"""UserU: question-answer pairs about users at past cut-offs, made from the event log alone.

Points (a user at a cut-off) are put in cells; all points of a cell get the same few questions. So a
batch holds several users under one question, and telling them apart takes the user's history, not the
question; and a history read once serves all of its point's questions.

Source: arXiv 2602.14492, section 3.1 (D_future and D_uqa).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, Int64
from qanchor.training.useru.answers import Describer, PhraseBook, Phrases
from qanchor.training.useru.points import PointPlan, choose_points, first_day, fitting_horizons, held_last
from qanchor.training.useru.questions import PAST_KINDS, Kind, phrase_question, scenario_topics
from qanchor.training.useru.spans import DAY, Points, SpanReader
from qanchor.training.useru.summaries import SummaryShares
from qanchor.training.useru.terms import Terms, find_terms
from qanchor.training.useru.topics import Topics, find_topics
from qanchor.workspace import Workspace


@dataclass(frozen=True)
class UserUConfig:
    """How many pairs of which kind.

    Args:
        horizons_days: futures and pasts asked about, as far as the data reach; scenarios add theirs.
        step_days: days between a user's cut-offs.
        most_points: points kept, by chance.
        cell: points that share their questions.
        questions: questions asked about each point.
        shares: how often each kind is asked, in the order of Kind.
        held_share: share of users whose points are kept out of training, to check it on.
        summary: how much each group of a span's numbers weighs in the summary loss.
    """

    horizons_days: tuple[int, ...] = (7, 30, 60, 90)
    step_days: int = 15
    most_points: int = 20_000
    cell: int = 16
    questions: int = 4
    shares: tuple[float, ...] = (0.2, 0.2, 0.2, 0.2, 0.05, 0.05, 0.1)
    held_share: float = 0.04
    summary: SummaryShares = field(default_factory=SummaryShares)


@dataclass(frozen=True)
class PairSet:
    """Pairs with where they come from; answers are phrase numbers.

    Args:
        users: object [users], user ids.
        points: user row and cut-off of each point, cells one after the other.
        kind: uint8 [points, questions], a Kind.
        days: int16 [points, questions], span of the answer; negative looks back.
        question: int32 [points, questions], index into `questions`.
        answers: int32 [points, questions, phrases], index into `phrases`, -1 fills up.
        summaries: by days, float32 [points, numbers], the span in standardised numbers.
        questions: every question in words.
        phrases: every phrase in words.
        cell: points in each cell.
        trained: the first points, whole cells, are for training; the others, of other users, for checking.
    """

    users: NDArray[np.object_]
    points: Points
    kind: NDArray[np.uint8]
    days: NDArray[np.int16]
    question: NDArray[np.int32]
    answers: Phrases
    summaries: Mapping[int, NDArray[np.float32]]
    questions: tuple[str, ...]
    phrases: tuple[str, ...]
    cell: int
    trained: int

    def __len__(self) -> int:
        return self.question.size

    def answer_text(self, point: int, question: int) -> str:
        """One answer in words."""
        row = self.answers[point, question]
        return " ".join(self.phrases[number] for number in row[row >= 0].tolist())


def build_pairs(
    visible: EventArrays, workspace: Workspace, until: int, config: UserUConfig, seed: int
) -> PairSet:
    """Pairs about the users of `visible`, which holds no event at or after `until`.

    Args:
        visible: from `visible_events`; all of it may be read.
        workspace: names modalities and scenarios.
        until: microseconds UTC; no span reaches past it.
        config: how many of what.
        seed: of every draw.

    Raises:
        NotReady: the events before `until` span less than two days; load more, or choose a later `until`.
    """
    rng = np.random.default_rng(seed)
    first = first_day(visible, until)
    horizons = fitting_horizons(config.horizons_days, workspace, (until - first) // DAY)
    points = choose_points(visible, first, PointPlan(until, horizons[0], config.step_days), rng)
    points = points.take(np.arange(min(len(points), config.most_points)))
    points, trained = held_last(points, len(visible.users), config.held_share, config.cell, rng)
    terms = find_terms(visible)
    reader = SpanReader(visible, workspace, terms)
    topics = find_topics(reader.read(points, -_TOPIC_DAYS).terms, terms, rng)
    writer = _Writer(reader, _World(visible.users, workspace, terms, topics), points, horizons, until)
    return writer.write(config, trained, rng)


# Words of one topic come within about this many days of each other.
_TOPIC_DAYS = 30
_SCENARIO_TOPICS = 4
_TOPIC_SHARE = 0.6


@dataclass(frozen=True)
class _World:
    users: NDArray[np.object_]
    workspace: Workspace
    terms: Terms
    topics: Topics


class _Writer:
    """Draws the questions of every cell and writes the answers."""

    def __init__(
        self, reader: SpanReader, world: _World, points: Points, horizons: Sequence[int], until: int
    ) -> None:
        self._world = world
        self._workspace, self._terms, self._groups = world.workspace, world.terms, world.topics
        self._points = points
        self._horizons = np.array(horizons, np.int64)
        self._room = (until - points.cutoffs) // DAY  # days that may be looked ahead
        self._book = PhraseBook()
        self._questions = PhraseBook()
        self._names = list(world.workspace.modalities)
        matched = scenario_topics(world.workspace, world.terms)
        self._matched = {
            name: np.array(
                list(dict.fromkeys(self._groups.of_term[list(terms)].tolist()))[:_SCENARIO_TOPICS], np.int64
            )
            for name, terms in matched.items()
        }
        self._describers = {
            sign * days: Describer(
                reader.read(points, sign * days), world.terms, world.topics, world.workspace, self._book
            )
            for days in horizons
            for sign in (1, -1)
        }
        self._ready: dict[tuple[int, int], Phrases] = {}

    def write(self, config: UserUConfig, trained: int, rng: np.random.Generator) -> PairSet:
        """Pairs of all cells."""
        shape = (len(self._points), config.questions)
        kind, days = np.zeros(shape, np.uint8), np.zeros(shape, np.int16)
        question = np.zeros(shape, np.int32)
        written: list[tuple[Int64, int, Phrases]] = []
        for at in range(0, shape[0], config.cell):
            cell = np.arange(at, min(at + config.cell, shape[0]))
            for slot, asked in enumerate(self._draw(config, rng)):
                spans = self._spans(cell, asked)
                kind[cell, slot], days[cell, slot] = asked.kind, spans
                for span in np.unique(spans).tolist():
                    members = cell[spans == span]
                    question[members, slot] = self._questions.number(self._text(asked, span))
                    written.append((members, slot, self._answers(asked, span, members)))
        width = max((rows.shape[1] for _, _, rows in written), default=1)
        answers = np.full((*shape, width), -1, np.int32)
        for members, slot, rows in written:
            answers[members, slot, : rows.shape[1]] = rows
        texts = tuple(self._questions.texts), tuple(self._book.texts)
        summaries = {days: describer.summary(config.summary) for days, describer in self._describers.items()}
        data = self._points, kind, days, question, answers, summaries
        return PairSet(self._world.users, *data, *texts, config.cell, trained)

    def _draw(self, config: UserUConfig, rng: np.random.Generator) -> list["_Asked"]:
        shares = np.array(config.shares, np.float64)
        if not self._workspace.scenarios:
            shares[Kind.FUTURE_SCENARIO] = 0.0
        if not self._terms.words:
            shares[[Kind.FUTURE_TOPIC, Kind.PAST_TOPIC]] = 0.0
        distinct = config.questions <= np.count_nonzero(shares)
        kinds = rng.choice(len(Kind), config.questions, replace=not distinct, p=shares / shares.sum())
        return [self._asked(Kind(int(kind)), rng) for kind in kinds]

    def _asked(self, kind: Kind, rng: np.random.Generator) -> "_Asked":
        # Longer spans more often: in a short one most users do nothing.
        often = np.sqrt(self._horizons)
        horizon = int(rng.choice(self._horizons, p=often / often.sum()))
        variant = int(rng.integers(0, 12))
        modality = int(rng.integers(0, len(self._names)))
        word, topics = -1, np.empty(0, np.int64)
        scenario = ""
        if kind in (Kind.FUTURE_TOPIC, Kind.PAST_TOPIC):
            # Common words more often than rare ones, but not in proportion: a rare one can be telling.
            share = np.sqrt(self._terms.users)
            word = int(rng.choice(len(share), p=share / share.sum()))
            modality = int(self._terms.modality[word])
            if rng.random() < _TOPIC_SHARE:
                topics = np.array([rng.integers(0, len(self._groups.names))])
        if kind == Kind.FUTURE_SCENARIO:
            scenario = str(rng.choice(list(self._workspace.scenarios)))
            topics = self._matched[scenario]
            horizon = self._workspace.scenarios[scenario].horizon_days
        return _Asked(kind, horizon, variant, modality, word, topics, scenario)

    def _spans(self, cell: Int64, asked: "_Asked") -> Int64:
        """The longest known horizon that is asked for and ends before `until`; backwards for a past."""
        if asked.kind in PAST_KINDS:
            return np.full(len(cell), -asked.horizon)
        limit = np.minimum(self._room[cell], max(asked.horizon, int(self._horizons[0])))
        return self._horizons[np.searchsorted(self._horizons, limit, side="right") - 1]

    def _text(self, asked: "_Asked", span: int) -> str:
        if asked.scenario:
            return self._workspace.scenarios[asked.scenario].query
        topic = self._terms.words[asked.word] if asked.word >= 0 else ""
        if len(asked.topics):
            topic = self._groups.names[asked.topics[0]]
        return phrase_question(asked.kind, asked.variant, abs(span), self._names[asked.modality], topic)

    def _answers(self, asked: "_Asked", span: int, members: Int64) -> Phrases:
        describer = self._describers[span]
        if len(asked.topics):
            return describer.topics(members, asked.topics)
        if asked.word >= 0:
            return describer.word(members, asked.word)
        by_modality = asked.kind in (Kind.FUTURE_MODALITY, Kind.PAST_MODALITY)
        key = (span, asked.modality if by_modality else -1)
        if key not in self._ready:
            self._ready[key] = describer.modality(asked.modality) if by_modality else describer.whole()
        return self._ready[key][members]


@dataclass(frozen=True)
class _Asked:
    """One question of a cell, before its span is fitted to the points."""

    kind: Kind
    horizon: int
    variant: int
    modality: int
    word: int
    topics: Int64
    scenario: str
