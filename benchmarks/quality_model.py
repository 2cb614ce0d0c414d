"""The models of the quality benchmark: pre-trained, untrained, tuned for each outer fold; kept on disk."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.quality_data import FOLDS, DataSet, Task
from qanchor.events.history import Int64
from qanchor.model.checkpoint import LoadedModel, load_model, save_model
from qanchor.progress import Progress
from qanchor.training.prefixes import PrefixBank
from qanchor.training.pretrain import PretrainConfig, Visible, pretrain
from qanchor.training.tune import LabelledRequests, TuneConfig, TuneTask, tune_prompt

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """How a data set's model is trained and tuned.

    Args:
        pretrain: without labels, on what lies before the earliest cut-off.
        tune: with the labels of the other folds.
    """

    pretrain: PretrainConfig
    tune: TuneConfig = field(default_factory=TuneConfig)


@dataclass(frozen=True)
class TrainedModel:
    """A model and what it took.

    Args:
        loaded: the model.
        seconds: wall clock, pairs included.
        cpu_seconds: of the process.
    """

    loaded: LoadedModel
    seconds: float
    cpu_seconds: float


def train_model(data: DataSet, config: PretrainConfig, cache: Path, progress: Progress) -> TrainedModel:
    """The model of a configuration, from the cache where the same one was trained on the same files before.

    Args:
        data: gives the events; only those before `data.until` are seen.
        config: how to pre-train; `steps` of 0 leaves a model of the same shape untrained.
        cache: folder of earlier models.
        progress: told of every step.
    """
    path = cache / f"{data.name}-{_key(data, asdict(config))}"
    if not path.exists():
        began, used = time.monotonic(), time.process_time()
        result = pretrain(data.arrays, data.workspace, config, Visible(data.until), progress)
        about = {
            "seconds": time.monotonic() - began,
            "cpu_seconds": time.process_time() - used,
            "metrics": result.metrics,
        }
        cache.mkdir(parents=True, exist_ok=True)
        save_model(path, result.model, result.tokenizer, result.normaliser, about)
    loaded = load_model(path, "cpu", "float32")
    return TrainedModel(loaded, loaded.metadata["seconds"], loaded.metadata["cpu_seconds"])


@dataclass(frozen=True)
class TaskVectors:
    """Embeddings of one task's rows.

    Args:
        base: [rows, dim], the question alone.
        tuned: by outer fold, [folds, rows, dim]; a fold's prompt has not seen the fold's labels.
        prototypes: [rows], score of the tuned prototypes by the prompt of the row's own fold.
        tune_seconds: wall clock of all folds.
    """

    base: Vectors
    tuned: Vectors
    prototypes: NDArray[np.float64]
    tune_seconds: float


def embed_tasks(
    data: DataSet, loaded: LoadedModel, tune: TuneConfig | None, cache: Path, progress: Progress
) -> dict[str, TaskVectors]:
    """Base and tuned embeddings of every task.

    Args:
        data: tasks and events.
        loaded: the model.
        tune: how to tune; None: base embeddings alone.
        cache: folder of earlier results.
        progress: told of histories and steps.
    """
    settings = {"model": loaded.content_hash, "tune": asdict(tune) if tune else None}
    key, bank = _key(data, settings), None
    found = {}
    for name, task in data.tasks.items():
        path = cache / f"{data.name}-{name}-{key}.npz"
        if not path.exists():
            bank = bank or _bank(data, loaded, progress)
            cache.mkdir(parents=True, exist_ok=True)
            content: dict[str, Any] = _embedded(bank, task, loaded, tune, progress)
            np.savez(path, **content)
        stored = np.load(path)
        seconds = float(stored["seconds"])
        found[name] = TaskVectors(stored["base"], stored["tuned"], stored["prototypes"], seconds)
    return found


@dataclass(frozen=True)
class _Bank:
    """Prefixes of all tasks' requests, each encoded once, and each task's places among them."""

    prefixes: PrefixBank
    places: Mapping[str, Int64]
    queries: Mapping[str, str]


def _bank(data: DataSet, loaded: LoadedModel, progress: Progress) -> _Bank:
    pairs = [np.stack([task.rows, task.cutoffs], axis=1) for task in data.tasks.values()]
    distinct, place = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
    bounds = np.cumsum([len(part) for part in pairs])[:-1]
    places = np.split(place.reshape(-1).astype(np.int64), bounds)
    bank = PrefixBank(loaded.model, loaded.tokenizer, loaded.normaliser, data.workspace)
    bank.fill(data.arrays, distinct[:, 0].copy(), distinct[:, 1].copy(), progress)
    queries = {name: data.workspace.scenario(name).query for name in data.tasks}
    return _Bank(bank, dict(zip(data.tasks, places, strict=True)), queries)


def _embedded(
    bank: _Bank, task: Task, loaded: LoadedModel, tune: TuneConfig | None, progress: Progress
) -> dict[str, NDArray[Any]]:
    longest = loaded.config.max_question_tokens
    question = loaded.tokenizer.encode_questions([bank.queries[task.name]], longest)[0]
    places, began = bank.places[task.name], time.monotonic()
    base = bank.prefixes.vectors(question, None, places)
    tuned, prototypes = [], np.zeros(len(places))
    for outer in range(FOLDS) if tune else ():
        assert tune is not None
        tuning = _task(task, outer, places, question)
        prompt = tune_prompt(tuning, loaded.model, bank.prefixes, tune, progress)
        vectors = bank.prefixes.vectors(question, prompt.vectors, places)
        tuned.append(vectors)
        axis = (prompt.prototypes[1] - prompt.prototypes[0]).numpy()
        prototypes[task.folds == outer] = (vectors @ axis)[task.folds == outer]
    return {
        "base": base,
        "tuned": np.array(tuned, np.float32),
        "prototypes": prototypes,
        "seconds": np.array(time.monotonic() - began),
    }


def _task(task: Task, outer: int, places: Int64, question: Tensor) -> TuneTask:
    """Learns from three folds and stops by a fourth; the outer one is not looked at."""
    stops = (outer + 1) % FOLDS
    train = np.flatnonzero((task.folds != outer) & (task.folds != stops))
    valid = np.flatnonzero(task.folds == stops)
    parts = [LabelledRequests(places[rows], task.labels[rows]) for rows in (train, valid)]
    return TuneTask(task.name, question, parts[0], parts[1])


def _key(data: DataSet, settings: Mapping[str, object]) -> str:
    """Identifies a result: the files read, the example's yaml and every setting."""
    modalities = {name: spec.model_dump_json() for name, spec in data.workspace.modalities.items()}
    scenarios = {name: spec.query for name, spec in data.workspace.scenarios.items()}
    content = [data.content_hash, data.workspace.window_days, modalities, scenarios, settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
