"""A writer that asks a language model for every answer: replies cached on disk, spending capped."""

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qanchor.files import write_atomically
from qanchor.training.useru.chat import Chat, Message
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
# UTF-8 bytes, few in any script: the estimate that is reserved before a call is rather too high.
_BYTES_PER_TOKEN = 3


class Reply(msgspec.Struct, frozen=True):
    """One reply and its cost.

    Args:
        text: text of the reply.
        prompt_tokens: tokens read by the model.
        reply_tokens: tokens written by the model.
    """

    text: str
    prompt_tokens: int
    reply_tokens: int


class ReplyCache:
    """Replies on disk by a hash of the request, one file each: no reply is paid for twice.

    Args:
        folder: folder of the replies; created with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def key(self, model: str, messages: list[Message], max_tokens: int) -> str:
        """A hash of everything that a reply depends on."""
        return hashlib.sha256(msgspec.json.encode([model, messages, max_tokens])).hexdigest()

    def get(self, key: str) -> Reply | None:
        """The reply of that key; None where there is none, or a damaged one."""
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=Reply)
        except (OSError, msgspec.DecodeError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Store a reply, whole or not at all."""
        write_atomically(self._path(key), msgspec.json.encode(reply))

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


class CapReached(Exception):  # a signal to stop, caught by the build; not an error
    """The next call might exceed the spending cap."""


@dataclass(frozen=True)
class Prices:
    """Price of a million tokens, in any one currency.

    Args:
        prompt: price of tokens that the model reads.
        reply: price of tokens that it writes.
    """

    prompt: float = 0.0
    reply: float = 0.0

    def cost(self, prompt_tokens: int, reply_tokens: int) -> float:
        """Cost of these numbers of tokens."""
        return (self.prompt * prompt_tokens + self.reply * reply_tokens) / 1e6


class Budget:
    """Counts the cost of calls; threads may share it.

    Args:
        prices: prices of the model.
        most_tokens: cap in tokens; None: no cap.
        most_cost: cap in money; None: no cap.
    """

    def __init__(
        self, prices: Prices | None = None, most_tokens: int | None = None, most_cost: float | None = None
    ) -> None:
        self._prices = prices or Prices()
        self._most_tokens, self._most_cost = most_tokens, most_cost
        self._lock = threading.Lock()
        self._reserved_prompt = self._reserved_reply = 0
        self.calls = 0
        self.prompt_tokens = 0
        self.reply_tokens = 0

    @property
    def tokens(self) -> int:
        """Tokens so far."""
        return self.prompt_tokens + self.reply_tokens

    @property
    def cost(self) -> float:
        """Cost so far."""
        return self._prices.cost(self.prompt_tokens, self.reply_tokens)

    def reserve(self, prompt_tokens: int, reply_tokens: int) -> None:
        """Reserve the highest cost of a call; `release` has to follow.

        Raises:
            CapReached: the call might cost more than is left.
        """
        with self._lock:
            prompt, reply = self._reserved_prompt + prompt_tokens, self._reserved_reply + reply_tokens
            tokens = self.tokens + prompt + reply
            cost = self._prices.cost(self.prompt_tokens + prompt, self.reply_tokens + reply)
            over = self._most_tokens is not None and tokens > self._most_tokens
            if over or (self._most_cost is not None and cost > self._most_cost):
                raise CapReached
            self._reserved_prompt, self._reserved_reply = prompt, reply

    def release(self, prompt_tokens: int, reply_tokens: int) -> None:
        """End a reservation."""
        with self._lock:
            self._reserved_prompt -= prompt_tokens
            self._reserved_reply -= reply_tokens

    def settle(self, prompt_tokens: int, reply_tokens: int) -> None:
        """Count the actual cost of a call."""
        with self._lock:
            self.calls += 1
            self.prompt_tokens += prompt_tokens
            self.reply_tokens += reply_tokens


@dataclass(frozen=True)
class LlmOptions:
    """Limits of the requests to a model.

    Args:
        reply_tokens: longest reply.
        attempts: requests for one answer until it has the requested form.
    """

    reply_tokens: int = 500
    attempts: int = 3


class LlmWriter:
    """Asks a model; replies of the requested form are cached.

    Args:
        chat: the model.
        cache: cache of its replies.
        budget: spending cap; replies from the cache cost nothing.
        options: limits of the requests.
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
        return self._draft(_opening(request))

    def revise(self, request: Request, draft: Draft, faults: Sequence[str]) -> Draft | None:
        """The model's second answer, after the faults of its first one.

        Raises:
            CapReached: the call might cost more than is left.
        """
        listed = "\n".join(f"- {fault}" for fault in dict.fromkeys(faults))
        demand = f"Checked against the facts, this is wrong:\n{listed}\nReply with the corrected JSON object."
        first = Message("assistant", msgspec.json.encode(draft).decode())
        return self._draft([*_opening(request), first, Message("user", demand)])

    def _draft(self, messages: list[Message]) -> Draft | None:
        key = self._cache.key(self._chat.model, messages, self._options.reply_tokens)
        cached = self._cache.get(key)
        if cached is not None:
            try:
                draft = parse_draft(cached.text)
            except msgspec.DecodeError:
                draft = None  # written by another version of the form: request it again
            if draft is not None:
                self._count("from_cache")
                return draft
        conversation = messages
        for _ in range(self._options.attempts):
            reply = self._complete(conversation)
            try:
                draft = parse_draft(reply.text)
            except msgspec.DecodeError as error:
                self._count("malformed")
                demand = f"That is not the JSON object asked for: {error}. Reply with that object alone."
                malformed = Message("assistant", reply.text[:2_000])
                conversation = [*messages, malformed, Message("user", demand)]
                continue
            self._cache.put(key, reply)
            return draft
        return None

    def _count(self, name: str) -> None:
        with self._lock:
            self.tallies[name] += 1

    def _complete(self, messages: list[Message]) -> Reply:
        size = sum(len(message.content.encode()) + 20 for message in messages)
        estimate, most = size // _BYTES_PER_TOKEN + 1, self._options.reply_tokens
        self._budget.reserve(estimate, most)
        try:
            reply = self._chat.complete(messages, most, SCHEMA)
            prompt = estimate if reply.prompt_tokens is None else reply.prompt_tokens
            written = reply.reply_tokens
            if written is None:
                written = len(reply.text.encode()) // _BYTES_PER_TOKEN + 1
            self._budget.settle(prompt, written)
        finally:
            self._budget.release(estimate, most)
        return Reply(reply.text, prompt, written)


def parse_draft(text: str) -> Draft:
    """The one JSON object of a reply, without code fences and words before and after it.

    Raises:
        msgspec.DecodeError: the text has no such object, or it breaks the schema.
    """
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0 or end < begin:
        raise msgspec.DecodeError("there is no JSON object")
    return msgspec.json.decode(text[begin : end + 1].encode(), type=Draft)


def _opening(request: Request) -> list[Message]:
    facts = "\n".join(f"{fact.name}: {fact.says}" for fact in request.facts)
    content = (
        f"Topic: {request.topic}\nProfile: the last {request.days} days\n"
        f"Suggested question: {request.question}\nFacts:\n{facts}"
    )
    return [Message("system", _SYSTEM), Message("user", content)]
