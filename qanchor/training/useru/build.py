"""Builds a set of UserU pairs: D_future and D_uqa for users at several cut-offs, checked and stored.

Facts, questions and answers of D_uqa read only events before the cut-off; topics are learned from the
profiles, so from no event after a user's last cut-off. D_future reads the events after the cut-off, and no
horizon reaches past the end of pre-training.

Source: arXiv 2602.14492, section 3.1.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from qanchor.errors import NotReady, QAnchorError, WriterUnavailable
from qanchor.events.history import EventArrays, load_event_arrays
from qanchor.events.labels import earliest_cutoff, holdout_users
from qanchor.files import atomic_folder
from qanchor.progress import Progress
from qanchor.site import Site
from qanchor.times import DAY_US, from_microseconds, now, to_microseconds
from qanchor.training.useru.facts import gather_facts
from qanchor.training.useru.future import FuturePlan, FutureQuestion, FutureQuestions, scenario_pool
from qanchor.training.useru.llm_writer import Budget, CapReached
from qanchor.training.useru.points import (
    PointPlan,
    choose_points,
    first_day,
    fitting_horizons,
    visible_events,
)
from qanchor.training.useru.pool import PoolTopic, build_pool, rank_topics, topics_by_word
from qanchor.training.useru.profile import ProfileReader
from qanchor.training.useru.questions import topic_question
from qanchor.training.useru.recount import Claim, Recounter
from qanchor.training.useru.reflect import Reflected, Reflection
from qanchor.training.useru.spans import Points, SpanReader
from qanchor.training.useru.store import FORMAT, Manifest, PairSink, check_new_folder, write_manifest
from qanchor.training.useru.topics import Terms, find_terms, words_of
from qanchor.training.useru.writer import GroundedWriter, Request, Signature, Writer
from qanchor.workspace import Workspace

BLOCK = 16
Row = dict[str, Any]


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
class Job:
    """Inputs and output of a build.

    Args:
        writer: writer of D_uqa's answers; those of D_future are always composed of facts.
        listed: topics with their words, from `read_topics`.
        folder: folder of the new set.
        budget: spending cap of the writer; None: it costs nothing.
    """

    writer: Writer
    listed: Mapping[str, tuple[str, ...]]
    folder: Path
    budget: Budget | None = None


@dataclass(frozen=True)
class BuildRequest:
    """A set to build from the event log of a site.

    Args:
        job: writer and folder.
        config: size of the set.
        until: end of the events, UTC; None: the first cut-off of test labels.
    """

    job: Job
    config: BuildConfig
    until: datetime | None = None


def build_from_log(site: Site, request: BuildRequest, progress: Progress) -> Manifest:
    """Build a set from the events of a site; users of a test split are left out.

    Args:
        site: site of the event log and the labels.
        request: writer, folder and size of the set.
        progress: bar that advances with every point.

    Returns:
        The manifest, as `build_set` returns it.

    Raises:
        InputError: the folder exists, no end is known, or it is after the first test label.
        NotReady: the events before the end are too few.
        WriterUnavailable: the model does not answer; finished pairs are kept.
    """
    from qanchor.training.use_cases import choose_until

    end = choose_until(request.until, earliest_cutoff(site.home))
    arrays = load_event_arrays(site.event_log, site.workspace, before=end)
    until = to_microseconds(end)
    visible = visible_events(arrays, until, holdout_users(site.home))
    return build_set(visible, site.workspace, until, request.config, request.job, progress)


def build_set(
    visible: EventArrays, workspace: Workspace, until: int, config: BuildConfig, job: Job, progress: Progress
) -> Manifest:
    """Build a set and store it in its folder.

    Args:
        visible: result of `visible_events`; has no event at or after `until`.
        workspace: names of the modalities and scenarios.
        until: end of pre-training, microseconds UTC; no horizon reaches past it.
        config: size of the set.
        job: writer and folder.
        progress: bar that advances with every point.

    Returns:
        The set's manifest; at the spending cap `complete` is False, and finished pairs are kept.

    Raises:
        InputError: the folder exists.
        NotReady: the events before `until` are too few.
        WriterUnavailable: the model does not answer; finished pairs are kept.
    """
    check_new_folder(job.folder)
    stopped, failure = "", None
    with atomic_folder(job.folder) as staged:
        progress.start("looking for topics")
        survey = _survey(visible, workspace, until, config, job)
        progress.start("writing pairs", len(survey.points))
        with closing(PairSink(staged)) as sink:
            try:
                for rows, points in _blocks(survey, config):
                    sink.add(rows)
                    progress.advance(points, f"{sum(sink.tally.counts['dataset'].values()):,} pairs")
                    if survey.stopped:
                        stopped = "the next call might exceed the spending cap"
                        break
            except WriterUnavailable as error:
                stopped, failure = str(error), error
        manifest = _manifest(survey, sink, config, job, stopped)
        write_manifest(staged, manifest)
    if failure is not None:
        raise WriterUnavailable(failure.problem, f"{failure.remedy} Finished pairs are in {job.folder}.")
    return manifest


@dataclass
class _Survey:
    """The points of a build with everything that they share."""

    visible: EventArrays
    workspace: Workspace
    until: int
    points: Points
    pool: tuple[PoolTopic, ...]
    ranked: list[list[int]]
    reader: ProfileReader
    questions: FutureQuestions
    reflection: Reflection
    writer: Writer
    stopped: bool = False


def _survey(visible: EventArrays, workspace: Workspace, until: int, config: BuildConfig, job: Job) -> _Survey:
    """The points with their topics, in blocks of users with the same first topic."""
    first = first_day(visible, until)
    horizons = fitting_horizons(config.horizons_days, workspace, (until - first) // DAY_US)
    points = _choose(visible, until, first, horizons[0], config)
    terms = find_terms(visible, most=sys.maxsize)
    counts = SpanReader(visible, workspace, terms).read(points, -workspace.window_days).terms
    pool = build_pool(counts, points.rows, terms, job.listed, config.seed)
    per_topic = (counts @ _members(terms, pool)).toarray().astype(np.int64)
    ranked = rank_topics(per_topic, config.topics)
    order = np.argsort([topics[0] if topics else -1 for topics in ranked], kind="stable").astype(np.int64)
    topics = [*pool, *scenario_pool(workspace, _of_profiles(terms, counts))]
    reader = ProfileReader(visible, workspace, topics)
    words = frozenset(word for text in visible.texts for word in words_of(text))
    return _Survey(
        visible,
        workspace,
        until,
        points.take(order),
        pool,
        [ranked[i] for i in order.tolist()],
        reader,
        FutureQuestions(reader, topics, len(pool), workspace, horizons),
        Reflection(Recounter(visible, workspace), words, config.revisions),
        job.writer,
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


def _blocks(survey: _Survey, config: BuildConfig) -> Iterator[tuple[list[Row], int]]:
    """The rows of each block of points, with its number of points."""
    threads = ThreadPoolExecutor(config.parallel)
    try:
        for start in range(0, len(survey.points), BLOCK):
            members = range(start, min(start + BLOCK, len(survey.points)))
            rng = np.random.default_rng([config.seed, 2, start])
            favoured = [topic for i in members for topic in survey.ranked[i]]
            questions = survey.questions.draw(config.future, favoured, rng)
            write = partial(_rows_of_point, survey, config, questions)
            rows = threads.map(write, members) if config.parallel > 1 else map(write, members)
            yield [row for some in rows for row in some], len(members)
    finally:
        # After an error or Ctrl-C no further answers are requested.
        survey.stopped = True
        threads.shutdown(cancel_futures=True)


def _rows_of_point(
    survey: _Survey, config: BuildConfig, questions: Iterable[FutureQuestion], number: int
) -> list[Row]:
    return [*_future_rows(survey, questions, number), *_uqa_rows(survey, config, number)]


def _future_rows(survey: _Survey, questions: Iterable[FutureQuestion], number: int) -> Iterator[Row]:
    row, cutoff = int(survey.points.rows[number]), int(survey.points.cutoffs[number])
    writer = GroundedWriter()
    for question in questions:
        if cutoff + question.days * DAY_US > survey.until:
            continue
        claim, facts = survey.questions.answer(question, row, cutoff)
        request = Request(question.topic, question.days, question.text, facts)
        reflected = survey.reflection.write(writer, request, claim)
        yield _row(
            survey, _Pair(number, "future", question.kind, claim, request, reflected, writer.signature)
        )


def _uqa_rows(survey: _Survey, config: BuildConfig, number: int) -> Iterator[Row]:
    row, cutoff = int(survey.points.rows[number]), int(survey.points.cutoffs[number])
    days = survey.workspace.window_days
    profile = survey.reader.read(row, cutoff, -days)
    user = str(survey.visible.users[row])
    for index in survey.ranked[number]:
        if survey.stopped:
            return
        topic = survey.pool[index]
        events = profile.about(index, topic.name)
        counts = np.bincount(events.modality, minlength=len(events.modalities))
        modalities = [events.modalities[i] for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
        # The wording is the block's, so that some of its users share questions.
        chance = _digest(config.seed, user, cutoff, index), _digest(config.seed, number // BLOCK, index)
        aspect, request = topic_question(topic.name, gather_facts(events), modalities, days, chance)
        claim = Claim(row, cutoff, -days, words=topic.words)
        try:
            reflected = survey.reflection.write(survey.writer, request, claim)
        except CapReached:
            survey.stopped = True
            return
        except QAnchorError:
            survey.stopped = True
            raise
        yield _row(survey, _Pair(number, "uqa", aspect, claim, request, reflected, survey.writer.signature))


def _digest(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8])


@dataclass(frozen=True)
class _Pair:
    """A pair before it is a row; `number` is the point's."""

    number: int
    dataset: str
    kind: str
    claim: Claim
    request: Request
    reflected: Reflected
    signature: Signature


