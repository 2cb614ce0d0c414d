"""Pre-training on UserU pairs: L = L_cl + L_ntp.

Source: arXiv 2602.14492, sections 3.1 and 3.2.2.
"""

import hashlib
import resource
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from qanchor.errors import InputError, NotReady
from qanchor.events.history import EventArrays
from qanchor.model.build import build_model, make_tokenizer
from qanchor.model.config import ModelConfig, preset_config
from qanchor.model.features import Normaliser
from qanchor.model.pretrained import with_sources
from qanchor.model.qanchor import QAnchor
from qanchor.model.runtime import Runtime
from qanchor.model.text_encoder import BagTextEncoder
from qanchor.model.tokens import TextTokenizer
from qanchor.progress import Progress
from qanchor.times import to_microseconds
from qanchor.training.batches import BatchBuilder, part_of, points_of_step
from qanchor.training.forward import forward_points
from qanchor.training.initial_weights import whiten_projection, widen_fresh_weights
from qanchor.training.pretrain_config import PretrainConfig
from qanchor.training.pretrain_run import Execution, PretrainRun, out_of_memory_as_error
from qanchor.training.retrieval import check_retrieval
from qanchor.training.run_log import StepFigures
from qanchor.training.run_state import RunFolder
from qanchor.training.useru.load import load_pairs
from qanchor.training.useru.pairs import PairSet, build_pairs
from qanchor.training.useru.points import visible_events
from qanchor.workspace import Workspace

__all__ = ["Execution", "PretrainConfig", "PretrainResult", "Visible", "train_model"]


@dataclass(frozen=True)
class PretrainResult:
    """A pre-trained model and how it came about.

    Args:
        model: in evaluation mode.
        tokenizer: tokenizer of the model.
        normaliser: scales the model's numbers.
        trained_until: events before it were seen.
        metrics: loss curves, pairs, seconds, memory, retrieval before and after; JSON.
        steps: figures of every step.
        state: what the run kept on the way; to be discarded once the model is stored.
    """

    model: QAnchor
    tokenizer: TextTokenizer
    normaliser: Normaliser
    trained_until: datetime
    metrics: dict[str, Any]
    steps: list[StepFigures] = field(default_factory=list)
    state: RunFolder = field(default_factory=lambda: RunFolder(None, "", 0.0))


@dataclass(frozen=True)
class Visible:
    """What of the events a run may see.

    Args:
        until: where the visible log ends, UTC; no event at or after it is read.
        exclude_users: user ids whose events are not read.
    """

    until: datetime
    exclude_users: AbstractSet[str] = frozenset()


def train_model(
    arrays: EventArrays,
    workspace: Workspace,
    config: PretrainConfig,
    visible: Visible,
    progress: Progress,
    execution: Execution | None = None,
) -> PretrainResult:
    """A model that has learned, from the visible events, to tell users' futures and pasts apart.

    With one thread, the same arguments give the same weights, interrupted or not. Processes that share a run
    share every batch, and each of them returns the model.

    Args:
        arrays: all events.
        workspace: names modalities and scenarios.
        config: how to train.
        visible: what of the arrays may be seen.
        progress: counts the steps.
        execution: where the run computes and keeps its state. Called again with the same arguments, an
            unfinished run continues from its last state. None: alone, in float32 on the CPU, without state.

    Raises:
        NotReady: too few events or users before `until`; load more, or choose a later one.
        InputError: a nested width is wider than the vectors.
        TrainingDiverged: the loss is not finite; lower the learning rate.
        BatchTooLarge: memory does not suffice; compute fewer points at a time.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is kept.
    """
    began = time.monotonic()
    execution = execution or Execution()
    until = to_microseconds(visible.until)
    events = visible_events(arrays, until, visible.exclude_users)
    progress.start("making question-answer pairs")
    pairs = _pairs(events, workspace, until, config)
    model_config = _model_config(workspace, config)
    tokenizer = make_tokenizer(model_config, _corpus(events, workspace, pairs))
    normaliser = Normaliser.fit(events, workspace.modalities)
    builder = BatchBuilder(events, workspace, pairs, tokenizer, normaliser, model_config)
    model = build_model(model_config, tokenizer, config.seed)
    _initialise(model, builder, config, execution.runtime)
    state = RunFolder(execution.run_dir, _key(config, model_config, pairs, events), config.learning_rate)
    run = PretrainRun(model, builder, config, state, execution)
    before = check_retrieval(model, builder)
    steps = run.train(progress)
    model.eval()
    metrics = {
        **_losses(steps),
        "pairs": len(pairs),
        "points": len(pairs.points),
        "users": len(events.users),
        "widths": model_config.widths,
        "parameters": sum(p.numel() for p in model.parameters()),
        "processes": execution.ranks.count,
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "before": before,
        "after": check_retrieval(model, builder) | _at_widths(model, builder),
    }
    return PretrainResult(model, tokenizer, normaliser, visible.until, metrics, steps, state)


