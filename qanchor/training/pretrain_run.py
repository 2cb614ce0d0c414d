"""The optimiser's loop of pre-training.

Source: arXiv 2602.14492, section 3.2.2.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

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
from qanchor.training.objective import Objective
from qanchor.training.pretrain_config import PretrainConfig
from qanchor.training.run_log import StepFigures, TensorBoardLog, memory_mib
from qanchor.training.run_state import RunFolder
from qanchor.training.schedule import Pace, last_step, steps_that_fit, warm_up_cosine
from qanchor.training.useru.pairs import PairSet

_TRIAL_STEPS: Final = 6


@dataclass(frozen=True)
class Surroundings:
    """What a run needs beside model, data and settings.

    Args:
        folder: keeps its state.
        runtime: device and number format.
        ranks: the processes that share it.
        tensorboard: folder of its scalars; None: none are written.
        clock: tells seconds.
    """

    folder: RunFolder
    runtime: Runtime
    ranks: Ranks = field(default_factory=Ranks)
    tensorboard: Path | None = None
    clock: Callable[[], float] = time.monotonic


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
        self._pace = Pace(config.steps, config.steps)
        self._began = 0.0  # as the clock would have shown it, had the run never been interrupted

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
        with _stop_between_steps() as stop, self._log() as log:
            self._began = self._around.clock() - (state or {}).get("spent", 0.0)
            self._pace = _kept_pace(state) if state else self._first_pace()
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
        """Steps up to the last; where a time has to be filled, planned again now and then."""
        shown = self._pace.last
        progress.start("pre-training", shown)
        progress.advance(len(self._steps))
        while len(self._steps) < self._pace.last:
            if abs(self._pace.last - shown) > 0.05 * shown:
                shown = self._pace.last
                progress.start(f"pre-training after step {len(self._steps)}", shown - len(self._steps))
            timed = self._config.minutes is not None
            until, began = self._pace.next_turn() if timed else self._pace.last, self._around.clock()
            first = len(self._steps)
            for batch in batches(self._builder, [self._planned(step) for step in range(first, until)]):
                self._one_step(batch, progress, log)
                done = len(self._steps)
                turned = done == until and until < self._pace.last
                if turned:
                    self._turn((self._around.clock() - began) / (done - first))
                asked = self._around.ranks.any(stop.is_set())
                if asked or turned or done % self._config.save_every == 0:
                    self._save()
                if asked and done < self._pace.last:
                    raise KeyboardInterrupt

    def _one_step(self, batch: PairBatch, progress: Progress, log: TensorBoardLog | None) -> None:
        self._steps.append(self._step(batch))
        if log:
            log.write(len(self._steps), self._steps[-1])
        progress.advance(1, self._steps[-1].note)

    def _turn(self, seconds_each: float) -> None:
        """Plan the rest by what the steps took lately; the first process's clock counts."""
        left = (self._config.minutes or 0.0) * 60 - (self._around.clock() - self._began)
        last = self._around.ranks.first(last_step(len(self._steps), left, seconds_each))
        self._pace = self._pace.turned_at(len(self._steps), last)

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
            spent = self._around.clock() - self._began
            content = {
                "step": len(self._steps),
                "pace": asdict(self._pace),
                "spent": spent,
                "figures": figures,
            }
            self._around.folder.save(self._parts, self._optimizer, content)

    def _planned(self, step: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], EventDropout]:
        config = self._config
        chance = np.random.default_rng([config.seed, step, 1])
        points = points_of_step(self._builder.pairs, config.points, step, config.seed)
        return points, EventDropout(config.event_dropout, chance, config.aggregate_dropout)

    def _step(self, batch: PairBatch) -> StepFigures:
        config, step, began = self._config, len(self._steps), time.monotonic()
        place, planned = self._pace.at(step), self._pace.steps
        share = warm_up_cosine(place, planned, max(1, round(planned * config.warm_up)))
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        self._optimizer.zero_grad(set_to_none=True)
        with self._explained(step):
            losses = self._objective.backward(batch, step, masked=place >= planned * config.margin_from)
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

    def _first_pace(self) -> Pace:
        """The steps asked for, or those that fill the minutes, by a trial of a few that change nothing."""
        config = self._config
        if config.minutes is None:
            return Pace(config.steps, config.steps)
        trial, clock = [], self._around.clock
        began = clock()
        for batch in batches(self._builder, [self._planned(step) for step in range(_TRIAL_STEPS)]):
            with self._explained(0):
                self._objective.backward(batch, 0)
            self._optimizer.zero_grad(set_to_none=True)
            trial.append(clock() - began)
            began = clock()
        left = config.minutes * 60 - (clock() - self._began)
        # The first one warms caches up.
        steps = self._around.ranks.first(steps_that_fit(left, trial[1:]))
        return Pace(steps, steps)


@contextmanager
def _stop_between_steps() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second signal ends the process as it would without this.

    Only the main thread may listen to signals: elsewhere nothing sets the event.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        stop.set()
        restore()

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()


def _kept_pace(state: dict[str, Any]) -> Pace:
    return Pace(**state["pace"]) if "pace" in state else Pace(state["steps"], state["steps"])


@contextmanager
def batch_explained(size: int) -> Iterator[None]:
    """Tell what to do where memory does not suffice before the first step; `size`: points at a time."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise BatchTooLarge(size, 0) from error


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
