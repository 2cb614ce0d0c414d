"""Several scenarios tuned at the same time.

A step of prompt tuning is many small operations, of which two threads make little more than one does; two
scenarios on a thread each take half of the time. Every scenario is tuned on one thread, however many there
are: so the result does not depend on the machine's cores.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits

from qanchor.model.qanchor import QAnchor
from qanchor.progress import Progress
from qanchor.threads import thread_count
from qanchor.training.prefixes import PrefixBank
from qanchor.training.tune import TuneConfig, TunedPrompt, TuneTask, tune_prompt


def tune_together(
    tasks: Sequence[TuneTask], model: QAnchor, bank: PrefixBank, config: TuneConfig, progress: Progress
) -> list[TunedPrompt]:
    """Tune the prompts of several tasks, as many at a time as there are cores.

    Args:
        tasks: each with its scenario's query and labels.
        model: frozen, shared.
        bank: holds the prefixes of all tasks' requests.
        config: how.
        progress: told of every step of any.

    Returns:
        One for each task, in their order.

    Raises:
        LabelsInvalid: the train or valid part of a task lacks a class; load labels of every class.
    """
    threads = torch.get_num_threads()
    on_cores = next(model.parameters()).device.type == "cpu"
    label = tasks[0].scenario if len(tasks) == 1 else f"{len(tasks)} scenarios"
    progress.start(f"tuning {label}", len(tasks) * config.steps)
    stopped, lock = threading.Event(), threading.Lock()

    def tuned(task: TuneTask) -> TunedPrompt:
        part = _Part(task.scenario, config.steps, (progress, lock, stopped))
        prompt = tune_prompt(task, model, bank, config, part)
        part.end()
        return prompt

    at_once = min(thread_count(), len(tasks)) if on_cores else 1
    pool = ThreadPoolExecutor(at_once, "tune", initializer=torch.set_num_threads, initargs=(1,))
    try:
        # scikit-learn's probes would each take all cores again.
        with threadpool_limits(1, user_api="blas"):
            return list(pool.map(tuned, tasks))
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # for threads that begin later


class _Part:
    """What one scenario tells of its steps; a Progress."""

    def __init__(
        self, scenario: str, steps: int, whole: tuple[Progress, threading.Lock, threading.Event]
    ) -> None:
        self._scenario, self._left = scenario, steps
        self._progress, self._lock, self._stopped = whole

    def start(self, label: str, total: int | None = None) -> None:
        """The whole has begun already."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count steps.

        Raises:
            CancelledError: another scenario has failed, or nobody waits any more.
        """
        if self._stopped.is_set():
            raise CancelledError
        self._left -= steps
        with self._lock:
            self._progress.advance(steps, f"{self._scenario} {note}")

    def end(self) -> None:
        """Count the steps that were not needed."""
        with self._lock:
            self._progress.advance(self._left)
