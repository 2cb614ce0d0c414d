"""UserU: question-answer pairs about users at past cut-offs, made from the event log alone.

Points (a user at a cut-off) are grouped into cells; all points of a cell have the same few questions. So a
batch has several users under one question, and separating them takes the user's history, not the question;
and one read of a history serves all questions of its point.

Source: arXiv 2602.14492, section 3.1 (D_future and D_uqa).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qanchor.events.history import EventArrays, Int64
from qanchor.times import DAY_US
from qanchor.training.useru.answers import Describer, PhraseBook, Phrases
from qanchor.training.useru.points import PointPlan, choose_points, first_day, fitting_horizons, held_last
from qanchor.training.useru.questions import PAST_KINDS, Kind, phrase_question, scenario_topics
from qanchor.training.useru.spans import Points, SpanReader
from qanchor.training.useru.summaries import SummaryShares
from qanchor.training.useru.topics import Terms, Topics, find_terms, find_topics
from qanchor.workspace import Workspace


@dataclass(frozen=True)
class UserUConfig:
    """Numbers and kinds of pairs.

    Args:
        horizons_days: lengths of futures and pasts, as far as the data reach; scenarios add theirs.
        step_days: days between a user's cut-offs.
        most_points: largest number of points, drawn at random.
        cell: points that share their questions.
        questions: questions per point.
        shares: share of each kind of question, in the order of Kind.
        held_share: share of users held out of training, for validation.
        summary: weight of each group of a span's numbers in the summary loss.
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
    """Pairs with their users and cut-offs; answers are phrase numbers.

    Args:
        users: object [users], user ids.
        points: user row and cut-off of each point, cell by cell.
        kind: uint8 [points, questions], a Kind.
        days: int16 [points, questions], span of the answer; negative: before the cut-off.
        question: int32 [points, questions], index into `questions`.
        answers: int32 [points, questions, phrases], index into `phrases`, -1 pads.
        summaries: standardised numbers of the span, float32 [points, numbers], by days.
        questions: every question in words.
        phrases: every phrase in words.
        cell: points in each cell.
        trained: number of training points, whole cells; the others, of other users, are for validation.
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
    """Pairs about the users of `visible`, which has no event at or after `until`.

    Args:
        visible: result of `visible_events`; all of it may be read.
        workspace: names of the modalities and scenarios.
        until: end of the events, microseconds UTC; no span reaches past it.
        config: numbers and kinds of pairs.
        seed: seed of every draw.

    Raises:
        NotReady: the events before `until` span less than two days; load more, or choose a later `until`.
    """
    rng = np.random.default_rng(seed)
    first = first_day(visible, until)
    horizons = fitting_horizons(config.horizons_days, workspace, (until - first) // DAY_US)
    points = choose_points(visible, first, PointPlan(until, horizons[0], config.step_days), rng)
    points = points.take(np.arange(min(len(points), config.most_points)))
    points, trained = held_last(points, len(visible.users), config.held_share, config.cell, rng)
    terms = find_terms(visible)
    reader = SpanReader(visible, workspace, terms)
    topics = find_topics(reader.read(points, -_TOPIC_DAYS).terms, terms, rng)
    log = _Log(visible.users, workspace, terms, topics)
    return _PairWriter(reader, log, points, horizons, until).write(config, trained, rng)


# Words that a user has within this many days may form a topic.
_TOPIC_DAYS = 30
_SCENARIO_TOPICS = 4
_TOPIC_SHARE = 0.6


@dataclass(frozen=True)
class _Log:
    users: NDArray[np.object_]
    workspace: Workspace
    terms: Terms
    topics: Topics


class _PairWriter:
    """Draws the questions of every cell and writes the answers."""

    def __init__(
        self, reader: SpanReader, log: _Log, points: Points, horizons: Sequence[int], until: int
    ) -> None:
        self._users = log.users
        self._workspace, self._terms, self._groups = log.workspace, log.terms, log.topics
        self._points = points
        self._horizons = np.array(horizons, np.int64)
        self._room = (until - points.cutoffs) // DAY_US  # days between cut-off and `until`
        self._book = PhraseBook()
        self._questions = PhraseBook()
        self._names = list(log.workspace.modalities)
        matched = scenario_topics(log.workspace, log.terms)
        self._matched = {
            name: np.array(
                list(dict.fromkeys(self._groups.of_term[list(terms)].tolist()))[:_SCENARIO_TOPICS], np.int64
            )
            for name, terms in matched.items()
        }
        self._describers = {
            sign * days: Describer(
                reader.read(points, sign * days), log.terms, log.topics, log.workspace, self._book
            )
            for days in horizons
            for sign in (1, -1)
        }
        self._cached: dict[tuple[int, int], Phrases] = {}

    def write(self, config: UserUConfig, trained: int, rng: np.random.Generator) -> PairSet:
        """Pairs of all cells."""
        shape = (len(self._points), config.questions)
        kind, days = np.zeros(shape, np.uint8), np.zeros(shape, np.int16)
        question = np.zeros(shape, np.int32)
        written: list[tuple[Int64, int, Phrases]] = []
        for start in range(0, shape[0], config.cell):
            cell = np.arange(start, min(start + config.cell, shape[0]))
            for slot, drawn in enumerate(self._draw(config, rng)):
                spans = self._spans(cell, drawn)
                kind[cell, slot], days[cell, slot] = drawn.kind, spans
                for span in np.unique(spans).tolist():
                    members = cell[spans == span]
                    question[members, slot] = self._questions.number(self._text(drawn, span))
                    written.append((members, slot, self._answers(drawn, span, members)))
        width = max((rows.shape[1] for _, _, rows in written), default=1)
        answers = np.full((*shape, width), -1, np.int32)
        for members, slot, rows in written:
            answers[members, slot, : rows.shape[1]] = rows
        texts = tuple(self._questions.texts), tuple(self._book.texts)
        summaries = {days: describer.summary(config.summary) for days, describer in self._describers.items()}
        data = self._points, kind, days, question, answers, summaries
        return PairSet(self._users, *data, *texts, config.cell, trained)

    def _draw(self, config: UserUConfig, rng: np.random.Generator) -> list["_CellQuestion"]:
        shares = np.array(config.shares, np.float64)
        if not self._workspace.scenarios:
            shares[Kind.FUTURE_SCENARIO] = 0.0
        if not self._terms.words:
            shares[[Kind.FUTURE_TOPIC, Kind.PAST_TOPIC]] = 0.0
        distinct = config.questions <= np.count_nonzero(shares)
        kinds = rng.choice(len(Kind), config.questions, replace=not distinct, p=shares / shares.sum())
        return [self._question(Kind(int(kind)), rng) for kind in kinds]

    def _question(self, kind: Kind, rng: np.random.Generator) -> "_CellQuestion":
        # Longer spans are drawn more often: in a short one most users have no event.
        weight = np.sqrt(self._horizons)
        horizon = int(rng.choice(self._horizons, p=weight / weight.sum()))
        variant = int(rng.integers(0, 12))
        modality = int(rng.integers(0, len(self._names)))
        word, topics = -1, np.empty(0, np.int64)
        scenario = ""
        if kind in (Kind.FUTURE_TOPIC, Kind.PAST_TOPIC):
            # Common words are drawn more often, but not in proportion: a rare word can be telling.
            share = np.sqrt(self._terms.users)
            word = int(rng.choice(len(share), p=share / share.sum()))
            modality = int(self._terms.modality[word])
            if rng.random() < _TOPIC_SHARE:
                topics = np.array([rng.integers(0, len(self._groups.names))])
        if kind == Kind.FUTURE_SCENARIO:
            scenario = str(rng.choice(list(self._workspace.scenarios)))
            topics = self._matched[scenario]
            horizon = self._workspace.scenarios[scenario].horizon_days
        return _CellQuestion(kind, horizon, variant, modality, word, topics, scenario)

    def _spans(self, cell: Int64, question: "_CellQuestion") -> Int64:
        """The longest horizon up to the question's that ends by `until`; negative for a past."""
        if question.kind in PAST_KINDS:
            return np.full(len(cell), -question.horizon)
        limit = np.minimum(self._room[cell], max(question.horizon, int(self._horizons[0])))
        return self._horizons[np.searchsorted(self._horizons, limit, side="right") - 1]

    def _text(self, question: "_CellQuestion", span: int) -> str:
        if question.scenario:
            return self._workspace.scenarios[question.scenario].query
        topic = self._terms.words[question.word] if question.word >= 0 else ""
        if len(question.topics):
            topic = self._groups.names[question.topics[0]]
        return phrase_question(
            question.kind, question.variant, abs(span), self._names[question.modality], topic
        )

    def _answers(self, question: "_CellQuestion", span: int, members: Int64) -> Phrases:
        describer = self._describers[span]
        if len(question.topics):
            return describer.topics(members, question.topics)
        if question.word >= 0:
            return describer.word(members, question.word)
        by_modality = question.kind in (Kind.FUTURE_MODALITY, Kind.PAST_MODALITY)
        key = (span, question.modality if by_modality else -1)
        if key not in self._cached:
            self._cached[key] = describer.modality(question.modality) if by_modality else describer.whole()
        return self._cached[key][members]


@dataclass(frozen=True)
class _CellQuestion:
    """One question of a cell; its span still has to fit the points."""

    kind: Kind
    horizon: int
    variant: int
    modality: int
    word: int
    topics: Int64
    scenario: str
