"""A language model in this process, read from a folder; nothing is downloaded."""

import threading
from pathlib import Path
from typing import Any

from qanchor.errors import InputError
from qanchor.training.useru.chat import Completion, Message

_REMEDY = "Name the folder of a causal language model with its tokenizer; nothing is downloaded."


class LocalChat:
    """A transformers model; it answers one request after the other, always the most likely words.

    Args:
        folder: of the checkpoint.
        device: cpu, cuda, ...

    Raises:
        InputError: there is no model in the folder, or no tokenizer.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not (folder / "config.json").is_file():
            raise InputError(f"there is no model in {folder}", _REMEDY)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                str(folder), local_files_only=True, dtype="auto"
            ).to(device)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise InputError(f"the model in {folder} cannot be loaded: {reason}", _REMEDY) from error
        self._model.eval()
        self._folder = folder
        self._lock = threading.Lock()

    @property
    def model(self) -> str:
        """The folder, with the checkpoint's size and time: other weights are another model."""
        files = sorted(self._folder.glob("*.safetensors")) or sorted(self._folder.glob("*.bin"))
        state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return f"{self._folder.name}#{hash_of(state)}"

    def complete(self, messages: list[Message], max_tokens: int, schema: dict[str, Any]) -> Completion:  # noqa: ARG002  # the role's
        """The model's reply; the schema stands in the prompt.

        Raises:
            InputError: the prompt is longer than the model can read.
        """
        import torch

        ids = self._encoded(messages)
        longest = getattr(self._model.config, "max_position_embeddings", None)
        if longest is not None and ids.shape[1] + max_tokens > longest:
            raise InputError(
                f"a prompt of {ids.shape[1]} tokens and a reply of {max_tokens} exceed the model's {longest}",
                "Give --reply-tokens a smaller number, or a model that reads more.",
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

    def _encoded(self, messages: list[Message]) -> Any:
        """Token ids [1, tokens] of the conversation, by the model's own template if it has one."""
        if getattr(self._tokenizer, "chat_template", None):
            text = self._templated(messages)
        else:
            text = "\n\n".join(message.content for message in messages) + "\n\n"
        return self._tokenizer(text, return_tensors="pt").input_ids.to(self._model.device)

    def _templated(self, messages: list[Message]) -> str:
        from jinja2 import TemplateError

        talk = [{"role": message.role, "content": message.content} for message in messages]
        options = {"tokenize": False, "add_generation_prompt": True}
        try:
            return str(self._tokenizer.apply_chat_template(talk, **options))
        except TemplateError:
            # Some models know no system message: what it says opens the first one of the user.
            first = {"role": "user", "content": f"{talk[0]['content']}\n\n{talk[1]['content']}"}
            return str(self._tokenizer.apply_chat_template([first, *talk[2:]], **options))


def hash_of(value: object) -> str:
    """Twelve hexadecimal digits that tell values apart."""
    import hashlib

    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]
