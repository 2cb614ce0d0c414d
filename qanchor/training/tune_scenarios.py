"""Several scenarios tuned at the same time, on prefixes that are encoded once.

A step of prompt tuning is many small operations, of which two threads make little more than one does; two
scenarios on a thread each take half of the time. Every scenario is tuned on one thread, however many there
are: so the result does not depend on the machine's cores.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from threadpoolctl import threadpool_limits

from qanchor.errors import LabelsInvalid
from qanchor.events.history import EventArrays, Int64
from qanchor.events.labels import Labels
from qanchor.model.checkpoint import LoadedModel
from qanchor.names import AS_OF, LABEL, USER_ID
from qanchor.progress import Progress
from qanchor.threads import thread_count
from qanchor.times import column_microseconds
from qanchor.training.prefixes import PrefixBank
from qanchor.training.tune import (
    LabelledRequests,
    TuneConfig,
    TunedPrompt,
    TuneTask,
    check_classes,
    tune_prompt,
)
from qanchor.workspace import Workspace


@dataclass(frozen=True)
class Tuning:
    """What all scenarios of a run share.

    Args:
        loaded: the model.
        workspace: names the scenarios.
        config: how to tune.
        test_fold: the fold whose labels are left alone; None: each label set's own default.
    """

    loaded: LoadedModel
    workspace: Workspace
    config: TuneConfig
    test_fold: int | None = None


def tune_scenarios(
    tuning: Tuning, arrays: EventArrays, labels: Sequence[Labels], progress: Progress
) -> dict[str, TunedPrompt]:
    """Soft prompts of several scenarios; a history that they share is encoded once.

    Labels of the test part are never read.

    Args:
        tuning: model and settings.
        arrays: events, at least up to the latest cut-off of the labels.
        labels: of each scenario.
        progress: counts histories and steps.

    Raises:
        LabelsInvalid: a scenario's train or valid part has no rows or lacks a class, or no user of its labels
            has events.
    """
    tables = [part for some in labels for part in _train_and_valid(some, tuning.test_fold)]
    rows, cutoffs, requests = _requests(arrays, tables)
    tasks = [
        _task(tuning, some.scenario, requests[2 * i : 2 * i + 2], tables[2 * i : 2 * i + 2])
        for i, some in enumerate(labels)
    ]
    for task in tasks:
        check_classes(task)
        if (rows[task.train.requests] < 0).all():
            raise LabelsInvalid(
                f"no user of the train part of scenario {task.scenario!r} has events",
                "Load their events, or correct user_id in the labels.",
            )
    loaded = tuning.loaded
    bank = PrefixBank(loaded.model, loaded.tokenizer, loaded.normaliser, tuning.workspace, torch.float16)
    used = np.unique(np.concatenate([p.requests for task in tasks for p in (task.train, task.valid)]))
    bank.fill(arrays, rows[used], cutoffs[used], progress)
    prompts = _tune_at_once([_renumbered(task, used) for task in tasks], tuning, bank, progress)
    return {task.scenario: prompt for task, prompt in zip(tasks, prompts, strict=True)}


def choose_rows(requests: Int64, labels: Int64, most: int, seed: int) -> Int64:
    """Indices of the rows to learn from: all of them, or a sample that keeps the rare classes whole.

    Chance is the request's, not the scenario's: scenarios with labels of the same users at the same times
    take the same ones as far as their labels allow, so that few prefixes have to be kept.

    Args:
        requests: which (user, cut-off) each row is about, [rows].
        labels: class of each row, [rows].
        most: most rows to keep.
        seed: of the sample.

    Returns:
        int64 [rows kept], ascending.
    """
    if len(requests) <= most:
        return np.arange(len(requests))
    rank = np.random.default_rng(seed).permutation(int(requests.max()) + 1)[requests]
    quota = _quotas(np.bincount(labels), most)
    rows = [np.flatnonzero(labels == k) for k in range(len(quota))]
    kept = [some[np.argsort(rank[some], kind="stable")[:n]] for some, n in zip(rows, quota, strict=True)]
    return np.sort(np.concatenate(kept))


def _quotas(counts: Int64, most: int) -> Int64:
    """How many rows of each class: the rarest whole while there is room for as many of the others."""
    quota = np.zeros(len(counts), np.int64)
    left = most
    order = np.argsort(counts, kind="stable")
    for number, k in enumerate(order.tolist()):
        quota[k] = min(int(counts[k]), left // (len(order) - number))
        left -= int(quota[k])
    return quota


def _train_and_valid(labels: Labels, test_fold: int | None) -> tuple[pa.Table, pa.Table]:
    train, valid = labels.part("train", test_fold), labels.part("valid", test_fold)
    if not len(train) or not len(valid):
        raise LabelsInvalid(
            f"scenario {labels.scenario!r} has no rows in its {'valid' if len(train) else 'train'} part",
            "Load more labels, or give them a split column.",
        )
    return train, valid


def _requests(arrays: EventArrays, tables: Sequence[pa.Table]) -> tuple[Int64, Int64, list[Int64]]:
    """The distinct (user, cut-off) of all tables: user rows, cut-offs, and each table's requests in them."""
    users = np.concatenate([np.asarray(table[USER_ID].to_pylist(), dtype=object) for table in tables])
    cutoffs = np.concatenate([column_microseconds(table[AS_OF]) for table in tables])
    pairs, request = np.unique(
        np.stack([arrays.user_rows(users), cutoffs], axis=1), axis=0, return_inverse=True
    )
    bounds = np.cumsum([0, *(len(table) for table in tables)])
    parts = np.split(request.reshape(-1).astype(np.int64), bounds[1:-1])
    return pairs[:, 0].copy(), pairs[:, 1].copy(), parts


