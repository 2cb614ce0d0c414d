"""Faults of a statement: a number, a quotation, a name or a direction that its facts do not support."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from qanchor.training.useru.facts import Fact, shown_text
from qanchor.training.useru.topics import words_of
from qanchor.training.useru.writer import Request, Sentence

_COUNTING = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
_NUMBER_WORDS = {word: number for number, word in enumerate(_COUNTING.split(), 2)}
_NUMBER_WORDS |= {"twice": 2, "thrice": 3, "twenty": 20, "thirty": 30, "fifty": 50, "hundred": 100}
_UNITS = {
    "%": "percent", "percent": "percent", "per cent": "percent", "day": "days", "days": "days",
    "time": "events", "times": "events", "event": "events", "events": "events",
    "kind": "kinds", "kinds": "kinds", "different": "kinds",
}  # fmt: skip
_NUMBER = re.compile(
    rf"(?<![\w.])(\d[\d,]*(?:\.\d+)?|{'|'.join(_NUMBER_WORDS)})\b"
    rf"(?:[\s-]*({'|'.join(sorted(_UNITS, key=len, reverse=True))})(?!\w))?",
    re.IGNORECASE,
)
_BIN_END = re.compile(r"(\d+):")
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')
_NAMED = re.compile(r"(?<=[a-z0-9,;:)] )[A-Z][\w'-]+")
_RISING = {"rising", "rise", "rises", "increasing", "increases", "increased", "growing", "grows", "grown"}
_FALLING = {"falling", "falls", "decreasing", "decreases", "decreased", "declining", "declines", "dwindling"}
_DENYING = {"never", "none", "nothing", "nowhere"}
# Words that say nothing about a user, though a log's texts may contain them.
_PLAIN = """about active after again ahead also amounts back become becoming before being between chiefly
    come comes days different does during each event events falling first from further going goes habit
    important interest into kind kinds largely last late lately latest less life little lots main mainly many
    masses matter matters mention mentions money more most mostly much night morning afternoon evening
    nothing number often once only other over part period play plays recent recently regular rising seen
    several some span spend spending spent steady that their them there these they this those third
    thirds times total user users very week weeks were what when whether which while will with
    within year years"""
PLAIN_WORDS = frozenset(_PLAIN.split())


@dataclass(frozen=True)
class UserTexts:
    """The texts that a statement about one user may quote, and the words of the log.

    Args:
        texts: texts of the user's events in the span.
        log_words: all words of the log.
    """

    texts: frozenset[str]
    log_words: frozenset[str]

    @cached_property
    def quotable(self) -> str:
        """All texts as sentences quote them, one per line."""
        return "\n".join(shown_text(text) for text in self.texts).casefold()

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of the user's events."""
        return frozenset(word for text in self.texts for word in words_of(text))


def find_faults(sentence: Sentence, request: Request, user: UserTexts) -> list[str]:
    """The claims of a statement that its facts and the profile do not support, in words.

    Args:
        sentence: the statement.
        request: request with all facts.
        user: texts of the user.
    """
    cited = [request.fact(name) for name in sentence.facts]
    if not cited:
        return ["rests on no fact"]
    missing = [name for name, fact in zip(sentence.facts, cited, strict=True) if fact is None]
    if missing:
        return [f"cites {missing[0][:40]!r}, which is no fact"]
    facts = [fact for fact in cited if fact is not None]
    if sentence.text in {fact.says for fact in facts}:
        return []  # the sentence of a fact, which was counted again
    bare = _QUOTED.sub(" ", sentence.text)
    return [
        *_quote_faults(sentence.text, request, user),
        *_number_faults(bare, request, facts),
        *_name_faults(bare, request, user),
        *_direction_faults(bare, request, facts),
    ]


def _numbers(text: str) -> list[tuple[str, float, str]]:
    """Every number as written, its value, and its unit if there is one."""
    numbers = []
    for match in _NUMBER.finditer(text):
        written, unit = match.group(1), (match.group(2) or "").lower()
        word = written.lower()
        value = _NUMBER_WORDS[word] if word in _NUMBER_WORDS else float(written.replace(",", ""))
        numbers.append((written, float(value), _UNITS.get(unit, "")))
    return numbers


def _number_faults(bare: str, request: Request, facts: Sequence[Fact]) -> list[str]:
    allowed = [(float(request.days), "days")]
    for fact in facts:
        allowed += [(value, unit) for _, value, unit in _numbers(_QUOTED.sub(" ", fact.says))]
        if fact.name == "amount":
            allowed.append((float(fact.value), ""))
        if fact.name == "bins":
            allowed += [(float(end), "days") for end in _BIN_END.findall(fact.says)]
    return [
        f"says {written}{' ' + unit if unit else ''}, which no cited fact does"
        for written, value, unit in _numbers(bare)
        if not any(_agrees(written, value, unit, *other) for other in allowed)
    ]


def _agrees(written: str, value: float, unit: str, fact_value: float, fact_unit: str) -> bool:
    decimals = len(written.partition(".")[2]) if written[0].isdigit() else 0
    if abs(value - fact_value) > 0.5 * 10**-decimals + 1e-9:
        return False
    # A whole number of events, days or kinds is exact; only amounts are rounded.
    if fact_value == int(fact_value) and value != fact_value:
        return False
    return not unit or unit == fact_unit or (unit == "events" and not fact_unit)


def _quote_faults(text: str, request: Request, user: UserTexts) -> list[str]:
    quotes = [first or second for first, second in _QUOTED.findall(text)]
    return [
        f"quotes {quote[:40]!r}, which the profile does not hold"
        for quote in quotes
        if quote.casefold().strip(" .,") not in user.quotable and quote.casefold() != request.topic.casefold()
    ]


def _name_faults(bare: str, request: Request, user: UserTexts) -> list[str]:
    allowed = user.words | set(words_of(f"{request.topic} {request.question}")) | PLAIN_WORDS
    allowed |= {word for fact in request.facts for word in words_of(_QUOTED.sub(" ", fact.says))}
    foreign = [
        word for word in words_of(bare) if len(word) > 3 and word in user.log_words and word not in allowed
    ]
    named = [name for name in _NAMED.findall(bare) if not set(words_of(name)) <= allowed]
    return [
        f"names {word[:40]!r}, which the profile does not hold" for word in dict.fromkeys([*foreign, *named])
    ]


def _direction_faults(bare: str, request: Request, facts: Sequence[Fact]) -> list[str]:
    words = set(words_of(bare))
    trend, events = request.fact("trend"), request.fact("events")
    faults = []
    for direction, terms in (("rising", _RISING), ("falling", _FALLING)):
        if words & terms and (trend is None or trend.value != direction):
            faults.append(f"says {sorted(words & terms)[0]}, which the events are not")
    stated = {word for fact in facts for word in words_of(fact.says)}
    if words & _DENYING - stated and events is not None and int(events.value) > 0:
        faults.append(f"says {sorted(words & _DENYING)[0]}, though there are events")
    return faults
