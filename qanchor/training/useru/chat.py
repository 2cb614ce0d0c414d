"""Language models that answer messages: at an OpenAI-compatible endpoint, or loaded from a folder."""

import hashlib
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from qanchor.errors import InputError, WriterUnavailable

if TYPE_CHECKING:
    import httpx
    import tenacity
    import torch

JsonSchema = Mapping[str, object]

_RETRIED_STATUS: Final = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT_SECONDS: Final = 60.0
_MOST_BYTES: Final = 4 << 20
_FOLDER_REMEDY = "Name the folder of a causal language model with its tokenizer; nothing is downloaded."


class Message(msgspec.Struct, frozen=True):
    """One message of a conversation.

    Args:
        role: speaker.
        content: text of the message.
    """

    role: Literal["system", "user", "assistant"]
    content: str


class Completion(msgspec.Struct, frozen=True):
    """A model's reply.

    Args:
        text: text of the reply.
        prompt_tokens: tokens read; None: the model does not count them.
        reply_tokens: tokens written; None: the model does not count them.
    """

    text: str
    prompt_tokens: int | None = None
    reply_tokens: int | None = None


class Chat(Protocol):
    """A language model."""

    @property
    def model(self) -> str:
        """Name of the model; the cache keeps replies of different names apart."""
        ...

    def complete(self, messages: list[Message], max_tokens: int, schema: JsonSchema) -> Completion:
        """The model's reply of at most `max_tokens` tokens, by the JSON schema if the model supports one."""
        ...


