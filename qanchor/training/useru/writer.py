"""The role that turns facts about a profile into an answer, and the writer that needs no model for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec

from qanchor.training.useru.facts import Fact

MOST_SENTENCES = 6


class Sentence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One statement and the facts that it rests on.

    Args:
        text: the statement.
        facts: names of facts of the request.
    """

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
    facts: list[str]


class Draft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a writer hands in; reflection has not seen it yet.

    Args:
        question: the question, in the writer's words.
        answer: statement by statement.
    """

    question: Annotated[str, msgspec.Meta(min_length=8, max_length=300)]
    answer: Annotated[list[Sentence], msgspec.Meta(min_length=1, max_length=MOST_SENTENCES)]


@dataclass(frozen=True)
class Request:
    """What a writer is told: never a user id, and nothing of what comes after the cut-off.

    Args:
        topic: what it is about.
        days: length of the profile.
        question: a question grounded in the profile; a writer may word it in its own way.
        facts: that an answer may rest on, the most telling first.
    """

    topic: str
    days: int
    question: str
    facts: tuple[Fact, ...]

    def fact(self, name: str) -> Fact | None:
        """The fact of that name, if there is one."""
        return next((fact for fact in self.facts if fact.name == name), None)


@dataclass(frozen=True)
class Signature:
    """Who wrote a pair.

    Args:
        writer: grounded or llm.
        model: its model; empty: none.
        prompt_hash: of what it was told to do and of the form asked for.
    """

    writer: str
    model: str
    prompt_hash: str


class Writer(Protocol):
    """Writes answers; what it writes is checked by reflection."""

    @property
    def signature(self) -> Signature:
        """Who writes."""
        ...

    def write(self, request: Request) -> Draft | None:
        """An answer; None if none came in the form asked for."""
        ...

    def revise(self, request: Request, draft: Draft, faults: Sequence[str]) -> Draft | None:
        """The answer once more, told what is wrong with it; None if no better one is to be had."""
        ...


class GroundedWriter:
    """Composes answers of the facts' own sentences, so that each can be checked and none is invented."""

    # Counted up when sentences change, so that sets tell which they hold.
    signature = Signature("grounded", "", "sentences-1")

    def write(self, request: Request) -> Draft:
        """The most telling facts, one sentence each."""
        told = request.facts[:MOST_SENTENCES]
        return Draft(request.question, [Sentence(fact.says, [fact.name]) for fact in told])

    def revise(self, request: Request, draft: Draft, faults: Sequence[str]) -> None:  # noqa: ARG002  # the role's
        """Nothing: its sentences are the facts already."""
        return
