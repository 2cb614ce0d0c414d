"""Embeddings of the quality benchmark: base, and tuned for each outer fold; cached on disk."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.quality_cache import ResultCache, code_hash
from benchmarks.quality_data import FOLDS, DataSet, Task
from benchmarks.quality_model import described
from qanchor.events.history import Int64
from qanchor.model.checkpoint import LoadedModel
from qanchor.progress import Progress
from qanchor.training.prefixes import PrefixBank
from qanchor.training.tune import LabelledRequests, TuneConfig, TuneTask, tune_prompt

Vectors = NDArray[np.float32]
_CODE = ("qanchor/events", "qanchor/model", "qanchor/training", "qanchor/metrics", "qanchor/linear_probe.py")
_READS = ("benchmarks/quality_data.py", "benchmarks/quality_tune.py")


@dataclass(frozen=True)
class TaskVectors:
    """Embeddings of one task's rows.

    Args:
        base: [rows, dim], with the query alone.
        tuned: [folds, rows, dim], by outer fold; a fold's prompt is tuned without the fold's labels.
        prototypes: [rows], score of the tuned prototypes, with the prompt of the row's fold.
        tune_seconds: wall-clock time of all folds.
    """

    base: Vectors
    tuned: Vectors
    prototypes: NDArray[np.float64]
    tune_seconds: float


def embed_tasks(
    data: DataSet, loaded: LoadedModel, tune: TuneConfig | None, cache: ResultCache, progress: Progress
) -> dict[str, TaskVectors]:
    """Base and tuned embeddings of every task.

    Args:
        data: tasks and events.
        loaded: model of the embeddings.
        tune: settings of the tuning; None: base embeddings alone.
        cache: cache of earlier results.
        progress: bar that advances with histories and steps.
    """
    decided_by = {
        **described(data),
        "model": loaded.content_hash,
        "tune": asdict(tune) if tune else None,
        "code": code_hash(*_CODE, *_READS, libraries=("torch", "numpy", "scikit-learn")),
    }
    banks: list[_Bank] = []

    def make(task: Task, path: Path) -> None:
        if not banks:
            banks.append(_bank(data, loaded, progress))
        content: dict[str, Any] = _embedded(banks[0], task, loaded, tune, progress)
        np.savez(path, **content)

    vectors = {}
    stage = f"{data.name}: {'prompts and embeddings' if tune else 'embeddings of the untrained model'}"
    for name, task in data.tasks.items():
        path = cache.keep(stage, f"{name}.npz", decided_by | {"task": name}, partial(make, task))
        stored = np.load(path)
        seconds = float(stored["seconds"])
        vectors[name] = TaskVectors(stored["base"], stored["tuned"], stored["prototypes"], seconds)
    return vectors


@dataclass(frozen=True)
class _Bank:
    """Prefixes of all tasks' requests, each encoded once, and each task's indices among them."""

    prefixes: PrefixBank
    indices: Mapping[str, Int64]
    queries: Mapping[str, str]


def _bank(data: DataSet, loaded: LoadedModel, progress: Progress) -> _Bank:
    pairs = [np.stack([task.rows, task.cutoffs], axis=1) for task in data.tasks.values()]
    distinct, index = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
    bounds = np.cumsum([len(part) for part in pairs])[:-1]
    indices = np.split(index.reshape(-1).astype(np.int64), bounds)
    bank = PrefixBank(loaded.model, loaded.tokenizer, loaded.normaliser, data.workspace)
    bank.fill(data.arrays, distinct[:, 0].copy(), distinct[:, 1].copy(), progress)
    queries = {name: data.workspace.scenario(name).query for name in data.tasks}
    return _Bank(bank, dict(zip(data.tasks, indices, strict=True)), queries)


def _embedded(
    bank: _Bank, task: Task, loaded: LoadedModel, tune: TuneConfig | None, progress: Progress
) -> dict[str, NDArray[Any]]:
    longest = loaded.config.max_question_tokens
    query = loaded.tokenizer.encode_queries([bank.queries[task.name]], longest)[0]
    indices, began = bank.indices[task.name], time.monotonic()
    base = bank.prefixes.vectors(query, None, indices)
    tuned, prototypes = [], np.zeros(len(indices))
    for outer in range(FOLDS) if tune else ():
        assert tune is not None
        tuning = _task(task, outer, indices, query)
        prompt = tune_prompt(tuning, loaded.model, bank.prefixes, tune, progress)
        vectors = bank.prefixes.vectors(query, prompt.vectors, indices)
        tuned.append(vectors)
        axis = (prompt.prototypes[1] - prompt.prototypes[0]).numpy()
        prototypes[task.folds == outer] = (vectors @ axis)[task.folds == outer]
    return {
        "base": base,
        "tuned": np.array(tuned, np.float32),
        "prototypes": prototypes,
        "seconds": np.array(time.monotonic() - began),
    }


def _task(task: Task, outer: int, indices: Int64, query: Tensor) -> TuneTask:
    """Trains on three folds and stops early by a fourth; the outer fold is not read."""
    stops = (outer + 1) % FOLDS
    train = np.flatnonzero((task.folds != outer) & (task.folds != stops))
    valid = np.flatnonzero(task.folds == stops)
    parts = [LabelledRequests(indices[rows], task.labels[rows]) for rows in (train, valid)]
    return TuneTask(task.name, query, parts[0], parts[1])
