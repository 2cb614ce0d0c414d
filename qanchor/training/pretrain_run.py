"""The optimiser's loop of pre-training.

Source: arXiv 2602.14492, section 3.2.2.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qanchor.errors import BatchTooLarge, NotReady, TrainingDiverged
from qanchor.model.batch import EventDropout
from qanchor.model.qanchor import QAnchor
from qanchor.model.runtime import Runtime
from qanchor.progress import Progress
from qanchor.training.batches import BatchBuilder, PairBatch, batches, points_of_step
from qanchor.training.distributed import Ranks
from qanchor.training.interrupts import stop_between_steps
from qanchor.training.objective import Objective
from qanchor.training.pretrain_config import PretrainConfig
from qanchor.training.run_log import StepFigures, TensorBoardLog, memory_mib
from qanchor.training.run_state import RunFolder
from qanchor.training.schedule import warm_up_cosine
from qanchor.training.useru.pairs import PairSet


@dataclass(frozen=True)
class Surroundings:
    """What a run needs beside model, data and settings.

    Args:
        folder: keeps its state.
        runtime: device and number format.
        ranks: the processes that share it.
        tensorboard: folder of its scalars; None: none are written.
    """

    folder: RunFolder
    runtime: Runtime
    ranks: Ranks = field(default_factory=Ranks)
    tensorboard: Path | None = None


class PretrainRun:
    """The optimiser's loop over one set of pairs."""

    def __init__(
        self, model: QAnchor, builder: BatchBuilder, config: PretrainConfig, around: Surroundings
    ) -> None:
        self._model = model
        self._builder = builder
        self._config = config
        self._around = around
        reader = _summary_reader(model.config.embedding_width, builder.pairs, config.seed)
        reader.to(around.runtime.device)
        self._objective = Objective(model, reader, config, around.runtime, around.ranks)
        self._parts = nn.ModuleList([model, reader])
        self._weights = [*reader.parameters(), *(p for p in model.parameters() if p.requires_grad)]
        self._optimizer = torch.optim.AdamW(
            self._weights, config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )
        self._steps: list[StepFigures] = []
        self._last = 0

    def train(self, progress: Progress) -> list[StepFigures]:
        """Run all steps that are left.

        Returns:
            The figures of all steps, those of earlier tries included.

        Raises:
            TrainingDiverged: a loss or gradient is no number.
            BatchTooLarge: a batch does not fit in memory.
            KeyboardInterrupt: SIGINT or SIGTERM came; the state is kept.
        """
        self._around.ranks.same_start(self._weights)
        state = self._around.folder.load(self._parts, self._optimizer)
        if state:
            self._steps = [StepFigures(*row) for row in state["figures"]]
        self._check_ranks()
        self._model.train()
        self._model.checkpoint_layers(self._config.checkpointing)
        with stop_between_steps() as stop, self._log() as log:
            self._last = state["steps"] if state else self._steps_to_run()
            progress.start("pre-training", self._last)
            progress.advance(len(self._steps))
            self._loop(progress, stop, log)
        self._save()
        self._model.checkpoint_layers(False)
        return self._steps

    def _check_ranks(self) -> None:
        ranks, done = self._around.ranks, len(self._steps)
        if ranks.any(done != ranks.first(done)):
            raise NotReady(
                "the processes of this run do not find the same unfinished state",
                "Let QANCHOR_HOME be one folder that all machines share.",
            )

    def _loop(self, progress: Progress, stop: threading.Event, log: TensorBoardLog | None) -> None:
        plan = [self._planned(step) for step in range(len(self._steps), self._last)]
        for batch in batches(self._builder, plan):
            self._steps.append(self._step(batch))
            if log:
                log.write(len(self._steps), self._steps[-1])
            progress.advance(1, self._steps[-1].note)
            asked = self._around.ranks.any(stop.is_set())
            if asked or len(self._steps) % self._config.save_every == 0:
                self._save()
            if asked and len(self._steps) < self._last:
                raise KeyboardInterrupt

    @contextmanager
    def _log(self) -> Iterator[TensorBoardLog | None]:
        if self._around.tensorboard is None or not self._around.ranks.is_first:
            yield None
            return
        log = TensorBoardLog(self._around.tensorboard, len(self._steps) + 1)
        try:
            yield log
        finally:
            log.close()

    def _save(self) -> None:
        if self._around.ranks.is_first:
            figures = [figures.row() for figures in self._steps]
            content = {"step": len(self._steps), "steps": self._last, "figures": figures}
            self._around.folder.save(self._parts, self._optimizer, content)

    def _planned(self, step: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], EventDropout]:
        config = self._config
        chance = np.random.default_rng([config.seed, step, 1])
        points = points_of_step(self._builder.pairs, config.points, step, config.seed)
        return points, EventDropout(config.event_dropout, chance, config.aggregate_dropout)

    def _step(self, batch: PairBatch) -> StepFigures:
        config, step, began = self._config, len(self._steps), time.monotonic()
        share = warm_up_cosine(step, self._last, max(1, round(self._last * config.warm_up)))
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        self._optimizer.zero_grad(set_to_none=True)
        with self._explained(step):
            losses = self._objective.backward(batch, step, masked=step >= self._last * config.margin_from)
            self._around.ranks.sum_gradients(self._weights)
        norm = nn.utils.clip_grad_norm_(self._weights, config.clip)
        if not losses.are_finite() or not torch.isfinite(norm):
            kept = self._around.folder.mark_diverged(step)
            raise TrainingDiverged(step, config.learning_rate, kept)
        self._optimizer.step()
        contrastive, next_token, summary = losses.numbers()
        return StepFigures(
            contrastive,
            next_token,
            summary,
            learning_rate=config.learning_rate * share,
            gradient_norm=round(float(norm), 5),
            seconds=round(time.monotonic() - began, 4),
            memory_mib=memory_mib(self._around.runtime.device),
        )

    @contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """Tell what to do where memory does not suffice; what was learned so far is kept."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            self._optimizer.zero_grad(set_to_none=True)
            self._save()
            size = self._config.grad_cache or self._config.points
            raise BatchTooLarge(size, step) from error

    def _steps_to_run(self) -> int:
        """The steps asked for, or those that fill the minutes, measured on a few that change nothing."""
        if self._config.minutes is None:
            return self._config.steps
        trial = list(batches(self._builder, [self._planned(step) for step in range(4)]))
        seconds = []
        for batch in trial:
            began = time.monotonic()
            with self._explained(0):
                self._objective.backward(batch, 0)
            self._optimizer.zero_grad(set_to_none=True)
            seconds.append(time.monotonic() - began)
        return self._around.ranks.first(max(20, int(self._config.minutes * 60 / min(seconds[1:]))))


def _is_out_of_memory(error: Exception) -> bool:
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        some in str(error).lower() for some in words
    )


def _summary_reader(width: int, pairs: PairSet, seed: int) -> nn.Sequential:
    """Reads a span's summary from a unit vector; thrown away after training."""
    numbers = next(iter(pairs.summaries.values())).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(_Stretch(width**0.5), nn.Linear(width, numbers))


class _Stretch(nn.Module):
    """Multiplies by a constant: a unit vector's entries are small, a linear layer expects them around 1."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors * self._factor
