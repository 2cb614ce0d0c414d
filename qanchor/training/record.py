"""From the registry and the log to a trained model or prompt, and back into the registry."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from qanchor.model.soft_prompt import SoftPrompt, save_prompt
from qanchor.names import AS_OF, LABEL, USER_ID
from qanchor.progress import Progress
from qanchor.registry.tables import ModelVersion, PromptVersion, new_version
from qanchor.registry.versions import register_model, register_prompt
from qanchor.training.prefixes import PrefixBank
from qanchor.training.pretrain import PretrainConfig, PretrainResult
from qanchor.training.tune import LabelledRequests, TuneConfig, TunedPrompt, TuneTask, tune_prompt
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


def record_model(result: PretrainResult, config: PretrainConfig, home: Home, engine: Engine) -> ModelVersion:
    """Save a pre-trained model and make it the one that serves."""
    version = new_version()
    path = Path("models") / version
    about: dict[str, Any] = {
        "version": version,
        "trained_until": result.trained_until.isoformat(),
        "config": asdict(config),
        "metrics": result.metrics,
    }
    home.models.mkdir(parents=True, exist_ok=True)
    content_hash = save_model(home.root / path, result.model, result.tokenizer, result.normaliser, about)
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
        LabelsInvalid: a scenario's train or valid part has one class only, or has no such fold.
    """
    parts = {}
    for some in labels:
        train, valid = (some.part(part, tuning.test_fold) for part in ("train", "valid"))
        if not len(train) or not len(valid):
            raise LabelsInvalid(
                f"scenario {some.scenario!r} has no rows in its {'valid' if len(train) else 'train'} part",
                "Load more labels, or give them a split column.",
            )
        parts[some.scenario] = train, valid
    rows, cutoffs, places = _requests(arrays, [table for pair in parts.values() for table in pair])
    loaded = tuning.loaded
    parts_of_model = loaded.model, loaded.tokenizer, loaded.normaliser
    bank = PrefixBank(*parts_of_model, tuning.workspace, torch.float16)
    bank.fill(arrays, rows, cutoffs, progress)
    tuned = {}
    for number, (scenario, tables) in enumerate(parts.items()):
        train, valid = (
            LabelledRequests(places[2 * number + i], np.asarray(table[LABEL]).astype(np.int64))
            for i, table in enumerate(tables)
        )
        query = tuning.workspace.scenario(scenario).query
        question = loaded.tokenizer.encode_questions([query], loaded.config.max_question_tokens)[0]
        task = TuneTask(scenario, question.to(loaded.runtime.device), train, valid)
        tuned[scenario] = tune_prompt(task, loaded.model, bank, tuning.config, progress)
    return tuned


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
