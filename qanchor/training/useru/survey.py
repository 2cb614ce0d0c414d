"""The survey of a build: size of the set, points (users at cut-offs), topics, readers and questions."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.sparse import csr_matrix

from qanchor.errors import NotReady
from qanchor.events.history import EventArrays
from qanchor.times import DAY_US
from qanchor.training.useru.future import FuturePlan, FutureQuestions, scenario_pool
from qanchor.training.useru.points import PointPlan, choose_points, first_day, fitting_horizons
from qanchor.training.useru.pool import PoolTopic, build_pool, rank_topics, topics_by_word
from qanchor.training.useru.profile import ProfileReader
from qanchor.training.useru.recount import Recounter
from qanchor.training.useru.reflect import Reflection
from qanchor.training.useru.spans import Points, SpanReader
from qanchor.training.useru.topics import Terms, find_terms, words_of
from qanchor.workspace import Workspace


@dataclass(frozen=True)
class BuildConfig:
    """Size of a set.

    Args:
        users: number of users, drawn at random; None: all.
        cutoffs: largest number of cut-offs per user.
        step_days: days between a user's cut-offs.
        horizons_days: horizons of D_future, as far as the data reach; scenarios add theirs.
        topics: most relevant topics per user and cut-off, each a question of D_uqa.
        future: numbers of the questions of D_future about parts of the events.
        revisions: number of revisions that a writer may make.
        parallel: number of answers that are requested at the same time.
        seed: seed of every draw.
    """

    users: int | None = None
    cutoffs: int = 3
    step_days: int = 15
    horizons_days: tuple[int, ...] = (7, 30, 60, 90)
    topics: int = 10
    future: FuturePlan = field(default_factory=FuturePlan)
    revisions: int = 1
    parallel: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Survey:
    """The points of a build with everything that they share.

    Args:
        visible: visible events.
        workspace: names of the modalities and scenarios.
        until: end of pre-training, microseconds UTC.
        points: users at cut-offs.
        pool: topics of D_uqa.
        ranked: most relevant topics of each point, as indices of the pool.
        reader: reader of the users' events.
        questions: questions of D_future.
        reflection: checks of the answers.
    """

    visible: EventArrays
    workspace: Workspace
    until: int
    points: Points
    pool: tuple[PoolTopic, ...]
    ranked: list[list[int]]
    reader: ProfileReader
    questions: FutureQuestions
    reflection: Reflection


def make_survey(
    visible: EventArrays,
    workspace: Workspace,
    until: int,
    config: BuildConfig,
    listed: Mapping[str, tuple[str, ...]],
) -> Survey:
    """The points with their topics, ordered by first topic.

    Args:
        visible: result of `visible_events`.
        workspace: names of the modalities and scenarios.
        until: end of pre-training, microseconds UTC.
        config: size of the set.
        listed: topics with their words, from `read_topics`.

    Raises:
        NotReady: the events before `until` are too few.
    """
    first = first_day(visible, until)
    horizons = fitting_horizons(config.horizons_days, workspace, (until - first) // DAY_US)
    points = _choose(visible, until, first, horizons[0], config)
    terms = find_terms(visible, most=sys.maxsize)
    counts = SpanReader(visible, workspace, terms).read(points, -workspace.window_days).terms
    pool = build_pool(counts, points.rows, terms, listed, config.seed)
    per_topic = (counts @ _members(terms, pool)).toarray().astype(np.int64)
    ranked = rank_topics(per_topic, config.topics)
    order = np.argsort([topics[0] if topics else -1 for topics in ranked], kind="stable").astype(np.int64)
    topics = [*pool, *scenario_pool(workspace, _of_profiles(terms, counts))]
    reader = ProfileReader(visible, workspace, topics)
    words = frozenset(word for text in visible.texts for word in words_of(text))
    return Survey(
        visible,
        workspace,
        until,
        points.take(order),
        pool,
        [ranked[i] for i in order.tolist()],
        reader,
        FutureQuestions(reader, topics, len(pool), workspace, horizons),
        Reflection(Recounter(visible, workspace), words, config.revisions),
    )


def _choose(visible: EventArrays, until: int, first: int, shortest: int, config: BuildConfig) -> Points:
    plan = PointPlan(until, shortest, config.step_days, config.cutoffs)
    points = choose_points(visible, first, plan, np.random.default_rng([config.seed, 0]))
    if config.users is not None:
        drawn = np.random.default_rng([config.seed, 1]).permutation(np.unique(points.rows))[: config.users]
        points = points.take(np.flatnonzero(np.isin(points.rows, drawn)))
    if not len(points):
        raise NotReady("no user has events before a cut-off", "Load more events, or give a later --until.")
    return points


def _members(terms: Terms, pool: tuple[PoolTopic, ...]) -> csr_matrix:
    """Sparse [terms, topics], 1 where the term's word belongs to the topic."""
    by_word = topics_by_word(pool)
    pairs = [(t, topic) for t, word in enumerate(terms.words) for topic in by_word.get(word, ())]
    rows, columns = [t for t, _ in pairs], [topic for _, topic in pairs]
    return csr_matrix((np.ones(len(pairs), np.int32), (rows, columns)), shape=(len(terms.words), len(pool)))


def _of_profiles(terms: Terms, counts: csr_matrix) -> Terms:
    """The terms that occur in any profile."""
    kept = np.flatnonzero(np.diff(counts.tocsc().indptr))
    words = tuple(terms.words[i] for i in kept.tolist())
    return Terms(words, terms.modality[kept], terms.weight[kept], terms.users[kept], ())
