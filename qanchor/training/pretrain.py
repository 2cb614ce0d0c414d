"""Pre-training on UserU pairs: L = L_cl + L_ntp.

Source: arXiv 2602.14492, sections 3.1 and 3.2.2.
"""

import hashlib
import resource
import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from qanchor.errors import InputError, NotReady
from qanchor.events.history import EventArrays, microseconds
from qanchor.model.build import build_model, make_tokenizer
from qanchor.model.config import ModelConfig, preset_config
from qanchor.model.features import Normaliser
from qanchor.model.pretrained import with_sources
from qanchor.model.qanchor import QAnchor
from qanchor.model.runtime import Runtime, choose_runtime
from qanchor.model.text_encoder import BagTextEncoder
from qanchor.model.tokens import TextTokenizer
from qanchor.progress import Progress
from qanchor.training.batches import BatchBuilder, part_of, points_of_step
from qanchor.training.distributed import Ranks
from qanchor.training.forward import forward_points
from qanchor.training.initial_weights import whiten_projection, widen_fresh_weights
from qanchor.training.pretrain_config import PretrainConfig
from qanchor.training.pretrain_run import PretrainRun, Surroundings, batch_explained
from qanchor.training.retrieval import check_retrieval
from qanchor.training.run_log import StepFigures
from qanchor.training.run_state import RunFolder
from qanchor.training.useru.load import load_pairs
from qanchor.training.useru.pairs import PairSet, build_pairs
from qanchor.training.useru.points import visible_events
from qanchor.workspace import Workspace

__all__ = ["PretrainConfig", "PretrainResult", "Visible", "pretrain"]


@dataclass(frozen=True)
class PretrainResult:
    """A pre-trained model and how it came about.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        normaliser: of the model's numbers.
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
    """What a run may see, and where it keeps its state.

    Args:
        until: where the visible log ends, UTC; events at or after it are not looked at.
        exclude_users: user ids that are not looked at.
        run_dir: holds the state of unfinished runs; None: it is not kept.
        tensorboard: holds a folder of scalars for each run; None: none are written.
        ranks: the processes that share the run.
    """

    until: datetime
    exclude_users: AbstractSet[str] = frozenset()
    run_dir: Path | None = None
    tensorboard: Path | None = None
    ranks: Ranks = field(default_factory=Ranks)


def pretrain(
    arrays: EventArrays,
    workspace: Workspace,
    config: PretrainConfig,
    limits: Visible,
    progress: Progress,
    runtime: Runtime | None = None,
) -> PretrainResult:
    """A model that has learned, from events before `until`, to tell users' futures and pasts apart.

    With one thread, the same arguments give the same weights, interrupted or not. Processes that share a run
    share every batch, and each of them returns the model.

    Args:
        arrays: all events.
        workspace: names modalities and scenarios.
        config: how.
        limits: what of the arrays may be seen. Called again with the same arguments, an unfinished run
            goes on from where its state was last kept.
        progress: told of every step.
        runtime: device and number format; None: float32 on the CPU.

    Raises:
        NotReady: too few events or users before `until`; load more, or choose a later one.
        InputError: a nested width is wider than the vectors.
        TrainingDiverged: the loss is no number; lower the learning rate.
        BatchTooLarge: memory does not suffice; compute fewer points at a time.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state is kept, and the same call goes on.
    """
    began = time.monotonic()
    until = microseconds(limits.until)
    visible = visible_events(arrays, until, limits.exclude_users)
    progress.start("making question-answer pairs")
    asked = visible, workspace, until, config.useru, config.seed
    pairs = load_pairs(Path(config.pairs), *asked) if config.pairs else build_pairs(*asked)
    if pairs.trained < 2:
        raise NotReady(
            f"only {pairs.trained} users with a past can be learned from",
            "Load more events, or give a later --until.",
        )
    model_config = _switched(preset_config(config.preset, workspace), config)
    if config.backbone or config.text_encoder:
        model_config = with_sources(model_config, config.backbone, config.text_encoder, config.text_pooling)
    tokenizer = make_tokenizer(model_config, _corpus(visible, workspace, pairs))
    normaliser = Normaliser.fit(visible, workspace.modalities)
    builder = BatchBuilder(visible, workspace, pairs, tokenizer, normaliser, model_config)
    runtime = runtime or choose_runtime("cpu", "float32")
    model = _begun(build_model(model_config, tokenizer, config.seed), builder, config, runtime)
    key = _key(config, model_config, pairs, visible)
    folder = RunFolder(limits.run_dir, key, config.learning_rate)
    scalars = limits.tensorboard / folder.name if limits.tensorboard else None
    run = PretrainRun(model, builder, config, Surroundings(folder, runtime, limits.ranks, scalars))
    before = check_retrieval(model, builder)
    steps = run.train(progress)
    model.eval()
    metrics = {
        "steps": len(steps),
        "contrastive_loss": [step.contrastive for step in steps],
        "next_token_loss": [step.next_token for step in steps],
        "summary_loss": [step.summary for step in steps],
        "pairs": len(pairs),
        "points": len(pairs.points),
        "users": len(visible.users),
        "widths": model_config.widths,
        "parameters": sum(p.numel() for p in model.parameters()),
        "processes": limits.ranks.count,
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "before": before,
        "after": check_retrieval(model, builder) | _at_widths(model, builder),
    }
    return PretrainResult(model, tokenizer, normaliser, limits.until, metrics, steps, folder)


def _at_widths(model: QAnchor, builder: BatchBuilder) -> dict[str, float]:
    """How often the first numbers alone find the user's own answer; empty without held-out points."""
    found = {width: check_retrieval(model, builder, width=width) for width in model.config.nested_widths}
    name = "retrieval_at_1"
    return {f"{name}_width_{width}": some[name] for width, some in found.items() if name in some}


def _begun(model: QAnchor, builder: BatchBuilder, config: PretrainConfig, runtime: Runtime) -> QAnchor:
    """The model on its device, its fresh weights where training can take hold."""
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

    with batch_explained(size):
        whiten_projection(model.projection, forward)
    return model


def _switched(model: ModelConfig, config: PretrainConfig) -> ModelConfig:
    """The model's configuration with what the training's switches decide of its shape."""
    wrong = [width for width in config.widths if not 0 < width <= model.embedding_width]
    if wrong:
        raise InputError(
            f"the nested width {wrong[0]} is not one of a vector of {model.embedding_width} numbers",
            f"Give widths between 1 and {model.embedding_width}.",
        )
    return model.model_copy(
        update={
            "use_user_token": config.user_token,
            "use_modality_tokens": config.modality_tokens,
            "nested_widths": tuple(sorted(set(config.widths))),
        }
    )


def _corpus(visible: EventArrays, workspace: Workspace, pairs: PairSet) -> list[str]:
    scenarios = [text for s in workspace.scenarios.values() for text in (s.query, s.positive, s.negative)]
    return [*visible.texts, *pairs.questions, *pairs.phrases, *scenarios]


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
