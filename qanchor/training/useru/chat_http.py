"""A language model behind any OpenAI-compatible endpoint."""

import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from qanchor.errors import InputError, WriterUnavailable
from qanchor.training.useru.chat import Completion, Message

_TRY_AGAIN: Final = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT_SECONDS: Final = 60.0
_MOST_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers.

    Args:
        url: base, such as http://127.0.0.1:8000/v1.
        model: its name there.
        api_key: sent as a bearer token; never shown.
        timeout_seconds: for one attempt.
        attempts: before it counts as unavailable.
    """

    url: str
    model: str
    api_key: str = field(default="", repr=False)
    timeout_seconds: float = 60.0
    attempts: int = 5


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Content(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Content


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class HttpChat:
    """A model that is asked over HTTP; transient faults are tried again, later and later.

    Args:
        endpoint: where.
        sleep: waits so many seconds.

    Raises:
        InputError: the address is no http(s) URL.
    """

    def __init__(self, endpoint: Endpoint, sleep: Callable[[float], None] = time.sleep) -> None:
        parts = urlsplit(endpoint.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(
                f"{endpoint.url!r} is no address of a model", "Write it like http://HOST:PORT/v1."
            )
        self._endpoint = endpoint
        self._sleep = sleep
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._with_schema = True
        self._host = parts.netloc.rpartition("@")[2]

    @property
    def model(self) -> str:
        """Name and place."""
        return f"{self._endpoint.model}@{self._host}"

    def complete(self, messages: list[Message], max_tokens: int, schema: dict[str, Any]) -> Completion:
        """The model's reply.

        Raises:
            InputError: the endpoint refuses the request or the key.
            WriterUnavailable: it does not answer, however often it is asked.
        """
        said = "no answer"
        for attempt in range(self._endpoint.attempts):
            try:
                return _completion(self._post(messages, max_tokens, schema))
            except urllib.error.HTTPError as error:
                said, wait = self._refused(error)
            except (OSError, HTTPException, msgspec.DecodeError) as error:
                said, wait = type(error).__name__ if not str(error) else " ".join(str(error).split()), None
            if attempt + 1 < self._endpoint.attempts:
                self._sleep(_wait_seconds(attempt, wait))
        raise WriterUnavailable(
            f"the model at {self._host} failed {self._endpoint.attempts} times, lastly with: {said[:200]}",
            "Run the same command again later: answers that came are kept and not asked for again.",
        )

    def _post(self, messages: list[Message], max_tokens: int, schema: dict[str, Any]) -> bytes:
        content: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": msgspec.to_builtins(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        if self._with_schema:
            form = {"name": "answer", "schema": schema, "strict": True}
            content["response_format"] = {"type": "json_schema", "json_schema": form}
        headers = {"Content-Type": "application/json"}
        if self._endpoint.api_key:
            headers["Authorization"] = f"Bearer {self._endpoint.api_key}"
        request = urllib.request.Request(
            f"{self._endpoint.url.rstrip('/')}/chat/completions", json.dumps(content).encode(), headers
        )
        with self._opener.open(request, timeout=self._endpoint.timeout_seconds) as response:
            body: bytes = response.read(_MOST_BYTES)
        return body

    def _refused(self, error: urllib.error.HTTPError) -> tuple[str, float | None]:
        """What the endpoint says and how long it wants us to wait; raises where trying again is no use."""
        with error:
            text = " ".join(error.read(2_000).decode("utf-8", "replace").split())
        said = f"{error.code} {text[:160]}".strip()
        if error.code in _TRY_AGAIN:
            return said, _seconds(error.headers.get("Retry-After"))
        if error.code in (400, 422) and self._with_schema:
            # Older servers know no schemas; the prompt states the form as well.
            self._with_schema = False
            return said, 0.0
        raise InputError(
            f"the model at {self._host} refuses: {said}",
            "Check the URL, the model's name and QANCHOR_LLM__API_KEY.",
        )


def _completion(body: bytes) -> Completion:
    answer = msgspec.json.decode(body, type=_Answer)
    text = answer.choices[0].message.content if answer.choices else None
    usage = answer.usage or _Usage()
    return Completion(text or "", usage.prompt_tokens, usage.completion_tokens)


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.strip().isdigit() else None


def _wait_seconds(attempt: int, asked: float | None) -> float:
    if asked is not None:
        return min(asked, _LONGEST_WAIT_SECONDS)
    # Half of it by chance, so that several askers do not come back at once.
    return min(2.0**attempt, _LONGEST_WAIT_SECONDS) * (0.5 + random.random() / 2)