def _row(survey: _Survey, pair: _Pair) -> Row:
    claim, request, reflected = pair.claim, pair.request, pair.reflected
    about = {"dataset": pair.dataset, "kind": pair.kind, "topic": request.topic}
    user = str(survey.visible.users[claim.row])
    signature = asdict(pair.signature)
    content = user, claim.cutoff, *about.values(), claim.days, reflected.question, reflected.answer
    return {
        **about,
        **signature,
        "pair_id": f"{_digest(*content, *signature.values()):016x}",
        "user_id": user,
        "cutoff": from_microseconds(claim.cutoff),
        "days": claim.days,
        "block": pair.number // BLOCK,
        "question": reflected.question,
        "answer": reflected.answer,
        "verdict": reflected.verdict,
        "faults": list(reflected.faults),
        "facts": [{"name": f.name, "value": f.value, "says": f.says} for f in request.facts],
        "facts_used": list(reflected.used),
        "draft": reflected.draft or None,
        "statements": reflected.statements,
        "replaced": reflected.replaced,
    }


def _manifest(survey: _Survey, sink: PairSink, config: BuildConfig, job: Job, stopped: str) -> Manifest:
    tally, budget = sink.tally, job.budget
    spending: dict[str, float] = {}
    if budget is not None:
        spending = {
            "calls": budget.calls,
            "prompt_tokens": budget.prompt_tokens,
            "reply_tokens": budget.reply_tokens,
            "cost": round(budget.cost, 6),
            **getattr(job.writer, "tallies", {}),
        }
    build = {**asdict(config), **asdict(job.writer.signature), "window_days": survey.workspace.window_days}
    return Manifest(
        format=FORMAT,
        created_at=now(),
        until=from_microseconds(survey.until),
        complete=not stopped,
        stopped=stopped,
        build=build,
        pool=[{"name": t.name, "words": sorted(t.words), "listed": t.listed} for t in survey.pool],
        points=len(survey.points),
        users=len(np.unique(survey.points.rows)),
        counts=tally.sorted_counts(),
        words={str(words): count for words, count in sorted(tally.words.items())},
        faults=dict(tally.faults.most_common()),
        spending=spending,
        content_hash=tally.content_hash,
    )
