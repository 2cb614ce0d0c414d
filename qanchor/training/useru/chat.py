"""The role of a language model that answers messages, whoever runs it."""

from typing import Any, Literal, Protocol

import msgspec


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation.

    Args:
        role: who speaks.
        content: in words.
    """

    role: Literal["system", "user", "assistant"]
    content: str


class Completion(msgspec.Struct, frozen=True):
    """What a model says to messages.

    Args:
        text: its reply.
        prompt_tokens: read; None: it did not say.
        reply_tokens: written; None: it did not say.
    """

    text: str
    prompt_tokens: int | None = None
    reply_tokens: int | None = None


class Chat(Protocol):
    """A language model."""

    @property
    def model(self) -> str:
        """Its name; replies of one name are kept apart from those of another."""
        ...

    def complete(self, messages: list[Message], max_tokens: int, schema: dict[str, Any]) -> Completion:
        """The model's reply, of at most so many tokens, in the form of a JSON schema if it can."""
        ...
