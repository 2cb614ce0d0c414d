"""From the registry and the log to a trained model or prompt, and back into the registry."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sqlalchemy import Engine

from qanchor.errors import InputError, LabelsInvalid
from qanchor.events.history import EventArrays, Int64
from qanchor.events.labels import Labels
from qanchor.home import Home
from qanchor.model.checkpoint import LoadedModel, save_model
from qanchor.model.inference import merge_adapters
from qanchor.model.soft_prompt import SoftPrompt, save_prompt
from qanchor.names import AS_OF, LABEL, USER_ID
from qanchor.progress import Progress
from qanchor.registry.tables import ModelVersion, PromptVersion, new_version
from qanchor.registry.versions import register_model, register_prompt
from qanchor.training.prefixes import PrefixBank
from qanchor.training.pretrain import PretrainConfig, PretrainResult
from qanchor.training.run_log import save_curves
from qanchor.training.together import tune_together
from qanchor.training.tune import (
    LabelledRequests,
    TuneConfig,
    TunedPrompt,
    TuneTask,
    check_classes,
)
from qanchor.training.tune_rows import choose_rows
from qanchor.workspace import Workspace


def choose_until(asked: datetime | None, earliest_cutoff: datetime | None) -> datetime:
    """Where pre-training's events end.

    Args:
        asked: by the user, UTC; None: not.
        earliest_cutoff: the earliest cut-off that is not a training row's; None without labels.

    Raises:
        InputError: neither is known, or a later moment is asked for than labels allow.
    """
    if asked is None and earliest_cutoff is None:
        raise InputError(
            "there are no labels that say where pre-training has to end",
            "Give --until DATE, or load labels first.",
        )
    if asked is None or earliest_cutoff is None:
        return asked or earliest_cutoff  # type: ignore[return-value]  # one of them is given
    if asked > earliest_cutoff:
        raise InputError(
            f"--until {asked:%Y-%m-%d} lies after the first label to be tested, {earliest_cutoff:%Y-%m-%d}",
            "Give an earlier date: the model would read what it is asked to predict.",
        )
    return asked


def record_model(
    result: PretrainResult, config: PretrainConfig, home: Home, engine: Engine, merge: bool = False
) -> ModelVersion:
    """Save a pre-trained model with a picture of its curves, and make it the one that serves.

    Args:
        result: of the run.
        config: of the run.
        home: gets the model's folder.
        engine: the registry's.
        merge: fold adapters into the weights; the folder then holds decoder and text encoder itself.
    """
    version = new_version()
    path = Path("models") / version
    about: dict[str, Any] = {
        "version": version,
        "trained_until": result.trained_until.isoformat(),
        "config": asdict(config),
        "metrics": result.metrics,
    }
    home.models.mkdir(parents=True, exist_ok=True)
    model = merge_adapters(result.model) if merge else result.model
    content_hash = save_model(home.root / path, model, result.tokenizer, result.normaliser, about)
    if result.steps:
        save_curves(result.steps, home.root / path / "loss.png")
    return register_model(
        engine,
        ModelVersion(
            version=version,
            preset=config.preset,
            path=str(path),
            content_hash=content_hash,
            trained_until=result.trained_until.astimezone(UTC).replace(tzinfo=None),
            metrics=result.metrics,
        ),
    )


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
        progress: told of every history and step.

    Raises:
        LabelsInvalid: a scenario's train or valid part has no rows or lacks a class, or no user of its labels
            has events.
    """
    tables = [part for some in labels for part in _learned_from(some, tuning.test_fold)]
    rows, cutoffs, places = _requests(arrays, tables)
    tasks = [
        _task(tuning, some.scenario, places[2 * i : 2 * i + 2], tables[2 * i : 2 * i + 2])
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
    asked = np.unique(np.concatenate([p.requests for task in tasks for p in (task.train, task.valid)]))
    bank.fill(arrays, rows[asked], cutoffs[asked], progress)
    inside = [_within(task, asked) for task in tasks]
    prompts = tune_together(inside, loaded.model, bank, tuning.config, progress)
    return {task.scenario: prompt for task, prompt in zip(tasks, prompts, strict=True)}


def _learned_from(labels: Labels, test_fold: int | None) -> tuple[pa.Table, pa.Table]:
    """The train and valid part."""
    train, valid = labels.part("train", test_fold), labels.part("valid", test_fold)
    if not len(train) or not len(valid):
        raise LabelsInvalid(
            f"scenario {labels.scenario!r} has no rows in its {'valid' if len(train) else 'train'} part",
            "Load more labels, or give them a split column.",
        )
    return train, valid


def _task(tuning: Tuning, scenario: str, places: Sequence[Int64], tables: Sequence[pa.Table]) -> TuneTask:
    """A scenario's query and label rows, those of the train part sampled where there are too many."""
    loaded, spec = tuning.loaded, tuning.workspace.scenario(scenario)
    train, valid = (
        LabelledRequests(place, np.asarray(table[LABEL]).astype(np.int64))
        for place, table in zip(places, tables, strict=True)
    )
    kept = choose_rows(train.requests, train.labels, tuning.config.most_rows, tuning.config.seed)
    train = LabelledRequests(train.requests[kept], train.labels[kept])
    query_ids = loaded.tokenizer.encode_queries([spec.query], loaded.config.max_question_tokens)[0]
    return TuneTask(scenario, query_ids.to(loaded.runtime.device), train, valid, len(spec.answers))


def _within(task: TuneTask, asked: Int64) -> TuneTask:
    """The task with its requests counted among those that were encoded."""
    train, valid = (
        LabelledRequests(np.searchsorted(asked, part.requests), part.labels)
        for part in (task.train, task.valid)
    )
    return replace(task, train=train, valid=valid)


def record_prompt(
    scenario: str, tuned: TunedPrompt, model: ModelVersion, test_fold: int | None, home: Home, engine: Engine
) -> PromptVersion:
    """Save a tuned prompt and make it its scenario's."""
    version = new_version()
    path = Path(model.path) / "prompts" / version
    about = {"version": version, "scenario": scenario, "model_hash": model.content_hash, **tuned.metrics}
    prompt = SoftPrompt(tuned.vectors, tuned.prototypes)
    (home.root / path).parent.mkdir(parents=True, exist_ok=True)
    content_hash = save_prompt(home.root / path, prompt, about)
    return register_prompt(
        engine,
        PromptVersion(
            version=version,
            scenario=scenario,
            model_version=model.version,
            path=str(path),
            content_hash=content_hash,
            test_fold=test_fold,
            metrics=tuned.metrics,
        ),
    )


def _requests(arrays: EventArrays, tables: Sequence[pa.Table]) -> tuple[Int64, Int64, list[Int64]]:
    """The distinct (user, cut-off) of all tables: user rows, cut-offs, and each table's places in them."""
    users = np.concatenate([np.asarray(table[USER_ID].to_pylist(), dtype=object) for table in tables])
    cutoffs = np.concatenate(
        [np.asarray(table[AS_OF].cast(pa.timestamp("us")).cast(pa.int64())) for table in tables]
    ).astype(np.int64)
    pairs, place = np.unique(
        np.stack([arrays.user_rows(users), cutoffs], axis=1), axis=0, return_inverse=True
    )
    bounds = np.cumsum([0, *(len(table) for table in tables)])
    parts = np.split(place.reshape(-1).astype(np.int64), bounds[1:-1])
    return pairs[:, 0].copy(), pairs[:, 1].copy(), parts
