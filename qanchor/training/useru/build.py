"""Builds a set of UserU pairs: D_future and D_uqa for users at several cut-offs, checked and stored.

Facts, questions and answers of D_uqa read only events before the cut-off; topics are learned from the
profiles, so from no event after a user's last cut-off. D_future reads the events after the cut-off, and no
horizon reaches past the end of pre-training.

Source: arXiv 2602.14492, section 3.1.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qanchor.errors import QAnchorError, WriterUnavailable
from qanchor.events.history import EventArrays, load_event_arrays
from qanchor.events.labels import earliest_cutoff, holdout_users
from qanchor.files import atomic_folder
from qanchor.progress import Progress
from qanchor.site import Site
from qanchor.times import DAY_US, from_microseconds, now, to_microseconds
from qanchor.training.useru.facts import gather_facts
from qanchor.training.useru.future import FutureQuestion
from qanchor.training.useru.llm_writer import Budget, CapReached
from qanchor.training.useru.points import visible_events
from qanchor.training.useru.questions import topic_question
from qanchor.training.useru.recount import Claim
from qanchor.training.useru.reflect import Reflected
from qanchor.training.useru.store import FORMAT, Manifest, PairSink, check_new_folder, write_manifest
from qanchor.training.useru.survey import BuildConfig, Survey, make_survey
from qanchor.training.useru.writer import GroundedWriter, Request, Signature, Writer
from qanchor.workspace import Workspace

BLOCK = 16
Row = dict[str, Any]


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
        survey = make_survey(visible, workspace, until, config, job.listed)
        run = _Run(survey, config, job.writer)
        progress.start("writing pairs", len(survey.points))
        with closing(PairSink(staged)) as sink:
            try:
                for rows, points in _blocks(run):
                    sink.add(rows)
                    progress.advance(points, f"{sum(sink.tally.counts['dataset'].values()):,} pairs")
                    if run.stopped:
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
class _Run:
    """A running build; `stopped` ends it after the block."""

    survey: Survey
    config: BuildConfig
    writer: Writer
    stopped: bool = False


def _blocks(run: _Run) -> Iterator[tuple[list[Row], int]]:
    """The rows of each block of points, with its number of points."""
    survey, config = run.survey, run.config
    threads = ThreadPoolExecutor(config.parallel)
    try:
        for start in range(0, len(survey.points), BLOCK):
            members = range(start, min(start + BLOCK, len(survey.points)))
            rng = np.random.default_rng([config.seed, 2, start])
            favoured = [topic for i in members for topic in survey.ranked[i]]
            questions = survey.questions.draw(config.future, favoured, rng)
            write = partial(_rows_of_point, run, questions)
            rows = threads.map(write, members) if config.parallel > 1 else map(write, members)
            yield [row for some in rows for row in some], len(members)
    finally:
        # After an error or Ctrl-C no further answers are requested.
        run.stopped = True
        threads.shutdown(cancel_futures=True)


def _rows_of_point(run: _Run, questions: Iterable[FutureQuestion], number: int) -> list[Row]:
    return [*_future_rows(run.survey, questions, number), *_uqa_rows(run, number)]


def _future_rows(survey: Survey, questions: Iterable[FutureQuestion], number: int) -> Iterator[Row]:
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


def _uqa_rows(run: _Run, number: int) -> Iterator[Row]:
    survey, seed = run.survey, run.config.seed
    row, cutoff = int(survey.points.rows[number]), int(survey.points.cutoffs[number])
    days = survey.workspace.window_days
    profile = survey.reader.read(row, cutoff, -days)
    user = str(survey.visible.users[row])
    for index in survey.ranked[number]:
        if run.stopped:
            return
        topic = survey.pool[index]
        events = profile.about(index, topic.name)
        counts = np.bincount(events.modality, minlength=len(events.modalities))
        modalities = [events.modalities[i] for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
        # The wording is the block's, so that some of its users share questions.
        chance = _digest(seed, user, cutoff, index), _digest(seed, number // BLOCK, index)
        aspect, request = topic_question(topic.name, gather_facts(events), modalities, days, chance)
        claim = Claim(row, cutoff, -days, words=topic.words)
        try:
            reflected = survey.reflection.write(run.writer, request, claim)
        except CapReached:
            run.stopped = True
            return
        except QAnchorError:
            run.stopped = True
            raise
        yield _row(survey, _Pair(number, "uqa", aspect, claim, request, reflected, run.writer.signature))


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


def _row(survey: Survey, pair: _Pair) -> Row:
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


def _manifest(survey: Survey, sink: PairSink, config: BuildConfig, job: Job, stopped: str) -> Manifest:
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
