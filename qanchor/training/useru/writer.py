"""The role that turns facts about a profile into an answer, and the writer that needs no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import msgspec

from qanchor.training.useru.facts import Fact

MOST_SENTENCES = 6

# The docstrings of Sentence and Draft are part of the JSON schema in the prompt: another word in them makes
# cached replies useless, and a set of pairs has another prompt hash.


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
    """A request to a writer; it has no user id and, for a profile, no event after the cut-off.

    Args:
        topic: topic of the question.
        days: length of the span.
        question: suggested question, which a writer may reword.
        facts: facts for the answer, the most telling first.
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
    """Provenance of a pair.

    Args:
        writer: grounded or llm.
        model: name of the model; empty: none.
        prompt_hash: hash of the instructions and of the answer's form.
    """

    writer: str
    model: str
    prompt_hash: str


class Writer(Protocol):
    """Writes answers, which reflection checks."""

    @property
    def signature(self) -> Signature:
        """Provenance of the writer's pairs."""
        ...

    def write(self, request: Request) -> Draft | None:
        """An answer; None if no reply has the requested form."""
        ...

    def revise(self, request: Request, draft: Draft, faults: Sequence[str]) -> Draft | None:
        """A corrected answer, given the faults of the first; None if there is no better one."""
        ...


class GroundedWriter:
    """Composes answers from the sentences of the facts, so that each can be checked and none is invented."""

    # Increased when sentences change, so that sets record their version.
    signature = Signature("grounded", "", "sentences-1")

    def write(self, request: Request) -> Draft:
        """The most telling facts, one sentence each."""
        facts = request.facts[:MOST_SENTENCES]
        return Draft(request.question, [Sentence(fact.says, [fact.name]) for fact in facts])

    def revise(self, request: Request, draft: Draft, faults: Sequence[str]) -> None:  # noqa: ARG002  # the role's
        """None: the sentences are those of the facts already."""
        return
