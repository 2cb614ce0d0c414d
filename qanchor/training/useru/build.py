"""Builds a set of UserU pairs: D_future and D_uqa for users at several cut-offs, checked and stored.

Facts, questions and answers of D_uqa read what lies before the cut-off alone; what makes a topic is learned
from the profiles, so from nothing later than each user's last cut-off. D_future looks ahead, and no horizon
reaches past the end of pre-training.

Source: arXiv 2602.14492, section 3.1.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from qanchor.errors import NotReady, QAnchorError, WriterUnavailable
from qanchor.events.history import EventArrays
from qanchor.progress import Progress
from qanchor.training.useru.aspects import ask_about
from qanchor.training.useru.facts import gather_facts
from qanchor.training.useru.future import FutureAsker, FuturePlan, FutureQuestion, scenario_pool
from qanchor.training.useru.llm_writer import Budget, CapReached
from qanchor.training.useru.points import PointPlan, choose_points, first_day, fitting_horizons
from qanchor.training.useru.pool import PoolTopic, build_pool, rank_topics
from qanchor.training.useru.profile import ProfileReader
from qanchor.training.useru.recount import Claim, Recounter
from qanchor.training.useru.reflect import Reflected, Reflection
from qanchor.training.useru.spans import DAY, Points, SpanReader
from qanchor.training.useru.store import FORMAT, Manifest, PairSink, now
from qanchor.training.useru.terms import Terms, find_terms, words_of
from qanchor.training.useru.writer import GroundedWriter, Request, Writer
from qanchor.workspace import Workspace

BLOCK = 16


@dataclass(frozen=True)
class BuildConfig:
    """How many pairs about whom.

    Args:
        users: drawn by chance; None: all.
        cutoffs: most of them per user.
        step_days: between a user's cut-offs.
        horizons_days: of D_future, as far as the data reach; scenarios add theirs.
        topics: most relevant topics per user and cut-off, each a question of D_uqa.
        future: questions of D_future beside those about the whole.
        revisions: how often a writer may mend an answer itself.
        parallel: answers asked for at a time.
        seed: of every draw.
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
    """What a build works with.

    Args:
        writer: of D_uqa's answers; D_future is always told by facts alone.
        listed: topics with their words, from `read_topics`.
        budget: that the writer spends from; None: it costs nothing.
        folder: of the new set.
    """

    writer: Writer
    listed: Mapping[str, tuple[str, ...]]
    folder: Path
    budget: Budget | None = None


def build_set(
    visible: EventArrays, workspace: Workspace, until: int, config: BuildConfig, job: Job, progress: Progress
) -> Manifest:
    """Build a set and put it into its folder.

    Args:
        visible: from `visible_events`; holds nothing at or after `until`.
        workspace: names modalities and scenarios.
        until: microseconds UTC; no horizon reaches past it.
        config: how many of what.
        job: by whom and where to.
        progress: told of every point.

    Returns:
        The set's manifest; `complete` is False where the budget was reached, and what was done is kept.

    Raises:
        InputError: the folder exists.
        NotReady: the events before `until` are too few.
        WriterUnavailable: the model does not answer; what was done is kept.
    """
    sink = PairSink(job.folder)
    try:
        progress.start("looking for topics")
        world = _survey(visible, workspace, until, config, job)
        progress.start("writing pairs", len(world.points))
        stopped, failure = "", None
        try:
            for rows, points in _blocks(world, config):
                sink.add(rows)
                progress.advance(points, f"{sum(sink.tally.counts['dataset'].values()):,} pairs")
                if world.stopped:
                    stopped = "the next call might exceed the spending cap"
                    break
        except WriterUnavailable as error:
            stopped, failure = str(error), error
        manifest = _manifest(world, sink, config, job, stopped)
        sink.finish(manifest)
    except BaseException:
        sink.discard()
        raise
    if failure is not None:
        raise WriterUnavailable(failure.problem, f"{failure.remedy} What was done lies in {job.folder}.")
    return manifest


@dataclass
class _World:
    """What all points share."""

    visible: EventArrays
    workspace: Workspace
    until: int
    points: Points
    pool: tuple[PoolTopic, ...]
    ranked: list[list[int]]
    reader: ProfileReader
    asker: FutureAsker
    reflection: Reflection
    writer: Writer
    stopped: bool = False