@dataclass(frozen=True)
class Endpoint:
    """Address of a model.

    Args:
        url: base URL, such as http://127.0.0.1:8000/v1.
        model: name of the model there.
        api_key: bearer token; never printed.
        timeout_seconds: time limit of each network operation.
        attempts: calls before the model counts as unavailable.
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


class _Retry(Exception):
    """A failure that may pass.

    Args:
        reason: failure in words.
        wait_seconds: wait that the server requests; None: growing waits.
    """

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class HttpChat:
    """A model behind an OpenAI-compatible endpoint; transient failures are retried with growing waits.

    Args:
        endpoint: address of the model.
        sleep: function that waits for a number of seconds.

    Raises:
        InputError: the address is not an http(s) URL, or httpx and tenacity are not installed.
    """

    def __init__(self, endpoint: Endpoint, sleep: Callable[[float], None] = time.sleep) -> None:
        parts = urlsplit(endpoint.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise InputError(
                f"{endpoint.url!r} is not the address of a model", "Write it like http://HOST:PORT/v1."
            )
        try:
            import httpx
            import tenacity
        except ImportError as error:
            raise InputError(
                f"a language model at an endpoint needs {error.name}, which is not installed",
                'Install it: pip install "qanchor[llm]".',
            ) from error
        self._endpoint = endpoint
        self._with_schema = True
        self._host = parts.netloc.rpartition("@")[2]
        headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
        # A redirect would carry the key to another host: httpx follows none.
        self._client = httpx.Client(headers=headers, timeout=endpoint.timeout_seconds)
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(endpoint.attempts),
            wait=_wait_seconds,
            retry=tenacity.retry_if_exception_type(_Retry),
            sleep=sleep,
            reraise=True,
        )

    @property
    def model(self) -> str:
        """Name and host of the model."""
        return f"{self._endpoint.model}@{self._host}"

    def complete(self, messages: list[Message], max_tokens: int, schema: JsonSchema) -> Completion:
        """The model's reply.

        Raises:
            InputError: the endpoint refuses the request or the key.
            WriterUnavailable: every attempt fails.
        """
        try:
            return self._retrying(self._attempt, messages, max_tokens, schema)
        except _Retry as error:
            attempts = self._endpoint.attempts
            raise WriterUnavailable(
                f"the model at {self._host} failed {attempts} times, lastly with: {str(error)[:200]}",
                "Run the same command again later: replies so far are kept and not paid for again.",
            ) from error

    def _attempt(self, messages: list[Message], max_tokens: int, schema: JsonSchema) -> Completion:
        import httpx

        content: dict[str, object] = {
            "model": self._endpoint.model,
            "messages": msgspec.to_builtins(messages),
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        with_schema = self._with_schema
        if with_schema:
            form = {"name": "answer", "schema": schema, "strict": True}
            content["response_format"] = {"type": "json_schema", "json_schema": form}
        url = f"{self._endpoint.url.rstrip('/')}/chat/completions"
        try:
            with self._client.stream("POST", url, json=content) as response:
                body = _read(response)
            if not response.is_success:
                raise self._refusal(response, body, with_schema)
            return _completion(body)
        except (httpx.HTTPError, OSError, msgspec.DecodeError) as error:
            raise _Retry(" ".join(str(error).split()) or type(error).__name__) from error

    def _refusal(self, response: "httpx.Response", body: bytes, with_schema: bool) -> Exception:
        text = " ".join(body[:2_000].decode("utf-8", "replace").split())
        reason = f"{response.status_code} {text[:160]}".strip()
        if response.status_code in _RETRIED_STATUS:
            header = response.headers.get("Retry-After", "").strip()
            return _Retry(reason, float(header) if header.isdigit() else None)
        if response.status_code in (400, 422) and with_schema:
            # Older servers know no schemas; the prompt states the form as well.
            self._with_schema = False
            return _Retry(reason, 0.0)
        return InputError(
            f"the model at {self._host} refuses: {reason}",
            "Check the URL, the model's name and QANCHOR_LLM__API_KEY.",
        )


def _read(response: "httpx.Response") -> bytes:
    body = b""
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _MOST_BYTES:
            break
    return body


def _completion(body: bytes) -> Completion:
    answer = msgspec.json.decode(body, type=_Answer)
    text = answer.choices[0].message.content if answer.choices else None
    usage = answer.usage or _Usage()
    return Completion(text or "", usage.prompt_tokens, usage.completion_tokens)


def _wait_seconds(state: "tenacity.RetryCallState") -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _Retry) and error.wait_seconds is not None:
        return min(error.wait_seconds, _LONGEST_WAIT_SECONDS)
    # Half of the wait is random, so that parallel callers do not return at once.
    return min(2.0 ** (state.attempt_number - 1), _LONGEST_WAIT_SECONDS) * (0.5 + random.random() / 2)


class LocalChat:
    """A transformers model; it answers one request at a time, always with the most likely words.

    Args:
        folder: folder of the checkpoint.
        device: torch device, such as cpu or cuda.

    Raises:
        InputError: the folder has no model or no tokenizer.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not (folder / "config.json").is_file():
            raise InputError(f"there is no model in {folder}", _FOLDER_REMEDY)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                str(folder), local_files_only=True, dtype="auto"
            ).to(device)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise InputError(f"the model in {folder} cannot be loaded: {reason}", _FOLDER_REMEDY) from error
        self._model.eval()
        self._folder = folder
        self._lock = threading.Lock()

    @property
    def model(self) -> str:
        """The folder's name with a hash of the weights' size and time: other weights are another model."""
        files = sorted(self._folder.glob("*.safetensors")) or sorted(self._folder.glob("*.bin"))
        state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return f"{self._folder.name}#{hashlib.sha256(repr(state).encode()).hexdigest()[:12]}"

    def complete(self, messages: list[Message], max_tokens: int, schema: JsonSchema) -> Completion:  # noqa: ARG002  # the prompt states it
        """The model's reply.

        Raises:
            InputError: the prompt is longer than the model can read.
        """
        import torch

        ids = self._encode(messages)
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and ids.shape[1] + max_tokens > longest:
            raise InputError(
                f"a prompt of {ids.shape[1]} tokens and a reply of {max_tokens} exceed the model's {longest}",
                "Give --reply-tokens a smaller number, or choose a model that reads more.",
            )
        end, pad = self._tokenizer.eos_token_id, self._tokenizer.pad_token_id
        with self._lock, torch.no_grad():
            output = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=end if pad is None else pad,
            )
        reply = output[0, ids.shape[1] :]
        text = str(self._tokenizer.decode(reply, skip_special_tokens=True))
        return Completion(text, int(ids.shape[1]), len(reply))

    def _encode(self, messages: list[Message]) -> "torch.Tensor":
        """Token ids [1, tokens] of the conversation, by the model's template if it has one."""
        if getattr(self._tokenizer, "chat_template", None):
            text = self._apply_template(messages)
        else:
            text = "\n\n".join(message.content for message in messages) + "\n\n"
        ids: torch.Tensor = self._tokenizer(text, return_tensors="pt").input_ids.to(self._model.device)
        return ids

    def _apply_template(self, messages: list[Message]) -> str:
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.content} for message in messages]
        options = {"tokenize": False, "add_generation_prompt": True}
        try:
            return str(self._tokenizer.apply_chat_template(turns, **options))
        except TemplateError:
            # Some models allow no system message: its text opens the first user message.
            first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
            return str(self._tokenizer.apply_chat_template([first, *turns[2:]], **options))
