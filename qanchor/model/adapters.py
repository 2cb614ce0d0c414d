"""LoRA folded into the weights it adapts, for inference; and what the adapted weights were."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from qanchor.model.qanchor import QAnchor

_SAMPLE = 1_024


def merge_adapters(model: QAnchor) -> QAnchor:
    """The model with every adapter added to the weights it stands beside: the same vectors, fewer products.

    A merged model holds its decoder and text encoder itself and needs no other folder; it can no longer be
    told from one without adapters, and is trained on with all its weights.

    Args:
        model: in evaluation mode; changed in place. One without adapters is left as it is.
    """
    config = model.config
    changes: dict[str, Any] = {}
    if config.backbone.source:
        _merge(model.backbone.lm)
        own = {"architecture": _architecture(model.backbone.lm), "lora": None}
        changes["backbone"] = config.backbone.model_copy(update=own)
    if config.text_encoder.source:
        encoder: Any = model.encoder.text_encoder
        _merge(encoder.encoder)
        own = {"architecture": _architecture(encoder.encoder), "lora": None}
        changes["text_encoder"] = config.text_encoder.model_copy(update=own)
    model.config = model.encoder.config = config.model_copy(update=changes)
    return model


def weights_digest(weights: Iterable[tuple[str, Tensor]]) -> str:
    """Tells other weights from these by a sample of each; a changed model of the same shape shows.

    Args:
        weights: by name.
    """
    digest = hashlib.sha256()
    for name, weight in weights:
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // _SAMPLE)].float().cpu().contiguous()
        digest.update(f"{name}:{tuple(weight.shape)};".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def _architecture(model: Any) -> dict[str, Any]:
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
