"""A writer that asks a language model for every answer, in a form that is checked."""

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from qanchor.training.useru.chat import Chat, Message
from qanchor.training.useru.replies import Reply, ReplyCache
from qanchor.training.useru.spending import Budget
from qanchor.training.useru.writer import Draft, Request, Signature

SCHEMA: dict[str, Any] = msgspec.json.schema(Draft)
_TASK = """You describe users of an application from facts that were counted in their event log.
You get a topic, a suggested question and facts, each with a name and a sentence.
Write one question about the topic and answer it in two to five short sentences.
Every sentence rests on facts that you cite by name, and says nothing that they do not say.
Give numbers exactly as the facts do, each with the same unit. Put names of shops, pages and things in
double quotes, as the facts do. Do not advise, judge or predict. The question gives no numbers away.
Reply with one JSON object of this schema and nothing else:
"""
_SYSTEM = _TASK + json.dumps(SCHEMA, sort_keys=True)
_PROMPT_HASH = hashlib.sha256(_SYSTEM.encode()).hexdigest()[:16]
# UTF-8 bytes, a low estimate in any script: what may be spent is reserved by it before a call.
_BYTES_PER_TOKEN = 3


@dataclass(frozen=True)
class LlmOptions:
    """How a model is asked.

    Args:
        reply_tokens: the longest reply.
        asks: how often a reply that does not have the form is asked for, in all.
    """

    reply_tokens: int = 500
    asks: int = 3


class LlmWriter:
    """Asks a model; replies that have the form are kept on disk and not asked for again.

    Args:
        chat: the model.
        cache: of its replies.
        budget: what may be spent; replies from the cache cost nothing.
        options: how to ask.
    """

    def __init__(
        self, chat: Chat, cache: ReplyCache, budget: Budget, options: LlmOptions | None = None
    ) -> None:
        self._chat, self._cache, self._budget = chat, cache, budget
        self._options = options or LlmOptions()
        self.signature = Signature("llm", chat.model, _PROMPT_HASH)
        self.tallies = {"from_cache": 0, "malformed": 0}
        self._lock = threading.Lock()

    def write(self, request: Request) -> Draft | None:
        """The model's answer.

        Raises:
            CapReached: the call might cost more than is left.
        """
        return self._ask(_opening(request))

    def revise(self, request: Request, draft: Draft, faults: Sequence[str]) -> Draft | None:
        """The model's answer, told what is wrong with its first one.

        Raises:
            CapReached: the call might cost more than is left.
        """
        told = "\n".join(f"- {fault}" for fault in dict.fromkeys(faults))
        again = f"Checked against the facts, this is wrong:\n{told}\nReply with the corrected JSON object."
        said = Message("assistant", msgspec.json.encode(draft).decode())
        return self._ask([*_opening(request), said, Message("user", again)])

    def _ask(self, messages: list[Message]) -> Draft | None:
        key = self._cache.key(self._chat.model, messages, self._options.reply_tokens)
        kept = self._cache.find(key)
        if kept is not None:
            try:
                draft = parse_draft(kept.text)
            except msgspec.DecodeError:
                draft = None  # written by another version of the form: ask again
            if draft is not None:
                self._tally("from_cache")
                return draft
        talk = messages
        for _ in range(self._options.asks):
            reply = self._paid(talk)
            try:
                draft = parse_draft(reply.text)
            except msgspec.DecodeError as error:
                self._tally("malformed")
                again = f"That is not the JSON object asked for: {error}. Reply with that object alone."
                said = Message("assistant", reply.text[:2_000])
                talk = [*messages, said, Message("user", again)]
                continue
            self._cache.keep(key, reply)
            return draft
        return None

    def _tally(self, name: str) -> None:
        with self._lock:
            self.tallies[name] += 1

    def _paid(self, messages: list[Message]) -> Reply:
        size = sum(len(message.content.encode()) + 20 for message in messages)
        estimate = size // _BYTES_PER_TOKEN + 1, self._options.reply_tokens
        self._budget.reserve(*estimate)
        try:
            said = self._chat.complete(messages, self._options.reply_tokens, SCHEMA)
            told = len(said.text.encode()) // _BYTES_PER_TOKEN + 1
            prompt = estimate[0] if said.prompt_tokens is None else said.prompt_tokens
            written = told if said.reply_tokens is None else said.reply_tokens
            self._budget.settle(prompt, written)
        finally:
            self._budget.release(*estimate)
        return Reply(said.text, prompt, written)


def parse_draft(text: str) -> Draft:
    """The one JSON object of a reply, code fences and words around it left out.

    Raises:
        msgspec.DecodeError: there is none, or it breaks the schema.
    """
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0 or end < begin:
        raise msgspec.DecodeError("there is no JSON object")
    return msgspec.json.decode(text[begin : end + 1].encode(), type=Draft)


def _opening(request: Request) -> list[Message]:
    facts = "\n".join(f"{fact.name}: {fact.says}" for fact in request.facts)
    asked = (
        f"Topic: {request.topic}\nProfile: the last {request.days} days\n"
        f"Suggested question: {request.question}\nFacts:\n{facts}"
    )
    return [Message("system", _SYSTEM), Message("user", asked)]
