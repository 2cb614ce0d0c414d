"""D_future: what a user did after a cut-off, in time bins and kinds of action, over several horizons.

Every point of a block is asked the same, so that a batch tells users apart and not questions.

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
from qanchor.training.useru.terms import Terms
from qanchor.workspace import Workspace

# In the order they are told: how much and how often first, then when, then what.
_TOLD = ("events", "active_days", "bins", "top", "kinds", "amount")
_NARROW_TOLD = ("events", "nearest_days", "bins", "top", "kinds", "amount")

T = TypeVar("T")


@dataclass(frozen=True)
class FutureQuestion:
    """One question about what comes, for all points of a block.

    Args:
        kind: whole, modality, topic or scenario.
        topic: modality, topic or scenario; empty: everything.
        days: horizon.
        text: in words.
        modality: position of the only modality that counts; -1: all do.
        pool_topic: row of the reader's topics that alone counts; -1: all do.
    """

    kind: str
    topic: str
    days: int
    text: str
    modality: int = -1
    pool_topic: int = -1


@dataclass(frozen=True)
class FuturePlan:
    """How many questions of which kind each block gets.

    Args:
        modalities: drawn for each block; so for the others.
        topics: of the pool.
        scenarios: with their own horizon and question.
    """

    modalities: int = 2
    topics: int = 2
    scenarios: int = 2


def scenario_pool(workspace: Workspace, terms: Terms) -> list[PoolTopic]:
    """The words of the log that each scenario speaks of, as topics; of a scenario without such words none."""
    matched = {
        name: frozenset(terms.words[term] for term in found) - PLAIN_WORDS
        for name, found in scenario_topics(workspace, terms).items()
    }
    return [PoolTopic(name, words, True) for name, words in matched.items() if words]


class FutureAsker:
    """Draws the questions of a block and gathers the facts that answer them.

    Args:
        reader: of the topics and the scenarios' words.
        topics: the reader's topics: first the pool, then `scenario_pool`.
        pool_size: how many are of the pool.
        workspace: names modalities and scenarios.
        horizons: in days, ascending.
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
            plan: how many of which kind; the whole is asked about over every horizon.
            favoured: topics to draw from; those that stand there more than once are drawn more often.
            rng: draws them and their wordings.
        """
        variant = int(rng.integers(0, 12))
        asked = [
            FutureQuestion("whole", "", days, phrase_question(Kind.FUTURE_WHOLE, variant, days))
            for days in self._horizons
        ]
        for position in _some(range(len(self._names)), plan.modalities, rng):
            days, name = self._horizon(rng), self._names[position]
            text = phrase_question(Kind.FUTURE_MODALITY, variant, days, name)
            asked.append(FutureQuestion("modality", name, days, text, modality=position))
        for topic in _some(favoured, plan.topics, rng):
            days, name = self._horizon(rng), self._topics[topic].name
            # The second and third wordings name no modality: a topic is told in several.
            text = phrase_question(Kind.FUTURE_TOPIC, 1 + variant % 2, days, "", name)
            asked.append(FutureQuestion("topic", name, days, text, pool_topic=topic))
        spoken = {topic.name: i for i, topic in enumerate(self._topics) if i >= self._pool_size}
        for name in _some(list(self._workspace.scenarios), plan.scenarios, rng):
            spec = self._workspace.scenarios[name]
            row = spoken.get(name, -1)
            asked.append(FutureQuestion("scenario", name, spec.horizon_days, spec.query, pool_topic=row))
        return asked

    def answer(self, asked: FutureQuestion, row: int, cutoff: int) -> tuple[Claim, tuple[Fact, ...]]:
        """The facts of one point's answer, in the order they are told, and what they are about."""
        span = self._reader.read(row, cutoff, asked.days)
        if asked.modality >= 0:
            name = self._names[asked.modality]
            seen = span.of_modality(asked.modality, name.replace("_", " "))
            claim = Claim(row, cutoff, asked.days, modality=name)
        elif asked.pool_topic >= 0:
            topic = self._topics[asked.pool_topic]
            about = topic.name if asked.kind == "topic" else " or ".join(sorted(topic.words))
            seen = span.about(asked.pool_topic, about)
            claim = Claim(row, cutoff, asked.days, words=topic.words)
        else:
            seen, claim = span.everything, Claim(row, cutoff, asked.days)
        facts = gather_facts(seen)
        order = _NARROW_TOLD if claim.narrowed else _TOLD
        return claim, tuple(facts[name] for name in order if name in facts)

    def _horizon(self, rng: np.random.Generator) -> int:
        # Longer ones more often: in a short one most users do nothing.
        often = np.sqrt(self._horizons)
        return int(rng.choice(self._horizons, p=often / often.sum()))


def _some(items: Sequence[T], most: int, rng: np.random.Generator) -> list[T]:
    """Some of the items, each at most once."""
    drawn = [items[i] for i in rng.permutation(len(items)).tolist()]
    return list(dict.fromkeys(drawn))[:most]
