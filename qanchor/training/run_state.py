"""An unfinished run on disk: weights, optimiser, random state; safetensors and JSON, never pickles."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_STATE = "state.json"


def save_run(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, content: dict[str, Any]
) -> None:
    """Write the run's state; a reader sees the old one or the new one, never half.

    Args:
        folder: of the run; holds one sub-folder for the newest step.
        model: its trainable and other weights are written.
        optimizer: AdamW's moments are written.
        content: what else belongs to the run, as JSON; "step" names the step to go on from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{content['step']:07d}"
    staged = folder / f"_{final.name}"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    save_file(_owned(model.state_dict()), str(staged / "model.safetensors"))
    tensors = {
        f"{index}.{name}": value
        for index, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }
    save_file(_owned({**tensors, "random": torch.get_rng_state()}), str(staged / "optimizer.safetensors"))
    (staged / _STATE).write_text(json.dumps(content), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    staged.rename(final)
    for old in folder.iterdir():
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def load_run(
    folder: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put model, optimiser and random state back where a run of the same key stopped.

    Args:
        folder: as in `save_run`.
        key: identifies arguments and data; a run of another key is not gone on with.
        model: gets the weights.
        optimizer: gets the moments.

    Returns:
        The run's content, or None where there is nothing to go on from.
    """
    if not folder.is_dir():
        return None
    steps = sorted(path for path in folder.iterdir() if (path / _STATE).exists() and path.name[0] != "_")
    if not steps:
        return None
    content: dict[str, Any] = json.loads((steps[-1] / _STATE).read_text(encoding="utf-8"))
    if content.get("key") != key:
        return None
    model.load_state_dict(load_file(str(steps[-1] / "model.safetensors")))
    tensors = load_file(str(steps[-1] / "optimizer.safetensors"))
    torch.set_rng_state(tensors.pop("random"))
    state = optimizer.state_dict()
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, slot = name.split(".", maxsplit=1)
        slots.setdefault(int(index), {})[slot] = value
    state["state"] = slots
    optimizer.load_state_dict(state)
    return content


def _owned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies, because safetensors refuses tensors that share memory (tied weights)."""
    return {name: value.detach().contiguous().clone() for name, value in tensors.items()}
