"""qanchor: one embedding per user and business scenario, as ordinary to use as any feature."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from qanchor.errors import (
    BatchTooLarge,
    CheckpointInvalid,
    EventsInvalid,
    InputError,
    NotReady,
    QAnchorError,
    StateError,
    StoreUnavailable,
    TrainingDiverged,
    WorkspaceInvalid,
)

__version__ = "0.2.0"
__all__ = [
    "BatchTooLarge",
    "CheckpointInvalid",
    "EventsInvalid",
    "InputError",
    "NotReady",
    "QAnchorError",
    "Site",
    "StateError",
    "StoreUnavailable",
    "TrainingDiverged",
    "UserModel",
    "WorkspaceInvalid",
    "load",
]
if TYPE_CHECKING:
    from qanchor.model.facade import UserModel
    from qanchor.site import Site
else:
    # Imported on first use: every module of the package imports this one, and most never reach torch.
    _LAZY = {"Site": "qanchor.site", "UserModel": "qanchor.model.facade"}

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module 'qanchor' has no attribute {name!r}")
        return getattr(import_module(_LAZY[name]), name)


def load(path: str | Path, device: str = "auto", precision: str = "auto") -> "UserModel":
    """A saved model, ready to embed users.

    Args:
        path: folder that `qanchor-cli pretrain` wrote, below `.qanchor/models`.
        device: auto, cpu, cuda, ...
        precision: auto, float32, bfloat16 or, on a CPU, int8.

    Returns:
        A model whose `embed(events, query, as_of)` gives user ids and unit vectors.

    Raises:
        CheckpointInvalid: the model is not there, damaged, or of another format version.
    """
    model: UserModel = import_module("qanchor.model.facade").load(path, device, precision)
    return model