def _survey(visible: EventArrays, workspace: Workspace, until: int, config: BuildConfig, job: Job) -> _World:
    """The points with their topics, in blocks of users whose first topic is the same."""
    first = first_day(visible, until)
    horizons = fitting_horizons(config.horizons_days, workspace, (until - first) // DAY)
    points = _choose(visible, until, first, horizons[0], config)
    terms = find_terms(visible, most=sys.maxsize)
    counts = SpanReader(visible, workspace, terms).read(points, -workspace.window_days).terms
    pool = build_pool(counts, points.rows, terms, job.listed, config.seed)
    per_topic = (counts @ _members(terms, pool)).toarray().astype(np.int64)
    ranked = rank_topics(per_topic, config.topics)
    order = np.argsort([topics[0] if topics else -1 for topics in ranked], kind="stable").astype(np.int64)
    spoken = scenario_pool(workspace, _of_profiles(terms, counts))
    topics = [*pool, *spoken]
    reader = ProfileReader(visible, workspace, topics)
    words = frozenset(word for text in visible.texts for word in words_of(text))
    return _World(
        visible,
        workspace,
        until,
        points.take(order),
        pool,
        [ranked[i] for i in order.tolist()],
        reader,
        FutureAsker(reader, topics, len(pool), workspace, horizons),
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
        raise NotReady("no user has a past to ask about", "Load more events, or give a later --until.")
    return points


def _members(terms: Terms, pool: tuple[PoolTopic, ...]) -> csr_matrix:
    """Sparse [terms, topics], 1 where the term's word is of the topic."""
    by_word: dict[str, list[int]] = {}
    for number, topic in enumerate(pool):
        for word in topic.words:
            by_word.setdefault(word, []).append(number)
    pairs = [(t, topic) for t, word in enumerate(terms.words) for topic in by_word.get(word, ())]
    rows, columns = [t for t, _ in pairs], [topic for _, topic in pairs]
    return csr_matrix((np.ones(len(pairs), np.int32), (rows, columns)), shape=(len(terms.words), len(pool)))


def _of_profiles(terms: Terms, counts: csr_matrix) -> Terms:
    """The terms that stand in any profile."""
    kept = np.flatnonzero(np.diff(counts.tocsc().indptr))
    words = tuple(terms.words[i] for i in kept.tolist())
    return Terms(words, terms.modality[kept], terms.weight[kept], terms.users[kept], ())


def _blocks(world: _World, config: BuildConfig) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The rows of one block of points after the other, with its number of points."""
    pool = ThreadPoolExecutor(config.parallel)
    try:
        for at in range(0, len(world.points), BLOCK):
            members = range(at, min(at + BLOCK, len(world.points)))
            rng = np.random.default_rng([config.seed, 2, at])
            favoured = [topic for i in members for topic in world.ranked[i]]
            asked = world.asker.draw(config.future, favoured, rng)
            tasks = [(world, config, i, asked) for i in members]
            rows = pool.map(_rows_of_point, tasks) if config.parallel > 1 else map(_rows_of_point, tasks)
            yield [row for some in rows for row in some], len(members)
    finally:
        # After an error or Ctrl-C, answers that nobody will read are not asked for.
        world.stopped = True
        pool.shutdown(cancel_futures=True)


def _rows_of_point(task: tuple[_World, BuildConfig, int, list[FutureQuestion]]) -> list[dict[str, Any]]:
    world, config, number, asked = task
    rows = list(_future_rows(world, number, asked))
    return rows + list(_uqa_rows(world, config, number))


def _future_rows(world: _World, number: int, asked: Iterable[FutureQuestion]) -> Iterator[dict[str, Any]]:
    row, cutoff = int(world.points.rows[number]), int(world.points.cutoffs[number])
    writer = GroundedWriter()
    for question in asked:
        if cutoff + question.days * DAY > world.until:
            continue
        claim, facts = world.asker.answer(question, row, cutoff)
        request = Request(question.topic, question.days, question.text, facts)
        reflected = world.reflection.written(writer, request, claim)
        about = {"dataset": "future", "kind": question.kind, "topic": question.topic}
        yield _row(world, number, about, claim, (request, reflected, writer))


def _uqa_rows(world: _World, config: BuildConfig, number: int) -> Iterator[dict[str, Any]]:
    row, cutoff = int(world.points.rows[number]), int(world.points.cutoffs[number])
    days = world.workspace.window_days
    profile = world.reader.read(row, cutoff, -days)
    for topic in world.ranked[number]:
        if world.stopped:
            return
        told = world.pool[topic]
        seen = profile.about(topic, told.name)
        counts = np.bincount(seen.modality, minlength=len(seen.modalities))
        places = [seen.modalities[i] for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
        user = str(world.visible.users[row])
        # The wording is the block's, so that some of its users are asked the same.
        chance = _digest(config.seed, user, cutoff, topic), _digest(config.seed, number // BLOCK, topic)
        aspect, request = ask_about(told.name, gather_facts(seen), places, days, chance)
        claim = Claim(row, cutoff, -days, words=told.words)
        try:
            reflected = world.reflection.written(world.writer, request, claim)
        except (CapReached, QAnchorError) as error:
            world.stopped = True
            if isinstance(error, CapReached):
                return
            raise
        about = {"dataset": "uqa", "kind": aspect, "topic": told.name}
        yield _row(world, number, about, claim, (request, reflected, world.writer))


def _digest(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8])


def _row(
    world: _World, number: int, about: dict[str, str], claim: Claim, made: tuple[Request, Reflected, Writer]
) -> dict[str, Any]:
    request, reflected, writer = made
    user = str(world.visible.users[claim.row])
    signature = asdict(writer.signature)
    content = user, claim.cutoff, *about.values(), claim.days, reflected.question, reflected.answer
    return {
        **about,
        **signature,
        "pair_id": f"{_digest(*content, *signature.values()):016x}",
        "user_id": user,
        "cutoff": _moment(claim.cutoff),
        "days": claim.days,
        "block": number // BLOCK,
        "question": reflected.question,
        "answer": reflected.answer,
        "verdict": reflected.verdict,
        "faults": list(reflected.faults),
        "facts": [{"name": f.name, "value": f.value, "says": f.says} for f in request.facts],
        "facts_used": list(reflected.used),
        "draft": reflected.draft or None,
        "statements": reflected.statements,
        "mended": reflected.mended,
    }


def _moment(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


def _manifest(world: _World, sink: PairSink, config: BuildConfig, job: Job, stopped: str) -> Manifest:
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
    return Manifest(
        FORMAT,
        now(),
        _moment(world.until),
        not stopped,
        stopped,
        {**asdict(config), **asdict(job.writer.signature), "window_days": world.workspace.window_days},
        [{"name": t.name, "words": sorted(t.words), "listed": t.listed} for t in world.pool],
        len(world.points),
        len(np.unique(world.points.rows)),
        tally.sorted_counts(),
        {str(words): count for words, count in sorted(tally.words.items())},
        dict(tally.faults.most_common()),
        spending,
        tally.content_hash,
    )
