"""Named events on a random small model, under a head that reads its vectors."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from qanchor.events.history import load_event_arrays
from qanchor.explain.event_effects import (
    EditedLog,
    EventEffects,
    Explainer,
    ExplainOptions,
    event_effects,
    raw_scores,
    read_events,
    score_direction,
)
from qanchor.heads.calibrate import Calibration
from qanchor.heads.card import FORMAT, HeadCard, SplitCard
from qanchor.heads.fit import Boosters, FitOptions, FitRows, FitTask, fit_head
from qanchor.heads.score import LoadedHead
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.runtime import Runtime
from qanchor.model.saliency import event_saliency
from tests.unit.explain.test_edited_log import LATER, Log
from tests.unit.model.worlds import QUERIES, START, WORKSPACE, event_table, make_world

WIDTH = 8
WORLD = make_world(1)
LOADED = LoadedModel(
    WORLD.model.requires_grad_(False),
    WORLD.tokenizer,
    WORLD.normaliser,
    WORLD.config,
    {},
    "hash",
    Runtime(torch.device("cpu"), torch.float32),
)
ANCHOR = Query(QUERIES[0])
CUTOFF = START + 35 * 24 * 3_600_000_000
NOTHING = np.empty(0, np.int64)
TABLE = event_table(3, 40, 1600)


def user_vectors() -> NDArray[np.float32]:
    """Vectors of all users at the cut-off, (40, 8)."""
    arrays = load_event_arrays(Log(TABLE), WORKSPACE)
    rows = np.arange(len(arrays.users))
    vectors: NDArray[np.float32] = UserEmbedder(LOADED).embed(
        arrays, rows, np.full(len(rows), CUTOFF), [ANCHOR]
    )[0]
    return vectors


def head_on(vectors: NDArray[np.float32]) -> LoadedHead:
    """A head that has learnt a direction of the vectors, and aggregates of one modality."""
    random = np.random.default_rng(0)
    spread = vectors[random.integers(0, len(vectors), 4000)] + random.normal(0, 0.03, (4000, WIDTH))
    spread = (spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype(np.float32)
    odds = (spread - spread.mean(axis=0)) @ np.array([9, -7, 5, 0, 3, 0, -4, 2]) * 3
    labels = (random.random(4000) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    names = tuple(f"emb_{number:03d}" for number in range(WIDTH))
    halves = [FitRows(spread[part], labels[part]) for part in (slice(0, 3000), slice(3000, None))]
    fitted = fit_head(FitTask(halves[0], halves[1], names), FitOptions(rounds=200, patience=30))
    return LoadedHead(card(fitted.calibration), fitted.boosters, Path())


def card(calibration: Calibration) -> HeadCard:
    return HeadCard(
        format=FORMAT,
        scenario="risk",
        version="v",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        fingerprint="f",
        model_version=None,
        prompt_version=None,
        groups=("embedding",),
        width=WIDTH,
        numbers=(),
        categories={},
        calibration=calibration,
        options=FitOptions(),
        parameters={},
        rounds=(),
        tried=2,
        valid_auc=0.5,
        test_fold=None,
        split=SplitCard(by="user", begins={}, left_out={}),
        labels_hash="",
        frame_hash="",
        rows={},
        without_embedding=0,
        constant=(),
        unseen={},
        metrics={},
        segments=[],
        importance={},
        booster_hashes=(),
        libraries={},
    )


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    vectors = user_vectors()
    return Explainer(head_on(vectors), UserEmbedder(LOADED), ANCHOR, WORKSPACE, vectors)


def readable(effects: EventEffects) -> NDArray[np.int64]:
    """Rows of the events that the vector reads, ascending."""
    return np.sort(np.array([event.row for event in effects.events], dtype=np.int64))


def events_of(user: str) -> pa.Table:
    return read_events(Log(TABLE), WORKSPACE, [user], LATER)


def test_the_pull_of_an_event_is_the_change_of_the_vector_along_the_direction() -> None:
    arrays = load_event_arrays(EditedLog(events_of("u3"), [NOTHING]), WORKSPACE)
    random = np.random.default_rng(5)
    one, two = random.normal(size=WIDTH), random.normal(size=WIDTH)
    pulls = [event_saliency(LOADED, arrays, 0, CUTOFF, ANCHOR, way).pull for way in (one, two, 2 * one - two)]
    assert len(pulls[0]) > 5
    assert np.abs(pulls[0]).max() > 0
    np.testing.assert_allclose(2 * pulls[0] - pulls[1], pulls[2], atol=1e-5)


def test_only_events_that_the_vector_reads_have_a_pull(explainer: Explainer) -> None:
    events = events_of("u3")
    effects = event_effects(explainer, events, LATER)
    base, *without = raw_scores(explainer, events, LATER, [NOTHING, *np.arange(events.num_rows)[:, None]])
    assert effects.raw == base
    unread = np.setdiff1d(np.arange(events.num_rows), readable(effects))
    # Beyond 30 days or the newest of a modality: leaving it out changes nothing of the vector's events.
    assert len(unread) > 0
    moved = np.abs(np.array(without) - base)
    assert moved[readable(effects)].max() > 0


def test_effects_are_what_leaving_the_event_out_does(explainer: Explainer) -> None:
    events = events_of("u5")
    effects = event_effects(explainer, events, LATER)
    assert len(effects.events) == len({event.row for event in effects.events}) > 5
    for event in (effects.events[0], effects.events[-1]):
        kept = raw_scores(explainer, events, LATER, [np.array([event.row])])
        assert event.effect == pytest.approx(effects.raw - kept[0], abs=1e-9)
    assert [e.effect for e in effects.events] == sorted((e.effect for e in effects.events), reverse=True)
    assert all(event.effect > 0 for event in effects.raised)
    assert all(event.effect < 0 for event in effects.lowered)


def test_the_direction_is_the_way_in_which_the_head_rises(explainer: Explainer) -> None:
    rises = 0
    for vector in explainer.others[:20]:
        direction = score_direction(explainer, vector)
        step = 0.3 * direction / np.linalg.norm(direction)
        pair = np.stack([vector - step, vector + step])
        pair /= np.linalg.norm(pair, axis=1, keepdims=True)
        down, up = explainer.head.boosters.raw(pair.astype(np.float32))
        rises += up > down
    assert rises >= 18


def test_named_events_move_the_score_more_than_random_ones(explainer: Explainer) -> None:
    random, wins, users = np.random.default_rng(1), 0, [f"u{number}" for number in range(7)]
    pairs = replace(explainer, options=ExplainOptions(together=2))
    for user in users:
        events = events_of(user)
        effects = event_effects(pairs, events, LATER)
        named = np.array(effects.together.rows, dtype=np.int64)
        draws = [random.choice(readable(effects), 2, replace=False) for _ in range(8)]
        raw = raw_scores(explainer, events, LATER, [NOTHING, named, *draws])
        change = np.abs(raw[1:] - raw[0])
        assert effects.together.effect == pytest.approx(raw[0] - raw[1], abs=1e-9)
        wins += change[0] > change[1:].mean()
    assert wins == len(users)


def test_a_head_of_several_boosters_is_explained_alike(explainer: Explainer) -> None:
    boosters = explainer.head.boosters
    twice = LoadedHead(explainer.head.card, Boosters(boosters.members * 2), Path())
    again = Explainer(twice, explainer.embedder, ANCHOR, WORKSPACE, explainer.others)
    events, vector = events_of("u1"), explainer.others[1]
    np.testing.assert_allclose(score_direction(again, vector), score_direction(explainer, vector), atol=1e-9)
    first, second = (event_effects(one, events, LATER) for one in (explainer, again))
    assert [event.row for event in first.events] == [event.row for event in second.events]
    assert first.together == second.together
