"""Questions about a topic that a profile gives reason to ask, and which facts answer them best."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qanchor.training.useru.facts import Fact
from qanchor.training.useru.writer import MOST_SENTENCES, Request

Facts = Mapping[str, Fact]


@dataclass(frozen=True)
class Aspect:
    """One side of a topic.

    Args:
        name: of the aspect.
        wordings: of the question.
        facts: that answer it, in the order they are told.
        arises: whether a profile gives reason to ask, from its facts and its length in days.
    """

    name: str
    wordings: tuple[str, ...]
    facts: tuple[str, ...]
    arises: Callable[[Facts, int], bool]


def _is_moving(facts: Facts, days: int) -> bool:  # noqa: ARG001  # the role's signature
    return "trend" in facts and facts["trend"].value != "steady"


def _is_long_ago(facts: Facts, days: int) -> bool:
    return int(facts["nearest_days"].value) * 3 > days


def _has_amounts(facts: Facts, days: int) -> bool:  # noqa: ARG001
    return "amount" in facts


def _is_varied(facts: Facts, days: int) -> bool:  # noqa: ARG001
    return int(facts["kinds"].value) >= 4


def _is_regular(facts: Facts, days: int) -> bool:
    return "daypart" in facts and int(facts["active_days"].value) * 15 >= days


def _is_there(facts: Facts, days: int) -> bool:  # noqa: ARG001
    return True


ASPECTS = (
    Aspect(
        "trend",
        (
            "Is {topic} becoming more or less important to this user, going by {places}?",
            "How has this user's interest in {topic} changed in the last {days} days?",
        ),
        ("trend", "bins", "events", "top", "nearest_days"),
        _is_moving,
    ),
    Aspect(
        "recency",
        (
            "When was {topic} last part of this user's life, going by {places}?",
            "Has this user left {topic} behind in the last {days} days?",
        ),
        ("nearest_days", "events", "bins", "top"),
        _is_long_ago,
    ),
    Aspect(
        "money",
        (
            "How much money goes with {topic}, going by {places}?",
            "What part does {topic} play in this user's spending of the last {days} days?",
        ),
        ("amount", "events", "top", "bins", "share"),
        _has_amounts,
    ),
    Aspect(
        "variety",
        (
            "What kinds of {topic} does this user choose, going by {places}?",
            "How varied is this user's {topic} of the last {days} days?",
        ),
        ("kinds", "top", "places", "events", "share"),
        _is_varied,
    ),
    Aspect(
        "habit",
        (
            "How regular is this user's habit of {topic}, going by {places}?",
            "When and how steadily did {topic} come up in the last {days} days?",
        ),
        ("active_days", "daypart", "events", "bins", "top"),
        _is_regular,
    ),
    Aspect(
        "interest",
        (
            "How much does {topic} matter to this user, going by {places}?",
            "What is {topic} to this user in the last {days} days?",
        ),
        ("events", "share", "active_days", "top", "nearest_days"),
        _is_there,
    ),
)


def ask_about(
    topic: str, facts: Facts, places: Sequence[str], days: int, chance: tuple[int, int]
) -> tuple[str, Request]:
    """A question that the profile gives reason to ask, with the facts for its answer.

    Args:
        topic: as the question says it.
        facts: of the topic, by name.
        places: modalities that speak of it, most events first.
        days: length of the profile.
        chance: two numbers that pick among the aspects that arise, and their wordings.

    Returns:
        The aspect's name, and the request.
    """
    arising = [aspect for aspect in ASPECTS if aspect.arises(facts, days)]
    aspect = arising[chance[0] % len(arising)]
    wording = aspect.wordings[chance[1] % len(aspect.wordings)]
    named = " and ".join(sorted(name.replace("_", " ") for name in places[:2]))
    question = wording.format(topic=topic, places=f"{named} of the last {days} days", days=days)
    first = [facts[name] for name in aspect.facts if name in facts]
    rest = [fact for name, fact in facts.items() if name not in aspect.facts]
    return aspect.name, Request(topic, days, question, (*first, *rest)[: max(MOST_SENTENCES, len(first))])
