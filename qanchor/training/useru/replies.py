"""A language model's replies on disk, by the content of what was asked: nothing is paid for twice."""

import hashlib
import os
from pathlib import Path

import msgspec

from qanchor.training.useru.chat import Message


class Reply(msgspec.Struct, frozen=True):
    """One reply and what it cost.

    Args:
        text: as it came.
        prompt_tokens: read by the model.
        reply_tokens: written by it.
    """

    text: str
    prompt_tokens: int
    reply_tokens: int


class ReplyCache:
    """Replies by hash, one file each.

    Args:
        folder: where they lie; made when the first one is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def key(self, model: str, messages: list[Message], max_tokens: int) -> str:
        """What a reply depends on, as a hash."""
        return hashlib.sha256(msgspec.json.encode([model, messages, max_tokens])).hexdigest()

    def find(self, key: str) -> Reply | None:
        """The reply of that key; None where there is none, or a damaged one."""
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=Reply)
        except (OSError, msgspec.DecodeError):
            return None

    def keep(self, key: str, reply: Reply) -> None:
        """Write a reply, whole or not at all."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        staged.write_bytes(msgspec.json.encode(reply))
        staged.replace(path)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"
