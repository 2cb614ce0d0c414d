"""The device and the number format that a model runs in."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from qanchor.errors import WorkspaceInvalid


@dataclass(frozen=True)
class Runtime:
    """A device and a number format.

    Args:
        device: device of the weights.
        dtype: number format of the matrix products; weights stay float32.
    """

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        """The context to compute in."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def choose_runtime(device: str = "auto", precision: str = "auto") -> Runtime:
    """The device and number format of this machine.

    `auto` precision is bfloat16 on a GPU that has it. On a CPU it is float32 even where bfloat16 is native: a
    training step of tiny took 1.3 times as long in it, and cached prefixes would no longer equal full
    recomputation within 1e-5. Embedding does gain from it (docs/scale.md). With `int8` all that is not in
    int8, and all training, is float32.

    Args:
        device: auto, cpu, cuda, cuda:1, ...
        precision: auto, float32, bfloat16 or int8.

    Raises:
        WorkspaceInvalid: the device does not exist here; unset QANCHOR_COMPUTE__DEVICE.
    """
    remedy = "Set QANCHOR_COMPUTE__DEVICE to auto or cpu."
    name = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise WorkspaceInvalid(f"device {device!r} is unknown", remedy) from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise WorkspaceInvalid(f"device {device!r} is not available here", remedy)
    # Softmax and AdamW leave numbers too small to be normal, on which a CPU is ten times slower.
    torch.set_flush_denormal(True)
    native = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
    half = precision == "bfloat16" or (precision == "auto" and native)
    return Runtime(chosen, torch.bfloat16 if half else torch.float32)
