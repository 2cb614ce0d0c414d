"""Decoders and text encoders that were trained elsewhere, read from this machine's disk only."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn

from qanchor.errors import NotReady, WorkspaceInvalid
from qanchor.model.config import (
    TEXT_LORA_MODULES,
    BackboneConfig,
    LoraSpec,
    ModelConfig,
    Pooling,
    TextEncoderConfig,
)
from qanchor.model.text_encoder import TransformerTextEncoder

if TYPE_CHECKING:
    from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    _Loader = type[AutoConfig] | type[AutoTokenizer] | type[_BaseAutoModelClass]

# Linear layers of event text encoders, by family; the names are those of transformers.
_TEXT_LAYERS = {
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    "modernbert": ("Wqkv", "Wo", "Wi"),
    "mpnet": ("q", "k", "v", "o", "dense"),
}


def with_sources(
    config: ModelConfig, backbone: str = "", text_encoder: str = "", pooling: Pooling = "cls"
) -> ModelConfig:
    """The configuration with a stored decoder, a stored text encoder, or both, sizes read from them.

    Args:
        config: configuration of a preset.
        backbone: name or folder; empty: the config's backbone stays.
        text_encoder: name or folder; empty: the config's text encoder stays.
        pooling: pooling of the text encoder.

    Raises:
        NotReady: one of them is not on this machine; fetch it, or give the folder of a copy.
    """
    changes: dict[str, Any] = {}
    if backbone:
        width = int(_described(backbone).hidden_size)
        lora = config.backbone.lora or LoraSpec()
        changes["backbone"] = config.backbone.model_copy(
            update={"source": backbone, "width": width, "lora": lora}
        )
    if text_encoder:
        about = _described(text_encoder)
        layers = _TEXT_LAYERS.get(about.model_type, TEXT_LORA_MODULES)
        update = {
            "kind": "transformer",
            "source": text_encoder,
            "width": int(about.hidden_size),
            "pooling": pooling,
            "lora": (config.text_encoder.lora or LoraSpec()).model_copy(update={"modules": layers}),
        }
        changes["text_encoder"] = config.text_encoder.model_copy(update=update)
    return config.model_copy(update=changes)


def _described(source: str) -> "PretrainedConfig":
    from transformers import AutoConfig

    return _from_disk(AutoConfig, source)


def load_language_model(config: BackboneConfig) -> "PreTrainedModel":
    """The causal LM that the config names, its weights frozen, LoRA in the stated modules.

    Raises:
        NotReady: it is not on this machine; fetch it, or give the folder of a copy.
        WorkspaceInvalid: its width is not the config's.
    """
    from transformers import AutoModelForCausalLM

    if config.architecture is not None:
        return _empty(AutoModelForCausalLM, config.architecture, attn_implementation="sdpa")
    model = _weights_from_disk(AutoModelForCausalLM, config.source, attn_implementation="sdpa")
    _check_width("backbone", config.source, model, config.width)
    if not hasattr(model, "model"):
        raise WorkspaceInvalid(
            f"decoders of type {model.config.model_type!r} are not supported",
            "Give a causal language model such as Qwen2, Qwen3 or Llama.",
        )
    _adapt(model, config.lora)
    return model


def load_text_encoder(config: TextEncoderConfig) -> nn.Module:
    """The text encoder that the config names, its weights frozen, LoRA in the stated modules.

    Raises:
        NotReady: it is not on this machine; fetch it, or give the folder of a copy.
        WorkspaceInvalid: its width is not the config's.
    """
    from transformers import AutoModel

    if config.architecture is not None:
        return TransformerTextEncoder(_empty(AutoModel, config.architecture), config.pooling)
    model = _weights_from_disk(AutoModel, config.source)
    _check_width("text encoder", config.source, model, config.width)
    _adapt(model, config.lora)
    return TransformerTextEncoder(model, config.pooling)


def load_tokenizer(source: str) -> tuple[Tokenizer, int, int]:
    """A stored tokenizer, its padding id and the id that ends a text.

    Raises:
        NotReady: it is not on this machine, or is not a fast tokenizer.
    """
    from transformers import AutoTokenizer

    wrapped = _from_disk(AutoTokenizer, source)
    backend = getattr(wrapped, "backend_tokenizer", None)
    if backend is None:
        raise NotReady(f"{source} has no tokenizer.json", "Use a checkpoint with a fast tokenizer.")
    backend.no_padding()
    backend.no_truncation()
    ends = [item for item in (wrapped.eos_token_id, wrapped.sep_token_id) if item is not None]
    # Llama's tokenizers have no padding token, or end texts with it; no text of ours has the other two.
    free = (wrapped.pad_token_id, wrapped.bos_token_id, wrapped.unk_token_id)
    pads = [item for item in free if item is not None and item not in ends[:1]]
    if not ends or not pads:
        raise NotReady(
            f"the tokenizer of {source} has no separate padding token, or none that ends a text",
            "Use a checkpoint whose tokenizer has both.",
        )
    return backend, int(pads[0]), int(ends[0])


_REMEDY = (
    "Nothing is downloaded: put a copy on disk and name its folder (--backbone, --text-encoder), "
    "or use preset tiny or small."
)


def _from_disk(loader: "_Loader", source: str, **options: object) -> Any:
    try:
        return loader.from_pretrained(_folder(source), local_files_only=True, **options)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0].rstrip(" .:") if lines else type(error).__name__
        raise NotReady(f"{source} cannot be loaded from this machine: {reason}", _REMEDY) from error


def _weights_from_disk(loader: "_Loader", source: str, **options: object) -> Any:
    """A model with all its weights; transformers would draw missing ones at random and continue."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # Otherwise transformers prints a report and raises an error that does not say what differs.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    model, loading = _from_disk(loader, source, dtype=torch.float32, **options)
    if loading["mismatched_keys"]:
        name, stored, expected = sorted(loading["mismatched_keys"])[0]
        raise NotReady(
            f"{source} is inconsistent: {name} has shape {tuple(stored)}, "
            f"and its config.json says {tuple(expected)}",
            "Restore config.json and weights of the same checkpoint.",
        )
    # The pooler is not read, and many text encoders are published without one.
    missing = sorted(name for name in loading["missing_keys"] if "pooler" not in name)
    if missing:
        raise NotReady(
            f"{source} has no weights for {missing[0]} of a {type(model).__name__}, {len(missing)} missing",
            "Give a whole checkpoint: a causal language model as backbone, an encoder for event texts.",
        )
    return model


