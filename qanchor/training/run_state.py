"""Unfinished runs on disk: what was learned so far and the optimiser's moments; safetensors and JSON.

Every run has a folder, named after all that it depends on, so that another run never takes its state.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qanchor.errors import CheckpointInvalid
from qanchor.files import ArtifactFolder, write_atomically

KIND, FORMAT_VERSION = "training state", 1
_DIVERGED = "diverged.json"


@dataclass(frozen=True)
class RunFolder:
    """The folder in which one run keeps its state.

    Args:
        parent: holds the folders of all runs; None: nothing is kept.
        key: identifies arguments and data, the learning rate left out.
        learning_rate: peak learning rate of the run.
    """

    parent: Path | None
    key: str
    learning_rate: float

    @property
    def name(self) -> str:
        """The run's name."""
        return f"{self.key[:16]}-{self.learning_rate:g}"

    @property
    def path(self) -> Path | None:
        """This run's folder, or None."""
        return self.parent / self.name if self.parent else None

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> None:
        """Write the run's state; a reader sees the old one or the new one, never half.

        Args:
            model: its trainable weights are written; frozen ones have not changed.
            optimizer: AdamW's moments are written.
            content: the rest of the run's state, as JSON; "step" is the number of steps done.

        Raises:
            DiskFull: no space is left; the state before is still there.
        """
        if self.path is None:
            return
        final = self.path / f"step-{content['step']:07d}"
        if final.exists():
            return
        moments = {
            f"{index}.{name}": value
            for index, slots in optimizer.state_dict()["state"].items()
            for name, value in slots.items()
        }

        def write(folder: Path) -> None:
            save_file(_copies(_trainable(model)), str(folder / "model.safetensors"))
            save_file(_copies(moments), str(folder / "optimizer.safetensors"))

        ArtifactFolder.write(final, KIND, FORMAT_VERSION, write, {"key": self.key, **content})
        for old in [*self.path.iterdir(), *self._diverged()]:
            if old not in (final, self.path):
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Put model and optimiser back to where this run stopped, or where a run of another learning rate
        stopped because its loss was not finite.

        Args:
            model: gets the weights.
            optimizer: gets the moments.

        Returns:
            The run's content, or None where there is no state.

        Raises:
            CheckpointInvalid: the state is damaged; delete the folder that the message names.
        """
        step = self._newest()
        if step is None:
            return None
        try:
            content = ArtifactFolder.open(step, KIND, FORMAT_VERSION).metadata
            weights = load_file(str(step / "model.safetensors"))
            _restore(optimizer, load_file(str(step / "optimizer.safetensors")))
        except CheckpointInvalid as error:
            raise CheckpointInvalid(
                f"the state of an unfinished run cannot be read: {error.problem}",
                f"Delete {step.parent} to begin that run again.",
            ) from error
        trainable = _trainable(model)
        with torch.no_grad():
            for name, weight in weights.items():
                trainable[name].copy_(weight)
        return content

    def mark_diverged(self, step: int) -> int | None:
        """Let a run with another learning rate continue from the kept state; gives its step, if any."""
        kept = self._newest()
        if kept is None:
            return None
        write_atomically(kept.parent / _DIVERGED, json.dumps({"step": step}))
        return int(kept.name.removeprefix("step-"))

    def discard(self) -> None:
        """Forget the state, once the model is stored elsewhere."""
        if self.parent is not None and self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            if self.parent.is_dir() and not any(self.parent.iterdir()):
                self.parent.rmdir()

    def _newest(self) -> Path | None:
        if self.path is None:
            return None
        for folder in (self.path, *self._diverged()):
            steps = sorted(folder.glob("step-*"))
            if steps:
                return steps[-1]
        return None

    def _diverged(self) -> list[Path]:
        """Folders of runs that differ from this one in their learning rate, and diverged."""
        if self.parent is None:
            return []
        return sorted(path.parent for path in self.parent.glob(f"{self.key[:16]}-*/{_DIVERGED}"))


def _restore(optimizer: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    state = optimizer.state_dict()
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        index, slot = name.split(".", maxsplit=1)
        slots.setdefault(int(index), {})[slot] = value
    state["state"] = slots
    optimizer.load_state_dict(state)


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU; copied, because safetensors refuses tensors that share memory (tied weights)."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
