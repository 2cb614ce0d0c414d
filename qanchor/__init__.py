"""qanchor: one embedding per user and business scenario, as ordinary to use as any feature."""

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
__all__ = ["load"]


def load(path: str | Path, device: str = "auto", precision: str = "auto") -> Any:
    """A saved model, ready to be asked; see `qanchor.model.facade.UserModel`.

    Args:
        path: folder that `qanchor-cli pretrain` wrote, below `.qanchor/models`.
        device: auto, cpu, cuda, ...
        precision: auto, float32, bfloat16 or, on a CPU, int8.

    Returns:
        An object whose `embed(events, query, as_of)` gives user ids and unit vectors.

    Raises:
        CheckpointInvalid: the model is not there, damaged, or of another format version.
    """
    # By name, so that the layers below the model, which import this package too, never reach torch.
    return import_module("qanchor.model.facade").load(path, device, precision)