def _folder(source: str) -> str:
    """The folder of a model: the source, or that of its name in the local cache of the hub's client."""
    if Path(source).is_dir():
        return source
    # With a name, transformers requests optional files from the hub even where it must not.
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(source, local_files_only=True))
    except (OSError, ValueError):
        raise FileNotFoundError("it is neither a folder nor a downloaded model") from None


def _check_width(what: str, source: str, model: "PreTrainedModel", width: int) -> None:
    stored = int(model.config.hidden_size)
    if stored != width:
        raise WorkspaceInvalid(
            f"the {what} {source} has width {stored}, and the config says {width}",
            "Put back the weights that the model was trained with, or train it again.",
        )


def _empty(loader: "type[_BaseAutoModelClass]", architecture: Mapping[str, Any], **options: object) -> Any:
    """A model of an architecture, its weights to be filled in."""
    from transformers import AutoConfig

    fields = dict(architecture)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    return loader.from_config(config, dtype=torch.float32, **options)


def _adapt(model: "PreTrainedModel", lora: LoraSpec | None) -> None:
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
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in endings and "pooler" not in name
    ]
    missing = sorted(set(endings) - {name.rpartition(".")[2] for name in names})
    if missing:
        raise WorkspaceInvalid(
            f"the model has no layer {missing[0]!r} to adapt", "Name layers of the model in the LoRA modules."
        )
    return names
