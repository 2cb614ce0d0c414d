"""The use cases `pretrain` and `tune`: from a site's log and labels to a registered model or prompt."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qanchor.errors import InputError
from qanchor.events.history import load_event_arrays
from qanchor.events.labels import earliest_cutoff, holdout_users, read_labels
from qanchor.model.checkpoint import load_model, save_model
from qanchor.model.inference import merge_adapters
from qanchor.model.runtime import choose_runtime
from qanchor.model.soft_prompt import SoftPrompt, save_prompt
from qanchor.progress import Progress, Silent
from qanchor.registry.jobs import recorded_job
from qanchor.registry.tables import ModelVersion, PromptVersion, new_version
from qanchor.registry.versions import active_model, register_model, register_prompt
from qanchor.site import Site
from qanchor.training.distributed import join_ranks
from qanchor.training.pretrain import Execution, PretrainResult, Visible, train_model
from qanchor.training.pretrain_config import PretrainConfig
from qanchor.training.run_log import save_curves
from qanchor.training.tune import TuneConfig, TunedPrompt
from qanchor.training.tune_scenarios import Tuning, tune_scenarios


@dataclass(frozen=True)
class PretrainRequest:
    """A pre-training run on a site's event log.

    Args:
        config: how to train.
        until: end of the events, UTC; None: the first cut-off of labels to be tested.
        merge: fold adapters into the weights; the stored folder then holds decoder and text encoder itself.
        tensorboard: write scalars to the home's folder `tensorboard`.
    """

    config: PretrainConfig
    until: datetime | None = None
    merge: bool = False
    tensorboard: bool = False


def pretrain(site: Site, request: PretrainRequest, progress: Progress) -> ModelVersion | None:
    """Train a model on the site's events, store it and put it in service.

    Users of a test split are left out. The same call continues an interrupted run. Started by torchrun, every
    process makes this call.

    Args:
        site: its log is read; its home gets the model.
        request: what to train.
        progress: counts the steps.

    Returns:
        The registered model; None in all processes of a run but the first.

    Raises:
        InputError: no end is known, it lies after the first test label, or a nested width is too wide.
        NotReady: too few events or users before the end; load more, or choose a later one.
        TrainingDiverged: the loss is not finite; lower the learning rate.
        BatchTooLarge: memory does not suffice; compute fewer points at a time.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is kept.
    """
    until = choose_until(request.until, earliest_cutoff(site.home))
    progress.start("reading events")
    arrays = load_event_arrays(site.event_log, site.workspace, before=until)
    visible = Visible(until, holdout_users(site.home))
    compute = site.settings.compute
    runtime = choose_runtime(compute.device, compute.precision)
    scalars = site.home.root / "tensorboard" if request.tensorboard else None
    with join_ranks(runtime.device) as (ranks, device):
        execution = Execution(replace(runtime, device=device), ranks, site.home.cache / "pretrain", scalars)
        if not ranks.is_first:
            train_model(arrays, site.workspace, request.config, visible, Silent(), execution)
            return None
        parameters = {"until": f"{until:%Y-%m-%dT%H:%M:%S}", **request.config.differences()}
        with recorded_job(site.engine, "pretrain", parameters, progress) as job:
            result = train_model(arrays, site.workspace, request.config, visible, job, execution)
            model = _register_model(site, result, request)
            job.made.append(f"model {model.version}")
        result.state.discard()
        return model


def choose_until(requested: datetime | None, earliest_cutoff: datetime | None) -> datetime:
    """Where pre-training's events end.

    Args:
        requested: by the user, UTC; None: not.
        earliest_cutoff: the earliest cut-off that is not a training row's; None without labels.

    Raises:
        InputError: neither is known, or the requested end is later than labels allow.
    """
    if requested is None and earliest_cutoff is None:
        raise InputError(
            "there are no labels that say where pre-training has to end",
            "Give --until DATE, or load labels first.",
        )
    if requested is None or earliest_cutoff is None:
        return requested or earliest_cutoff  # type: ignore[return-value]  # one of them is set
    if requested > earliest_cutoff:
        raise InputError(
            f"--until {requested:%Y-%m-%d} lies after the first label to be tested, "
            f"{earliest_cutoff:%Y-%m-%d}",
            "Give an earlier date: the model would read what it is asked to predict.",
        )
    return requested


def _register_model(site: Site, result: PretrainResult, request: PretrainRequest) -> ModelVersion:
    """Save a model with a picture of its curves, and make it the one that serves."""
    version = new_version()
    path = Path("models") / version
    metadata: dict[str, Any] = {
        "version": version,
        "trained_until": result.trained_until.isoformat(),
        "config": asdict(request.config),
        "metrics": result.metrics,
    }
    model = merge_adapters(result.model) if request.merge else result.model
    content_hash = save_model(site.home.root / path, model, result.tokenizer, result.normaliser, metadata)
    if result.steps:
        save_curves(result.steps, site.home.root / path / "loss.png")
    return register_model(
        site.engine,
        ModelVersion(
            version=version,
            preset=request.config.preset,
            path=str(path),
            content_hash=content_hash,
            trained_until=result.trained_until.astimezone(UTC).replace(tzinfo=None),
            metrics=result.metrics,
        ),
    )


@dataclass(frozen=True)
class TuneRequest:
    """Scenarios to tune.

    Args:
        scenarios: names of scenarios with labels.
        config: how to tune.
        test_fold: the fold whose labels are left alone; None: each label set's own default.
    """

    scenarios: Sequence[str]
    config: TuneConfig
    test_fold: int | None = None


def tune(site: Site, request: TuneRequest, progress: Progress) -> list[PromptVersion]:
    """Tune the soft prompts of scenarios on the model that serves; each becomes its scenario's prompt.

    Labels of the test part are never read.

    Args:
        site: its log and labels are read; its home gets the prompts.
        request: what to tune.
        progress: counts histories and steps.

    Returns:
        The registered prompt of each scenario, in the request's order.

    Raises:
        NotReady: there is no model or a scenario has no labels.
        LabelsInvalid: labels lack a part, a class or users with events.
        CheckpointInvalid: the model is damaged, or was trained on other modalities.
    """
    labels = [read_labels(site.home, name) for name in request.scenarios]
    model, compute = active_model(site.engine), site.settings.compute
    loaded = load_model(site.home.root / model.path, compute.device, compute.precision)
    loaded.config.check_workspace(site.workspace)
    progress.start("reading events")
    arrays = load_event_arrays(site.event_log, site.workspace)
    tuning = Tuning(loaded, site.workspace, request.config, request.test_fold)
    config = request.config
    parameters = {
        "scenarios": list(request.scenarios),
        "tokens": config.tokens,
        "steps": config.steps,
        "seed": config.seed,
    }
    with recorded_job(site.engine, "tune", parameters, progress) as job:
        tuned = tune_scenarios(tuning, arrays, labels, job)
        prompts = [
            _register_prompt(
                site, model, some.scenario, tuned[some.scenario], some.test_fold(request.test_fold)
            )
            for some in labels
        ]
        job.made += [f"prompt {prompt.version} of {prompt.scenario}" for prompt in prompts]
    return prompts


def _register_prompt(
    site: Site, model: ModelVersion, scenario: str, tuned: TunedPrompt, test_fold: int | None
) -> PromptVersion:
    version = new_version()
    path = Path(model.path) / "prompts" / version
    metadata = {"version": version, "scenario": scenario, "model_hash": model.content_hash, **tuned.metrics}
    content_hash = save_prompt(site.home.root / path, SoftPrompt(tuned.vectors, tuned.prototypes), metadata)
    return register_prompt(
        site.engine,
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