def _losses(steps: Sequence[StepFigures]) -> dict[str, Any]:
    return {
        "steps": len(steps),
        "contrastive_loss": [step.contrastive for step in steps],
        "next_token_loss": [step.next_token for step in steps],
        "summary_loss": [step.summary for step in steps],
    }


def _pairs(events: EventArrays, workspace: Workspace, until: int, config: PretrainConfig) -> PairSet:
    if config.pairs:
        pairs = load_pairs(Path(config.pairs), events, workspace, until, config.useru, config.seed)
    else:
        pairs = build_pairs(events, workspace, until, config.useru, config.seed)
    if pairs.trained < 2:
        raise NotReady(
            f"only {pairs.trained} users with a past can be learned from",
            "Load more events, or give a later --until.",
        )
    return pairs


def _at_widths(model: QAnchor, builder: BatchBuilder) -> dict[str, float]:
    """Retrieval of the user's answer at each nested width; empty without held-out points."""
    by_width = {width: check_retrieval(model, builder, width=width) for width in model.config.nested_widths}
    name = "retrieval_at_1"
    return {f"{name}_width_{width}": some[name] for width, some in by_width.items() if name in some}


def _initialise(model: QAnchor, builder: BatchBuilder, config: PretrainConfig, runtime: Runtime) -> None:
    """Move the model to its device, and its fresh weights to where training can take hold."""
    if not model.config.backbone.source:
        widen_fresh_weights(model.backbone, config.seed)
    if isinstance(model.encoder.text_encoder, BagTextEncoder):
        builder.seed_texts(model.encoder.text_encoder)
    builder.fit_tabular(model.encoder)
    model.to(runtime.device)
    first = [builder.build(points_of_step(builder.pairs, config.points, at, config.seed)) for at in range(4)]
    size = config.grad_cache or config.points

    def forward() -> None:
        for batch in first:
            for at in range(0, len(batch.users), size):
                part = part_of(batch, range(at, min(at + size, len(batch.users))), model.pad_id)
                with runtime.autocast():
                    forward_points(model, part.to(runtime.device), 0)

    with out_of_memory_as_error(size):
        whiten_projection(model.projection, forward)


def _model_config(workspace: Workspace, config: PretrainConfig) -> ModelConfig:
    """The configuration of the model that the training's configuration describes."""
    model = preset_config(config.preset, workspace)
    wrong = [width for width in config.widths if not 0 < width <= model.embedding_width]
    if wrong:
        raise InputError(
            f"the nested width {wrong[0]} is not one of a vector of {model.embedding_width} numbers",
            f"Give widths between 1 and {model.embedding_width}.",
        )
    model = model.model_copy(
        update={
            "use_user_token": config.user_token,
            "use_modality_tokens": config.modality_tokens,
            "nested_widths": tuple(sorted(set(config.widths))),
        }
    )
    if config.backbone or config.text_encoder:
        return with_sources(model, config.backbone, config.text_encoder, config.text_pooling)
    return model


def _corpus(events: EventArrays, workspace: Workspace, pairs: PairSet) -> list[str]:
    scenarios = [text for s in workspace.scenarios.values() for text in (s.query, s.positive, s.negative)]
    return [*events.texts, *pairs.questions, *pairs.phrases, *scenarios]


def _key(config: PretrainConfig, model: ModelConfig, pairs: PairSet, visible: EventArrays) -> str:
    """Identifies a run: with the same learning rate, the same key has the same steps before and after."""
    digest = hashlib.sha256(f"{config.identity()}{model.model_dump_json()}{visible.texts}".encode())
    digest.update(repr(pairs.phrases).encode())
    for array in (pairs.points.rows, pairs.points.cutoffs, pairs.question, pairs.answers):
        digest.update(np.ascontiguousarray(array).tobytes())
    for events in visible.modalities:
        digest.update(events.time.tobytes())
        digest.update(events.numbers.tobytes())
    return digest.hexdigest()
