"""Questions: templates over spans, modalities and topics, and questions that one profile gives reason to ask.

No modality is named here: the workspace's names and words, and the scenarios' queries, fill the templates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from qanchor.training.useru.facts import Fact
from qanchor.training.useru.topics import Terms, words_of
from qanchor.training.useru.writer import MOST_SENTENCES, Request
from qanchor.workspace import Workspace

Facts = Mapping[str, Fact]
# Letters that inflected forms share, and the shortest word that counts.
_STEM = 5
_SHORTEST = 4
_MOST_TERMS = 4  # of a scenario


class Kind(IntEnum):
    """Kind of a question; stored with every pair."""

    FUTURE_WHOLE = 0
    FUTURE_MODALITY = 1
    FUTURE_TOPIC = 2
    FUTURE_SCENARIO = 3
    PAST_WHOLE = 4
    PAST_MODALITY = 5
    PAST_TOPIC = 6


PAST_KINDS = (Kind.PAST_WHOLE, Kind.PAST_MODALITY, Kind.PAST_TOPIC)

_TEMPLATES: dict[Kind, tuple[str, ...]] = {
    Kind.FUTURE_WHOLE: (
        "What will this user do in the next {days} days?",
        "What will happen with this user over the next {days} days?",
        "How active will this user be in the next {days} days?",
    ),
    Kind.FUTURE_MODALITY: (
        "What {modality} will this user have in the next {days} days?",
        "How much {modality} will there be in the next {days} days?",
        "What kind of {modality} will this user choose in the next {days} days?",
    ),
    Kind.FUTURE_TOPIC: (
        "Will this user have {topic} in {modality} in the next {days} days?",
        "How often will this user meet {topic} in the next {days} days?",
        "Will there be any {topic} in the next {days} days?",
    ),
    Kind.PAST_WHOLE: (
        "What did this user do in the last {days} days?",
        "How active was this user in the last {days} days?",
    ),
    Kind.PAST_MODALITY: (
        "What kind of {modality} did this user choose in the last {days} days?",
        "When did this user last have {modality}, looking back {days} days?",
    ),
    Kind.PAST_TOPIC: (
        "How often did this user meet {topic} in the last {days} days?",
        "Did this user have {topic} in {modality} in the last {days} days?",
    ),
}


def phrase_question(kind: Kind, variant: int, days: int, modality: str = "", topic: str = "") -> str:
    """A question in words; `variant` selects the wording."""
    wordings = _TEMPLATES[kind]
    return wordings[variant % len(wordings)].format(
        days=days, modality=modality.replace("_", " "), topic=topic
    )


def scenario_topics(workspace: Workspace, terms: Terms) -> dict[str, tuple[int, ...]]:
    """The terms in each scenario's query and positive answer, most specific first.

    A word of more than a third of the scenarios ("user", "next") belongs to none of them. Inflected forms
    match by their first letters: "coupons" and "coupon".
    """
    scenario_words = {
        name: set(words_of(f"{spec.query} {spec.positive}")) for name, spec in workspace.scenarios.items()
    }
    common = {
        word
        for words in scenario_words.values()
        for word in words
        if sum(word in other for other in scenario_words.values()) > max(1, len(scenario_words) // 3)
    }
    result = {}
    for name, words in scenario_words.items():
        stems = {word[:_STEM] for word in words - common if len(word) >= _SHORTEST}
        matched = [
            i for i, word in enumerate(terms.words) if len(word) >= _SHORTEST and word[:_STEM] in stems
        ]
        result[name] = tuple(sorted(matched, key=lambda i: -terms.weight[i])[:_MOST_TERMS])
    return result


@dataclass(frozen=True)
class Aspect:
    """One side of a topic.

    Args:
        name: name of the aspect.
        wordings: templates of the question.
        facts: names of the facts that answer it, in order.
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
            "Is {topic} becoming more or less important to this user, going by {sources}?",
            "How has this user's interest in {topic} changed in the last {days} days?",
        ),
        ("trend", "bins", "events", "top", "nearest_days"),
        _is_moving,
    ),
    Aspect(
        "recency",
        (
            "When was {topic} last part of this user's life, going by {sources}?",
            "Has this user left {topic} behind in the last {days} days?",
        ),
        ("nearest_days", "events", "bins", "top"),
        _is_long_ago,
    ),
    Aspect(
        "money",
        (
            "How much money goes with {topic}, going by {sources}?",
            "What part does {topic} play in this user's spending of the last {days} days?",
        ),
        ("amount", "events", "top", "bins", "share"),
        _has_amounts,
    ),
    Aspect(
        "variety",
        (
            "What kinds of {topic} does this user choose, going by {sources}?",
            "How varied is this user's {topic} of the last {days} days?",
        ),
        ("kinds", "top", "places", "events", "share"),
        _is_varied,
    ),
    Aspect(
        "habit",
        (
            "How regular is this user's habit of {topic}, going by {sources}?",
            "When and how steadily did {topic} come up in the last {days} days?",
        ),
        ("active_days", "daypart", "events", "bins", "top"),
        _is_regular,
    ),
    Aspect(
        "interest",
        (
            "How much does {topic} matter to this user, going by {sources}?",
            "What is {topic} to this user in the last {days} days?",
        ),
        ("events", "share", "active_days", "top", "nearest_days"),
        _is_there,
    ),
)


def topic_question(
    topic: str, facts: Facts, modalities: Sequence[str], days: int, chance: tuple[int, int]
) -> tuple[str, Request]:
    """A question that the profile gives reason to ask, with the facts for its answer.

    Args:
        topic: name of the topic.
        facts: facts of the topic, by name.
        modalities: modalities with events about the topic, most events first.
        days: length of the profile.
        chance: two random numbers that select the aspect, among those that arise, and its wording.

    Returns:
        The aspect's name, and the request.
    """
    arising = [aspect for aspect in ASPECTS if aspect.arises(facts, days)]
    aspect = arising[chance[0] % len(arising)]
    wording = aspect.wordings[chance[1] % len(aspect.wordings)]
    named = " and ".join(sorted(name.replace("_", " ") for name in modalities[:2]))
    question = wording.format(topic=topic, sources=f"{named} of the last {days} days", days=days)
    first = [facts[name] for name in aspect.facts if name in facts]
    rest = [fact for name, fact in facts.items() if name not in aspect.facts]
    return aspect.name, Request(topic, days, question, (*first, *rest)[: max(MOST_SENTENCES, len(first))])