def _task(tuning: Tuning, scenario: str, requests: Sequence[Int64], tables: Sequence[pa.Table]) -> TuneTask:
    """A scenario's query and label rows, those of the train part sampled where there are too many."""
    loaded, spec = tuning.loaded, tuning.workspace.scenario(scenario)
    train, valid = (
        LabelledRequests(some, np.asarray(table[LABEL]).astype(np.int64))
        for some, table in zip(requests, tables, strict=True)
    )
    kept = choose_rows(train.requests, train.labels, tuning.config.most_rows, tuning.config.seed)
    train = LabelledRequests(train.requests[kept], train.labels[kept])
    query_ids = loaded.tokenizer.encode_queries([spec.query], loaded.config.max_question_tokens)[0]
    return TuneTask(scenario, query_ids.to(loaded.runtime.device), train, valid, len(spec.answers))


def _renumbered(task: TuneTask, used: Int64) -> TuneTask:
    """The task with its requests counted among those that were encoded."""
    train, valid = (
        LabelledRequests(np.searchsorted(used, part.requests), part.labels)
        for part in (task.train, task.valid)
    )
    return replace(task, train=train, valid=valid)


def _tune_at_once(
    tasks: Sequence[TuneTask], tuning: Tuning, bank: PrefixBank, progress: Progress
) -> list[TunedPrompt]:
    """The prompts of several tasks in their order, as many tuned at a time as there are cores."""
    model, config = tuning.loaded.model, tuning.config
    threads = torch.get_num_threads()
    on_cores = next(model.parameters()).device.type == "cpu"
    label = tasks[0].scenario if len(tasks) == 1 else f"{len(tasks)} scenarios"
    progress.start(f"tuning {label}", len(tasks) * config.steps)
    shared = _SharedProgress(progress)

    def tuned(task: TuneTask) -> TunedPrompt:
        part = _ScenarioProgress(task.scenario, config.steps, shared)
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
        shared.stopped.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # for threads that begin later


class _SharedProgress:
    """One Progress of several threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self.stopped = threading.Event()

    def advance(self, steps: int, note: str = "") -> None:
        with self._lock:
            self._progress.advance(steps, note)


class _ScenarioProgress:
    """The Progress of one scenario's steps."""

    def __init__(self, scenario: str, steps: int, shared: _SharedProgress) -> None:
        self._scenario, self._left, self._shared = scenario, steps, shared

    def start(self, label: str, total: int | None = None) -> None:
        """The whole has begun already."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count steps.

        Raises:
            CancelledError: another scenario has failed, or nobody waits any more.
        """
        if self._shared.stopped.is_set():
            raise CancelledError
        self._left -= steps
        self._shared.advance(steps, f"{self._scenario} {note}")

    def end(self) -> None:
        """Count the steps that were not needed."""
        self._shared.advance(self._left)
