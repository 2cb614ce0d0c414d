"""Facts: counted once by the reader, and again by code that shares nothing with it."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qanchor.times import DAY_US
from qanchor.training.useru.facts import bin_edges, choose_actions, gather_facts, level_word
from qanchor.training.useru.pool import PoolTopic
from qanchor.training.useru.profile import ProfileReader, SpanEvents
from qanchor.training.useru.recount import Claim, Recounter
from tests.unit.training.useru.worlds import END, WORKSPACE, tampered, visible
from tests.unit.training.worlds import tiny_events

TOPICS = (
    PoolTopic("northern ports", frozenset({"oslo"}), True),
    PoolTopic("dances", frozenset({"march", "waltz"}), True),
)


@cache
def _parts() -> tuple[ProfileReader, Recounter]:
    arrays = visible(tiny_events(users=8, per_day=1.5))
    return ProfileReader(arrays, WORKSPACE, TOPICS), Recounter(arrays, WORKSPACE)


def _span(row: int = 0, days: int = -60, back: int = 15) -> SpanEvents:
    return _parts()[0].read(row, END - back * DAY_US, days)


spans = st.tuples(
    st.integers(0, 7), st.integers(0, 70 * 24), st.sampled_from([-60, -30, -7, -1, 1, 7, 30]), st.booleans()
)


@given(spans, st.sampled_from(["whole", "topic", "modality"]), st.integers(0, 1))
def test_every_fact_holds_when_counted_again(
    span: tuple[int, int, int, bool], about: str, which: int
) -> None:
    row, hours, days, at_an_event = span
    reader, recounter = _parts()
    cutoff = END - hours * DAY_US // 24
    events = reader.read(row, cutoff, days)
    if at_an_event and len(events.everything):
        # A cut-off on the very moment of an event is where an off-by-one would show.
        cutoff = int(events.everything.time[len(events.everything) // 2])
        events = reader.read(row, cutoff, days)
    seen, claim = events.everything, Claim(row, cutoff, days)
    if about == "topic":
        seen = events.about(which, TOPICS[which].name)
        claim = Claim(row, cutoff, days, words=TOPICS[which].words)
    elif about == "modality":
        name = list(WORKSPACE.modalities)[which]
        seen, claim = events.of_modality(which, name), Claim(row, cutoff, days, modality=name)
    facts = gather_facts(seen)
    assert recounter.refuted(claim, tuple(facts.values())) == []
    if len(seen) == 0:
        assert list(facts) == ["events"]


@pytest.mark.parametrize("days", [-60, 30])
def test_a_fact_with_another_value_is_refuted(days: int) -> None:
    seen = _span(0, days, 35).about(1, "dances")
    claim = Claim(0, END - 35 * DAY_US, days, words=TOPICS[1].words)
    facts = gather_facts(seen)
    assert {"events", "bins", "top", "share", "kinds", "active_days", "nearest_days"} <= set(facts)
    for fact in facts.values():
        assert _parts()[1].refuted(claim, (tampered(fact),)) == [fact.name]


def test_a_profile_ends_before_the_cutoff_and_a_future_begins_with_it() -> None:
    reader, _ = _parts()
    moment = int(_span().everything.time[-1])
    before, after = reader.read(0, moment, -60).everything, reader.read(0, moment, 30).everything
    assert before.time.max() < moment
    assert after.time.min() == moment


def test_time_bins_are_told_per_modality_and_near_days_first() -> None:
    seen = _span(1, 30, 40).everything
    bins = gather_facts(seen)["bins"].says
    days = (seen.time - seen.cutoff) // DAY_US
    trips, songs = (int(((days < 3) & (seen.modality == m)).sum()) for m in (0, 1))
    first = ", ".join(
        f"{name} {count}" for name, count in (("ferry trips", trips), ("songs", songs)) if count
    )
    assert bins.startswith(f"Days ahead 1 to 3: {first or 'nothing'}; 4 to 10: ")
    assert bin_edges(-90) == (0, 9, 30, 90)
    assert bin_edges(1) == (0, 1)


def test_actions_are_frequent_and_unlike_each_other() -> None:
    texts = ["pays food KFC", "pays food KFC drinks", "opens metro map", "pays rent"]
    chosen = choose_actions(texts, [20, 15, 6, 1], [0, 0, 1, 0], 3)
    assert [texts[i] for i in chosen[:2]] == ["pays food KFC", "opens metro map"]
    assert choose_actions(texts, [20, 15, 6, 1], [0, 1, 2, 3], 4)[0] == 0
    assert choose_actions([], [], [], 3) == []


def test_counts_have_the_words_of_answers_made_on_the_fly() -> None:
    assert [level_word(count) for count in (0, 1, 4, 40, 900)] == ["nothing", "one", "few", "lots", "masses"]


def test_of_an_amount_that_is_missing_nothing_is_told() -> None:
    assert "amount" not in gather_facts(_span().of_modality(1, "songs"))
    seen = _span().of_modality(0, "ferry trips")
    assert float(gather_facts(seen)["amount"].value) == pytest.approx(float(np.nansum(seen.amount)), abs=0.01)
