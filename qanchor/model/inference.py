"""A model made cheaper for inference: adapters folded into the weights, the decoder in eight bits."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from qanchor.errors import WorkspaceInvalid
from qanchor.model.checkpoint import LoadedModel, load_model
from qanchor.model.qanchor import QAnchor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_for_inference(path: Path, device: str, precision: str) -> LoadedModel:
    """The model of a folder, its decoder in int8 where that is the precision.

    Args:
        path: folder that `save_model` wrote.
        device: auto, cpu, cuda, ...
        precision: auto, float32, bfloat16 or int8.

    Raises:
        CheckpointInvalid: it is not there, damaged, or of another format version.
        WorkspaceInvalid: int8 on a GPU; use bfloat16 there.
    """
    loaded = load_model(path, device, precision)
    return quantise(loaded) if precision == "int8" else loaded


def merge_adapters(model: QAnchor) -> QAnchor:
    """The model with every adapter added to the weights that it adapts: the same vectors, fewer products.

    A merged model holds its decoder and text encoder and needs no other folder; training it further changes
    all its weights.

    Args:
        model: in evaluation mode; changed in place. One without adapters is not changed.
    """
    config = model.config
    changes: dict[str, Any] = {}
    if config.backbone.source:
        _merge(model.backbone.lm)
        merged = {"architecture": _architecture(model.backbone.lm), "lora": None}
        changes["backbone"] = config.backbone.model_copy(update=merged)
    if config.text_encoder.source:
        encoder: Any = model.encoder.text_encoder
        _merge(encoder.encoder)
        merged = {"architecture": _architecture(encoder.encoder), "lora": None}
        changes["text_encoder"] = config.text_encoder.model_copy(update=merged)
    model.config = model.encoder.config = config.model_copy(update=changes)
    return model


def quantise(loaded: LoadedModel) -> LoadedModel:
    """The same model, its decoder's linear layers in int8: weights per output channel, inputs per batch.

    Adapters, text encoder, projection, soft prompts and LoRA layers keep their format. The
    model is changed in place and can no longer be trained.

    Args:
        loaded: on a CPU.

    Raises:
        WorkspaceInvalid: the model is on another device; use bfloat16 there.
    """
    if loaded.runtime.device.type != "cpu":
        raise WorkspaceInvalid(
            f"int8 is for CPUs, and the model is on {loaded.runtime.device}",
            "Set QANCHOR_COMPUTE__PRECISION to bfloat16.",
        )
    with warnings.catch_warnings():
        # torch announces that its eight-bit tensors will move to another package; the pinned torch has them.
        warnings.filterwarnings("ignore", message=".*quantize.*", category=UserWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        _replace_linears(loaded.model.backbone.lm.model)
    return loaded


def _replace_linears(module: nn.Module) -> None:
    from torch.ao.nn.quantized.dynamic import Linear
    from torch.ao.quantization import per_channel_dynamic_qconfig

    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            child.qconfig = per_channel_dynamic_qconfig  # type: ignore[assignment]
            setattr(module, name, Linear.from_float(child))  # type: ignore[no-untyped-call]
        elif not name.startswith("lora_"):
            _replace_linears(child)


def _architecture(model: "PreTrainedModel") -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return {**fields, "model_type": model.config.model_type}


@torch.no_grad()
def _merge(module: nn.Module) -> None:
    from peft.tuners.lora import LoraLayer

    for name, child in module.named_children():
        if isinstance(child, LoraLayer):
            child.merge(safe_merge=True)
            setattr(module, name, child.get_base_layer())
        else:
            _merge(child)
