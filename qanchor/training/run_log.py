"""The figures of every training step: to TensorBoard, and as curves in a picture."""

import resource
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import torch

from qanchor.errors import NotReady
from qanchor.files import atomic_file


@dataclass(frozen=True)
class StepFigures:
    """One step.

    Args:
        contrastive: loss, nats.
        next_token: loss, nats.
        summary: loss.
        learning_rate: learning rate of the step.
        gradient_norm: norm before clipping.
        seconds: duration.
        memory_mib: peak memory so far, of the process or the GPU.
    """

    contrastive: float
    next_token: float
    summary: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    memory_mib: float

    @property
    def note(self) -> str:
        """For a progress bar."""
        return (
            f"contrastive {self.contrastive:.3f} next-token {self.next_token:.3f} summary {self.summary:.3f}"
        )

    def row(self) -> list[float]:
        """As JSON."""
        return list(astuple(self))


def memory_mib(device: torch.device) -> float:
    """Peak memory of this process so far: on the GPU, if it works on one."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


class TensorBoardLog:
    """Scalars of every step, for `tensorboard --logdir FOLDER`.

    Args:
        folder: the run's folder.
        step: the first step to be written; those of an interrupted run from there on are hidden.

    Raises:
        NotReady: the package is not installed; the message says how.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise NotReady(
                "TensorBoard is not installed", 'Install it: pip install "qanchor[tensorboard]".'
            ) from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=step)

    def write(self, step: int, figures: StepFigures) -> None:
        """One step's scalars."""
        for name, value in asdict(figures).items():
            group = "loss" if name in ("contrastive", "next_token", "summary") else "run"
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()


def save_curves(steps: Sequence[StepFigures], path: Path) -> None:
    """Losses, learning rate and memory over the steps, as a PNG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (name, title) in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
            values = [getattr(step, name) for step in steps]
            axes.plot(range(1, len(values) + 1), values, color="#9fb4c7", linewidth=0.8)
            if name in _SMOOTHED:
                axes.plot(range(1, len(values) + 1), _smoothed(values), color="#1f5f8b", linewidth=1.6)
            axes.set_title(title, loc="left")
            axes.set_xlabel("step")
            axes.margins(x=0)
        with atomic_file(path) as staged:
            figure.savefig(staged, format="png", dpi=120)


_PANELS = (
    ("contrastive", "contrastive loss, nats"),
    ("next_token", "next-token loss, nats"),
    ("summary", "summary loss"),
    ("learning_rate", "learning rate"),
    ("gradient_norm", "gradient norm before clipping"),
    ("memory_mib", "peak memory so far, MiB"),
)
_SMOOTHED = {"contrastive", "next_token", "summary", "gradient_norm"}


def _smoothed(values: Sequence[float]) -> list[float]:
    """An exponential mean over about a fiftieth of the steps."""
    keep, result = 1 - 1 / max(1.0, len(values) / 50), [*values[:1]]
    for value in values[1:]:
        result.append(keep * result[-1] + (1 - keep) * value)
    return result
