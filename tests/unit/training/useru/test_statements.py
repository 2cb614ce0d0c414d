"""Statements: what a sentence may say with the facts that it cites."""

import pytest

from qanchor.training.useru.facts import Fact
from qanchor.training.useru.statements import UserTexts, find_faults
from qanchor.training.useru.writer import Request, Sentence

FACTS = (
    Fact("events", "12", "Events about coffee: several, 12 in 90 days."),
    Fact("active_days", "9", "On 9 days."),
    Fact("share", "7", "That is 7% of all events."),
    Fact("top", '{"pays coffee Blue Bean":5}', 'Chiefly "pays coffee Blue Bean" (5), "opens Tea Map" (2).'),
    Fact("amount", "1234.56", "Amounts come to 1,235 in all."),
    Fact("trend", "rising", "It is rising."),
    Fact("bins", "[[1],[4],[7]]", "Days back 1 to 9: nothing; 10 to 30: 5; 31 to 90: 7."),
)
REQUEST = Request("coffee", 90, "How much does coffee matter to this user?", FACTS)
USER = UserTexts(
    frozenset({"pays coffee Blue Bean", "opens Tea Map"}),
    frozenset({"pays", "coffee", "blue", "bean", "opens", "gambling", "starbucks", "map", "two"}),
)


def _faults(text: str, *facts: str) -> list[str]:
    return find_faults(Sentence(text, list(facts)), REQUEST, USER)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("Coffee came up 12 times in 90 days.", ("events",)),
        ("There were twelve events on nine days.", ("events", "active_days")),
        ("It makes up 7% of all events, 7 percent.", ("share",)),
        ('The user chiefly "pays coffee Blue Bean", 5 times.', ("top",)),
        ("About 1,235 was spent in all.", ("amount",)),
        ("1234.56 was spent.", ("amount",)),
        ("Interest is growing.", ("trend",)),
        ("Nothing in the last 9 days, 5 events in the days up to 30.", ("bins",)),
        ("Opens Tea Map now and then.", ("top",)),
    ],
)
def test_what_the_facts_bear_out_is_let_through(text: str, facts: tuple[str, ...]) -> None:
    assert _faults(text, *facts) == []


@pytest.mark.parametrize(
    ("text", "facts", "fault"),
    [
        ("Coffee came up 13 times.", ("events",), "says 13 events"),
        ("Coffee came up thirteen times.", ("events",), "says thirteen events"),
        ("Coffee came up on 12 days.", ("events", "active_days"), "says 12 days"),
        ("Coffee came up 9 times.", ("events", "active_days"), "says 9 events"),
        ("It makes up 12% of all events.", ("events", "share"), "says 12 percent"),
        ("12.4 events.", ("events",), "says 12.4"),
        ("About 1,300 was spent.", ("amount",), "says 1,300"),
        ("12 events.", ("active_days",), "says 12 events"),
        ('Mostly "pays coffee Starbucks".', ("top",), "quotes 'pays coffee Starbucks'"),
        ("Mostly at starbucks.", ("top",), "names 'starbucks'"),
        ("Likes gambling as well.", ("top",), "names 'gambling'"),
        ("The user goes to Paris for it.", ("top",), "names 'Paris'"),
        ("Interest is falling.", ("trend",), "says falling"),
        ("Interest is declining.", ("events",), "says declining"),
        ("The user never has coffee.", ("events",), "says never"),
        ("A coffee lover.", (), "rests on no fact"),
        ("12 events.", ("count",), "cites 'count'"),
    ],
)
def test_what_they_do_not_is_named(text: str, facts: tuple[str, ...], fault: str) -> None:
    assert any(fault in each for each in _faults(text, *facts)), _faults(text, *facts)


def test_the_facts_own_sentences_hold() -> None:
    for fact in FACTS:
        assert _faults(fact.says, fact.name) == []


def test_a_direction_without_a_trend_is_a_fault() -> None:
    request = Request("coffee", 90, "How much coffee?", FACTS[:2])
    assert find_faults(Sentence("Coffee is rising.", ["events"]), request, USER)
