"""The optimiser's loop of pre-training.

Source: arXiv 2602.14492, section 3.2.2.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from qanchor.errors import BatchTooLarge, NotReady, TrainingDiverged
from qanchor.model.batch import EventDropout
from qanchor.model.qanchor import QAnchor
from qanchor.model.runtime import Runtime, choose_runtime
from qanchor.progress import Progress
from qanchor.threads import ahead
from qanchor.training.batches import BatchBuilder, PairBatch, points_of_step
from qanchor.training.distributed import Ranks
from qanchor.training.objective import Objective
from qanchor.training.pretrain_config import PretrainConfig
from qanchor.training.run_log import StepFigures, TensorBoardLog, memory_mib
from qanchor.training.run_state import RunFolder
from qanchor.training.schedule import Pace, last_step, steps_that_fit, warm_up_cosine
from qanchor.training.useru.pairs import PairSet

_TRIAL_STEPS: Final = 6


@dataclass(frozen=True)
class Execution:
    """Where a run computes, and where it keeps its state.

    Args:
        runtime: device and number format.
        ranks: the processes that share the run.
        run_dir: holds the state of unfinished runs; None: it is not kept.
        tensorboard: holds a folder of scalars for each run; None: none are written.
        clock: current time in seconds.
    """

    runtime: Runtime = field(default_factory=partial(choose_runtime, "cpu", "float32"))
    ranks: Ranks = field(default_factory=Ranks)
    run_dir: Path | None = None
    tensorboard: Path | None = None
    clock: Callable[[], float] = time.monotonic


class PretrainRun:
    """The optimiser's loop over one set of pairs.

    Args:
        model: on the execution's device.
        builder: builds the batches.
        config: how to train.
        folder: keeps the run's state.
        execution: device, processes, clock.
    """

    def __init__(
        self,
        model: QAnchor,
        builder: BatchBuilder,
        config: PretrainConfig,
        folder: RunFolder,
        execution: Execution,
    ) -> None:
        self._model = model
        self._builder = builder
        self._config = config
        self._folder = folder
        self._execution = execution
        self._ranks = execution.ranks
        reader = _summary_reader(model.config.embedding_width, builder.pairs, config.seed)
        reader.to(execution.runtime.device)
        self._objective = Objective(model, reader, config, execution.runtime, execution.ranks)
        self._parts = nn.ModuleList([model, reader])
        self._weights = [*reader.parameters(), *(p for p in model.parameters() if p.requires_grad)]
        self._optimizer = torch.optim.AdamW(
            self._weights, config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )
        self._steps: list[StepFigures] = []
        self._pace = Pace(config.steps, config.steps)
        self._began = 0.0  # what the clock would have shown, had the run never been interrupted

    def train(self, progress: Progress) -> list[StepFigures]:
        """Run all steps that are left.

        Returns:
            The figures of all steps, those before an interruption included.

        Raises:
            TrainingDiverged: a loss or gradient is not finite.
            BatchTooLarge: a batch does not fit in memory.
            KeyboardInterrupt: SIGINT or SIGTERM came; the state is kept.
        """
        self._ranks.same_start(self._weights)
        state = self._folder.load(self._parts, self._optimizer)
        if state:
            self._steps = [StepFigures(*row) for row in state["figures"]]
        self._check_ranks()
        self._model.train()
        self._model.checkpoint_layers(self._config.checkpointing)
        with _stop_between_steps() as stop, self._log() as log:
            self._began = self._execution.clock() - (state or {}).get("spent", 0.0)
            self._pace = _stored_pace(state) if state else self._first_pace()
            self._loop(progress, stop, log)
        self._save()
        self._model.checkpoint_layers(False)
        return self._steps

    def _check_ranks(self) -> None:
        done = len(self._steps)
        if self._ranks.any(done != self._ranks.first(done)):
            raise NotReady(
                "the processes of this run do not find the same unfinished state",
                "Let QANCHOR_HOME be one folder that all machines share.",
            )

    def _loop(self, progress: Progress, stop: threading.Event, log: TensorBoardLog | None) -> None:
        """Steps up to the last; where a time has to be filled, planned again now and then."""
        clock, shown = self._execution.clock, self._pace.last
        progress.start("pre-training", shown)
        progress.advance(len(self._steps))
        while len(self._steps) < self._pace.last:
            if abs(self._pace.last - shown) > 0.05 * shown:
                shown = self._pace.last
                progress.start(f"pre-training after step {len(self._steps)}", shown - len(self._steps))
            timed = self._config.minutes is not None
            until, began = self._pace.next_replan() if timed else self._pace.last, clock()
            first = len(self._steps)
            for batch in self._batches(first, until):
                self._one_step(batch, progress, log)
                done = len(self._steps)
                replan = done == until and until < self._pace.last
                if replan:
                    self._replan((clock() - began) / (done - first))
                stopped = self._ranks.any(stop.is_set())
                if stopped or replan or done % self._config.save_every == 0:
                    self._save()
                if stopped and done < self._pace.last:
                    raise KeyboardInterrupt

    def _batches(self, first: int, until: int) -> Iterator[PairBatch]:
        """The batches of some steps, each built while the one before is used."""
        return ahead(self._batch(step) for step in range(first, until))

    def _batch(self, step: int) -> PairBatch:
        config = self._config
        chance = np.random.default_rng([config.seed, step, 1])
        points = points_of_step(self._builder.pairs, config.points, step, config.seed)
        return self._builder.build(
            points, EventDropout(config.event_dropout, chance, config.aggregate_dropout)
        )

    def _one_step(self, batch: PairBatch, progress: Progress, log: TensorBoardLog | None) -> None:
        self._steps.append(self._step(batch))
        if log:
            log.write(len(self._steps), self._steps[-1])
        progress.advance(1, self._steps[-1].note)

    def _step(self, batch: PairBatch) -> StepFigures:
        config, step, began = self._config, len(self._steps), time.monotonic()
        position, planned = self._pace.at(step), self._pace.steps
        share = warm_up_cosine(position, planned, max(1, round(planned * config.warm_up)))
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        self._optimizer.zero_grad(set_to_none=True)
        with self._out_of_memory_as_error(step):
            losses = self._objective.backward(batch, step, masked=position >= planned * config.margin_from)
            self._ranks.sum_gradients(self._weights)
        norm = nn.utils.clip_grad_norm_(self._weights, config.clip)
        if not losses.are_finite() or not torch.isfinite(norm):
            raise TrainingDiverged(step, config.learning_rate, self._folder.mark_diverged(step))
        self._optimizer.step()
        contrastive, next_token, summary = losses.numbers()
        return StepFigures(
            contrastive,
            next_token,
            summary,
            learning_rate=config.learning_rate * share,
            gradient_norm=round(float(norm), 5),
            seconds=round(time.monotonic() - began, 4),
            memory_mib=memory_mib(self._execution.runtime.device),
        )

    def _replan(self, seconds_each: float) -> None:
        """Plan the rest by what the steps took lately; the first process's clock counts."""
        left = (self._config.minutes or 0.0) * 60 - (self._execution.clock() - self._began)
        last = self._ranks.first(last_step(len(self._steps), left, seconds_each))
        self._pace = self._pace.replanned(len(self._steps), last)

    def _first_pace(self) -> Pace:
        """The configured steps, or those that fill the minutes, by a trial of a few that change nothing."""
        config = self._config
        if config.minutes is None:
            return Pace(config.steps, config.steps)
        trial, clock = [], self._execution.clock
        began = clock()
        for batch in self._batches(0, _TRIAL_STEPS):
            with self._out_of_memory_as_error(0):
                self._objective.backward(batch, 0)
            self._optimizer.zero_grad(set_to_none=True)
            trial.append(clock() - began)
            began = clock()
        left = config.minutes * 60 - (clock() - self._began)
        # The first one warms caches up.
        steps = self._ranks.first(steps_that_fit(left, trial[1:]))
        return Pace(steps, steps)

    @contextmanager
    def _log(self) -> Iterator[TensorBoardLog | None]:
        if self._execution.tensorboard is None or not self._ranks.is_first:
            yield None
            return
        log = TensorBoardLog(self._execution.tensorboard / self._folder.name, len(self._steps) + 1)
        try:
            yield log
        finally:
            log.close()

    def _save(self) -> None:
        if self._ranks.is_first:
            content = {
                "step": len(self._steps),
                "pace": self._pace.to_json(),
                "spent": self._execution.clock() - self._began,
                "figures": [figures.row() for figures in self._steps],
            }
            self._folder.save(self._parts, self._optimizer, content)

    @contextmanager
    def _out_of_memory_as_error(self, step: int) -> Iterator[None]:
        """As `out_of_memory_as_error`; what was learned so far is kept."""
        try:
            with out_of_memory_as_error(self._config.grad_cache or self._config.points, step):
                yield
        except BatchTooLarge:
            self._optimizer.zero_grad(set_to_none=True)
            self._save()
            raise


def _stored_pace(state: dict[str, Any]) -> Pace:
    return Pace.from_json(state["pace"]) if "pace" in state else Pace(state["steps"], state["steps"])


@contextmanager
def out_of_memory_as_error(size: int, step: int = 0) -> Iterator[None]:
    """Turn memory that does not suffice into an error with a remedy.

    Args:
        size: points that are computed at a time.
        step: the current step, from 0.

    Raises:
        BatchTooLarge: memory does not suffice; compute fewer points at a time.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise BatchTooLarge(size, step) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or torch says that memory does not suffice, on any device."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        some in str(error).lower() for some in words
    )


@contextmanager
def _stop_between_steps() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second signal ends the process as it would without this.

    Only the main thread may listen to signals: elsewhere nothing sets the event.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request_stop(*_: object) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        restore()


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
