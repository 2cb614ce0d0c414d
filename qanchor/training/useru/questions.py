"""The questions that pre-training asks, and which words a question is about.

Nothing here knows the modalities: their names and words, and the scenarios' questions, fill the templates.
"""

from enum import IntEnum

from qanchor.training.useru.terms import Terms, words_of
from qanchor.workspace import Workspace


class Kind(IntEnum):
    """What a question asks for; stored with every pair."""

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
    """A question in words; `variant` picks the wording."""
    wordings = _TEMPLATES[kind]
    return wordings[variant % len(wordings)].format(
        days=days, modality=modality.replace("_", " "), topic=topic
    )


def scenario_topics(workspace: Workspace, terms: Terms, most: int = 4) -> dict[str, tuple[int, ...]]:
    """The terms that each scenario's question and its positive answer speak of, most specific first.

    A word that most scenarios use ("user", "next") is about none of them. Inflected forms match by their
    common beginning: "coupons" and "coupon".
    """
    said = {
        name: set(words_of(f"{spec.query} {spec.positive}")) for name, spec in workspace.scenarios.items()
    }
    common = {
        word
        for words in said.values()
        for word in words
        if sum(word in other for other in said.values()) > max(1, len(said) // 3)
    }
    result = {}
    for name, words in said.items():
        stems = {word[:_STEM] for word in words - common if len(word) >= _SHORTEST}
        matched = [
            i for i, word in enumerate(terms.words) if len(word) >= _SHORTEST and word[:_STEM] in stems
        ]
        result[name] = tuple(sorted(matched, key=lambda i: -terms.weight[i])[:most])
    return result


_STEM = 5
_SHORTEST = 4
