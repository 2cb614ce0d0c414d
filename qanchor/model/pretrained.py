"""Decoders and text encoders that were trained elsewhere, read from this machine's disk only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn

from qanchor.errors import NotReady, WorkspaceInvalid
from qanchor.model.config import BackboneConfig, LoraSpec, TextEncoderConfig
from qanchor.model.text_encoder import TransformerTextEncoder


def load_language_model(config: BackboneConfig) -> Any:
    """The causal LM that the config names, its weights frozen, LoRA in the stated modules.

    Raises:
        NotReady: it is not on this machine; fetch it, or give the folder of a copy.
        WorkspaceInvalid: its width is not the config's.
    """
    from transformers import AutoModelForCausalLM

    model = _from_disk(AutoModelForCausalLM, config.source, attn_implementation="sdpa")
    _check_width("backbone", config.source, model, config.width)
    _adapt(model, config.lora)
    return model


def load_text_encoder(config: TextEncoderConfig) -> nn.Module:
    """The text encoder that the config names, its weights frozen, LoRA in the stated modules.

    Raises:
        NotReady: it is not on this machine; fetch it, or give the folder of a copy.
        WorkspaceInvalid: its width is not the config's.
    """
    from transformers import AutoModel

    model = _from_disk(AutoModel, config.source)
    _check_width("text encoder", config.source, model, config.width)
    _adapt(model, config.lora)
    return TransformerTextEncoder(model)


def load_tokenizer(source: str) -> tuple[Tokenizer, int, int]:
    """A stored tokenizer, its padding id and the id that ends a text.

    Raises:
        NotReady: it is not on this machine, or is no fast tokenizer.
    """
    from transformers import AutoTokenizer

    wrapped = _from_disk(AutoTokenizer, source)
    backend = getattr(wrapped, "backend_tokenizer", None)
    if backend is None:
        raise NotReady(f"{source} has no tokenizer.json", "Use a checkpoint with a fast tokenizer.")
    backend.no_padding()
    backend.no_truncation()
    ids = [wrapped.pad_token_id, wrapped.eos_token_id, wrapped.sep_token_id]
    pad, end, separator = (None if item is None else int(item) for item in ids)
    last = next((item for item in (end, separator) if item is not None), None)
    if pad is None or last is None or pad == last:
        raise NotReady(
            f"the tokenizer of {source} has no padding token of its own, or none that ends a text",
            "Use a checkpoint whose tokenizer has both.",
        )
    return backend, pad, last


def _from_disk(loader: Any, source: str, **options: Any) -> Any:
    if loader.__name__ != "AutoTokenizer":
        options["dtype"] = torch.float32
    remedy = "Nothing is downloaded: put a copy on disk and name its folder, or use preset tiny or small."
    try:
        return loader.from_pretrained(_folder(source), local_files_only=True, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0].rstrip(" .:") if lines else type(error).__name__
        raise NotReady(f"{source} cannot be loaded from this machine: {reason}", remedy) from error


def _folder(source: str) -> str:
    """The folder of a model: itself, or that of its name in the local cache of the hub's client."""
    if Path(source).is_dir():
        return source
    # With a name, transformers asks the hub for optional files even where it was told not to.
    from huggingface_hub import snapshot_download

    return str(snapshot_download(source, local_files_only=True))


def _check_width(what: str, source: str, model: Any, width: int) -> None:
    found = int(model.config.hidden_size)
    if found != width:
        raise WorkspaceInvalid(
            f"the {what} {source} has width {found}, and the config says {width}",
            f"Set the width to {found}.",
        )


def _adapt(model: Any, lora: LoraSpec | None) -> None:
    """Freeze the model and put LoRA into it."""
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    if lora is None:
        return
    options = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_full_names(model, lora.modules),
    )
    inject_adapter_in_model(options, model)


def _full_names(model: nn.Module, endings: Sequence[str]) -> list[str]:
    """The linear layers whose last name is one of the endings; the unread pooler is none of them."""
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in endings and "pooler" not in name
    ]
    missing = sorted(set(endings) - {name.rpartition(".")[2] for name in found})
    if missing:
        raise WorkspaceInvalid(
            f"the model has no layer {missing[0]!r} to adapt", "Name its own layers in the LoRA modules."
        )
    return found
