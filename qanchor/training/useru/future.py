"""D_future: a user's events after a cut-off, in time bins and kinds of action, over several horizons.

All points of a block have the same questions, so that a batch separates users and not questions.

Source: arXiv 2602.14492, section 3.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from qanchor.training.useru.facts import Fact, gather_facts
from qanchor.training.useru.pool import PoolTopic
from qanchor.training.useru.profile import ProfileReader
from qanchor.training.useru.questions import Kind, phrase_question, scenario_topics
from qanchor.training.useru.recount import Claim
from qanchor.training.useru.statements import PLAIN_WORDS
from qanchor.training.useru.topics import Terms
from qanchor.workspace import Workspace

# Facts in order: how much and how often first, then when, then what.
_FACTS = ("events", "active_days", "bins", "top", "kinds", "amount")
_NARROW_FACTS = ("events", "nearest_days", "bins", "top", "kinds", "amount")

T = TypeVar("T")


@dataclass(frozen=True)
class FutureQuestion:
    """One question about the future, for all points of a block.

    Args:
        kind: whole, modality, topic or scenario.
        topic: name of the modality, topic or scenario; empty: all events.
        days: horizon.
        text: question in words.
        modality: index of the modality; -1: all modalities.
        pool_topic: index of the topic among the reader's; -1: all topics.
    """

    kind: str
    topic: str
    days: int
    text: str
    modality: int = -1
    pool_topic: int = -1


@dataclass(frozen=True)
class FuturePlan:
    """Numbers of questions per block, by kind.

    Args:
        modalities: questions about one modality each.
        topics: questions about one topic of the pool each.
        scenarios: questions of scenarios, with the scenario's query and horizon.
    """

    modalities: int = 2
    topics: int = 2
    scenarios: int = 2


def scenario_pool(workspace: Workspace, terms: Terms) -> list[PoolTopic]:
    """The log's words in each scenario's query and answer, as topics; scenarios without any are left out."""
    matched = {
        name: frozenset(terms.words[term] for term in matches) - PLAIN_WORDS
        for name, matches in scenario_topics(workspace, terms).items()
    }
    return [PoolTopic(name, words, True) for name, words in matched.items() if words]


class FutureQuestions:
    """Draws the questions of a block and gathers the facts that answer them.

    Args:
        reader: reader of the users' events.
        topics: topics of the reader: first the pool, then `scenario_pool`.
        pool_size: number of topics of the pool.
        workspace: names of the modalities and scenarios.
        horizons: horizons in days, ascending.
    """

    def __init__(
        self,
        reader: ProfileReader,
        topics: Sequence[PoolTopic],
        pool_size: int,
        workspace: Workspace,
        horizons: Sequence[int],
    ) -> None:
        self._reader = reader
        self._topics = topics
        self._pool_size = pool_size
        self._workspace = workspace
        self._horizons = list(horizons)
        self._names = list(workspace.modalities)

    def draw(
        self, plan: FuturePlan, favoured: Sequence[int], rng: np.random.Generator
    ) -> list[FutureQuestion]:
        """The questions of one block.

        Args:
            plan: numbers of questions; every horizon also has one about all events.
            favoured: topics to draw from; repeated ones are drawn more often.
            rng: random stream of the questions and their wordings.
        """
        variant = int(rng.integers(0, 12))
        questions = [
            FutureQuestion("whole", "", days, phrase_question(Kind.FUTURE_WHOLE, variant, days))
            for days in self._horizons
        ]
        for modality in _sample(range(len(self._names)), plan.modalities, rng):
            days, name = self._horizon(rng), self._names[modality]
            text = phrase_question(Kind.FUTURE_MODALITY, variant, days, name)
            questions.append(FutureQuestion("modality", name, days, text, modality=modality))
        for topic in _sample(favoured, plan.topics, rng):
            days, name = self._horizon(rng), self._topics[topic].name
            # The second and third wordings name no modality: a topic may have several.
            text = phrase_question(Kind.FUTURE_TOPIC, 1 + variant % 2, days, "", name)
            questions.append(FutureQuestion("topic", name, days, text, pool_topic=topic))
        scenario_rows = {topic.name: i for i, topic in enumerate(self._topics) if i >= self._pool_size}
        for name in _sample(list(self._workspace.scenarios), plan.scenarios, rng):
            spec = self._workspace.scenarios[name]
            row = scenario_rows.get(name, -1)
            questions.append(FutureQuestion("scenario", name, spec.horizon_days, spec.query, pool_topic=row))
        return questions

    def answer(self, question: FutureQuestion, row: int, cutoff: int) -> tuple[Claim, tuple[Fact, ...]]:
        """The facts of one point's answer, in order, and the claim that they are about."""
        span = self._reader.read(row, cutoff, question.days)
        if question.modality >= 0:
            name = self._names[question.modality]
            events = span.of_modality(question.modality, name.replace("_", " "))
            claim = Claim(row, cutoff, question.days, modality=name)
        elif question.pool_topic >= 0:
            topic = self._topics[question.pool_topic]
            about = topic.name if question.kind == "topic" else " or ".join(sorted(topic.words))
            events = span.about(question.pool_topic, about)
            claim = Claim(row, cutoff, question.days, words=topic.words)
        else:
            events, claim = span.everything, Claim(row, cutoff, question.days)
        facts = gather_facts(events)
        order = _NARROW_FACTS if claim.narrowed else _FACTS
        return claim, tuple(facts[name] for name in order if name in facts)

    def _horizon(self, rng: np.random.Generator) -> int:
        # Longer horizons are drawn more often: in a short one most users have no event.
        weight = np.sqrt(self._horizons)
        return int(rng.choice(self._horizons, p=weight / weight.sum()))


def _sample(items: Sequence[T], most: int, rng: np.random.Generator) -> list[T]:
    """Random items, each at most once."""
    drawn = [items[i] for i in rng.permutation(len(items)).tolist()]
    return list(dict.fromkeys(drawn))[:most]
