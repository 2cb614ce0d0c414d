"""UserU pairs: grounded, generic, and blind to what comes after `until`."""

from dataclasses import replace

import numpy as np
import pytest

from qanchor.errors import NotReady
from qanchor.events.history import EventArrays, arrays_from_table
from qanchor.times import DAY_US, to_microseconds
from qanchor.training.useru.pairs import PairSet, UserUConfig, build_pairs
from qanchor.training.useru.points import visible_events
from qanchor.training.useru.questions import PAST_KINDS, Kind
from tests.unit.training.worlds import UNTIL, planted_leak, tiny_events, tiny_workspace

CONFIG = UserUConfig(horizons_days=(7, 14, 30), step_days=10, cell=4, questions=3)
END = to_microseconds(UNTIL)
WORKSPACE = tiny_workspace()


def _visible(leak: bool = False, exclude: frozenset[str] = frozenset()) -> EventArrays:
    events = tiny_events()
    table = planted_leak(events, UNTIL) if leak else events
    return visible_events(arrays_from_table(table, WORKSPACE), END, exclude)


def _pairs(seed: int = 0, leak: bool = False, config: UserUConfig = CONFIG) -> PairSet:
    return build_pairs(_visible(leak), WORKSPACE, END, config, seed)


def _same(left: PairSet, right: PairSet) -> bool:
    arrays = ("kind", "days", "question", "answers")
    return (
        all(np.array_equal(getattr(left, name), getattr(right, name)) for name in arrays)
        and np.array_equal(left.points.rows, right.points.rows)
        and np.array_equal(left.points.cutoffs, right.points.cutoffs)
        and left.questions == right.questions
        and left.phrases == right.phrases
    )


def test_events_at_or_after_until_change_nothing() -> None:
    assert _same(_pairs(), _pairs(leak=True))


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others() -> None:
    assert _same(_pairs(3), _pairs(3))
    assert not _same(_pairs(3), _pairs(4))


def test_no_span_reaches_past_until_and_every_point_has_a_past() -> None:
    pairs, visible = _pairs(), _visible()
    assert (pairs.points.cutoffs[:, None] + pairs.days.astype(np.int64) * DAY_US <= END).all()
    past = sum(
        (events.time[events.offsets[row] : events.offsets[row + 1]] < cutoff).sum()
        for events in visible.modalities
        for row, cutoff in zip(pairs.points.rows[:1], pairs.points.cutoffs[:1], strict=True)
    )
    assert past > 0
    assert (np.isin(pairs.kind, PAST_KINDS) == (pairs.days < 0)).all()


def test_excluded_users_have_no_pair() -> None:
    visible = _visible(exclude=frozenset({"u000", "u007"}))
    assert {"u000", "u007"}.isdisjoint(visible.users)
    assert len(visible.users) == 22


def test_a_cell_shares_its_questions_so_that_a_batch_tells_users_apart() -> None:
    pairs = _pairs()
    for at in range(0, len(pairs.points) - CONFIG.cell, CONFIG.cell):
        assert (pairs.kind[at : at + CONFIG.cell] == pairs.kind[at]).all()
    questions = np.array([len(np.unique(pairs.question[at : at + 4, 0])) for at in range(0, 40, 4)])
    assert questions.mean() < 2


def _count(visible: EventArrays, modality: int, row: int, cutoff: int, days: int, word: str) -> int:
    events = visible.modalities[modality]
    low, high = sorted((cutoff, cutoff + days * DAY_US))
    return sum(
        low <= int(events.time[i]) < high and word in visible.texts[events.text[i]].lower()
        for i in range(events.offsets[row], events.offsets[row + 1])
    )


def test_answers_agree_with_a_slow_count_of_the_events() -> None:
    pairs, visible = _pairs(), _visible()
    level = {0: "nothing", 1: "one", 2: "two", 3: "few", 4: "few"}
    checked = 0
    for point, slot in zip(*np.nonzero(pairs.kind == Kind.FUTURE_WHOLE), strict=True):
        row, cutoff = int(pairs.points.rows[point]), int(pairs.points.cutoffs[point])
        answer = pairs.answer_text(int(point), int(slot))
        count = _count(visible, 0, row, cutoff, int(pairs.days[point, slot]), "")
        songs = _count(visible, 1, row, cutoff, int(pairs.days[point, slot]), "")
        if count + songs == 0:
            assert answer == "nothing"
        elif count in level:
            assert f"ferry trips {level[count]}" in answer
            checked += 1
    assert checked > 5


def test_a_topic_answer_counts_the_word_it_was_asked_about() -> None:
    config = replace(CONFIG, shares=(0, 0, 1, 0, 0, 0, 0), questions=1)
    pairs, visible = _pairs(config=config), _visible()
    level = {0: "oslo nothing", 1: "oslo one", 2: "oslo two", 3: "oslo few", 4: "oslo few"}
    oslo_points = [
        i for i in range(len(pairs.points)) if "oslo" in pairs.questions[pairs.question[i, 0]].split()
    ]
    checked = 0
    for point in oslo_points:
        row, cutoff = int(pairs.points.rows[point]), int(pairs.points.cutoffs[point])
        count = _count(visible, 0, row, cutoff, int(pairs.days[point, 0]), "oslo")
        answer = pairs.answer_text(point, 0)
        if count in level and answer.startswith("oslo "):
            assert answer.startswith(level[count])
            checked += 1
    assert checked > 3


def test_a_summary_is_standardised_and_follows_the_events() -> None:
    pairs, visible = _pairs(), _visible()
    summary = pairs.summaries[14]
    assert np.allclose(summary.mean(axis=0), 0, atol=0.1)
    counts = [
        sum(_count(visible, m, int(row), int(cutoff), 14, "") for m in (0, 1))
        for row, cutoff in zip(pairs.points.rows, pairs.points.cutoffs, strict=True)
    ]
    active = summary[:, -2]  # numbers end with the fare; days with any event stand before it
    assert np.corrcoef(active, counts)[0, 1] > 0.8


def test_a_past_answer_tells_the_past_and_not_the_future() -> None:
    config = replace(CONFIG, shares=(0, 0, 0, 0, 1, 0, 0), questions=1)
    pairs, visible = _pairs(config=config), _visible()
    for point in range(20):
        row, cutoff = int(pairs.points.rows[point]), int(pairs.points.cutoffs[point])
        days = int(pairs.days[point, 0])
        none = sum(_count(visible, m, row, cutoff, days, "") for m in (0, 1)) == 0
        assert none == (pairs.answer_text(point, 0) == "nothing")


def test_events_of_less_than_two_days_are_refused() -> None:
    visible = visible_events(arrays_from_table(tiny_events(days=1), WORKSPACE), END, frozenset())
    first = min(int(e.time.min()) for e in visible.modalities)
    with pytest.raises(NotReady, match="less than two days"):
        build_pairs(visible, WORKSPACE, first + DAY_US, CONFIG, 0)
