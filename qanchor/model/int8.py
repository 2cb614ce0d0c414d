"""A decoder with weights of eight bits, for embedding on a CPU."""

import warnings

from torch import nn

from qanchor.errors import WorkspaceInvalid
from qanchor.model.checkpoint import LoadedModel


def quantise(loaded: LoadedModel) -> LoadedModel:
    """The same model, its decoder's linear layers in int8: weights per output channel, inputs per batch.

    Adapters, text encoder, projection and soft prompts keep their format; LoRA's own layers do, too. The
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
        # torch means to move its eight-bit tensors to another package one day; the pinned torch has them.
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
