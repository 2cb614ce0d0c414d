"""Pre-training on UserU pairs: L = L_cl + L_ntp.

Source: arXiv 2602.14492, sections 3.1 and 3.2.2.
"""

import hashlib
import resource
import time
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qanchor.errors import NotReady, TrainingDiverged
from qanchor.events.history import EventArrays, microseconds
from qanchor.model.batch import EventDropout
from qanchor.model.build import build_model, make_tokenizer
from qanchor.model.config import ModelConfig, preset_config
from qanchor.model.features import Normaliser
from qanchor.model.qanchor import QAnchor
from qanchor.model.runtime import Runtime, choose_runtime
from qanchor.model.text_encoder import BagTextEncoder
from qanchor.model.tokens import TextTokenizer
from qanchor.progress import Progress
from qanchor.training.batches import BatchBuilder, PairBatch, batches, points_of_step
from qanchor.training.forward import forward_points
from qanchor.training.fresh import whiten_projection, widen_fresh_weights
from qanchor.training.losses import Form, contrastive_loss, same_user_or_answer, summary_loss
from qanchor.training.run_state import load_run, save_run
from qanchor.training.schedule import warm_up_cosine
from qanchor.training.useru.pairs import PairSet, UserUConfig, build_pairs
from qanchor.training.useru.visible import visible_events
from qanchor.workspace import Workspace

NO_MARGIN = 3.0  # cosines differ by 2 at most


@dataclass(frozen=True)
class PretrainConfig:
    """How to pre-train.

    Args:
        preset: of the model: tiny, small or paper.
        steps: optimiser steps.
        minutes: if set, steps are measured and chosen to fill about so many minutes.
        points: users at a cut-off in a batch; each asks `useru.questions` questions.
        learning_rate: at its peak.
        warm_up: share of the steps.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        temperature: of the contrastive loss.
        margin: of the contrastive loss.
        margin_from: share of the steps before which no negative is left out. At the beginning all
            vectors are alike: the mask would leave out every negative, and nothing would push them apart.
        form: of the contrastive loss.
        contrastive_weight: of L_cl.
        next_token_weight: of L_ntp.
        summary_weight: of the summary loss, which asks the embedding itself what happened in the span.
        next_token_questions: how many of a point's questions carry L_ntp.
        event_dropout: share of events left out of a training history.
        seed: of everything.
        save_every: steps between saved states of an unfinished run.
        useru: the pairs.
    """

    preset: str = "tiny"
    steps: int = 400
    minutes: float | None = None
    points: int = 64
    learning_rate: float = 3e-3
    warm_up: float = 0.08
    weight_decay: float = 0.02
    clip: float = 1.0
    temperature: float = 0.07
    margin: float = 0.1
    margin_from: float = 0.25
    form: Form = "paper"
    contrastive_weight: float = 1.0
    next_token_weight: float = 1.0
    summary_weight: float = 3.0
    next_token_questions: int = 1
    event_dropout: float = 0.15
    seed: int = 0
    save_every: int = 100
    useru: UserUConfig = field(default_factory=UserUConfig)


@dataclass(frozen=True)
class PretrainResult:
    """A pre-trained model and how it came about.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        normaliser: of the model's numbers.
        trained_until: events before it were seen.
        metrics: loss curves, pairs, seconds, memory, retrieval before and after; JSON.
    """

    model: QAnchor
    tokenizer: TextTokenizer
    normaliser: Normaliser
    trained_until: datetime
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Visible:
    """What a run may see, and where it keeps its state.

    Args:
        until: where the visible log ends, UTC; events at or after it are not looked at.
        exclude_users: user ids that are not looked at.
        run_dir: folder of an unfinished run's state; None: it is not kept.
    """

    until: datetime
    exclude_users: AbstractSet[str] = frozenset()
    run_dir: Path | None = None


def pretrain(
    arrays: EventArrays,
    workspace: Workspace,
    config: PretrainConfig,
    limits: Visible,
    progress: Progress,
    runtime: Runtime | None = None,
) -> PretrainResult:
    """A model that has learned, from events before `until`, to tell users' futures and pasts apart.

    With one thread, the same arguments give the same weights, interrupted or not.

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
        TrainingDiverged: the loss is no number; lower the learning rate.
    """
    began = time.monotonic()
    until = microseconds(limits.until)
    visible = visible_events(arrays, until, limits.exclude_users)
    progress.start("making question-answer pairs")
    pairs = build_pairs(visible, workspace, until, config.useru, config.seed)
    if pairs.trained < 2:
        raise NotReady(
            f"only {pairs.trained} users with a past can be learned from",
            "Load more events, or give a later --until.",
        )
    model_config = preset_config(config.preset, workspace)
    tokenizer = make_tokenizer(model_config, _corpus(visible, workspace, pairs))
    normaliser = Normaliser.fit(visible, workspace.modalities)
    builder = BatchBuilder(visible, workspace, pairs, tokenizer, normaliser, model_config)
    runtime = runtime or choose_runtime("cpu", "float32")
    model = build_model(model_config, tokenizer, config.seed)
    if not model_config.backbone.source:
        widen_fresh_weights(model.backbone, config.seed)
    if isinstance(model.encoder.text_encoder, BagTextEncoder):
        builder.seed_texts(model.encoder.text_encoder)
    model.to(runtime.device)
    key = _key(config, model_config, pairs, visible)
    first = [builder.build(points_of_step(pairs, config.points, step, config.seed)) for step in range(4)]
    whiten_projection(
        model.projection, lambda: [forward_points(model, b.to(runtime.device), 0) for b in first]
    )
    run = _Run(model, builder, config, _Keeper(limits.run_dir, key), runtime)
    before = check_retrieval(model, builder)
    curve = run.train(progress)
    model.eval()
    metrics = {
        **curve,
        "pairs": len(pairs),
        "points": len(pairs.points),
        "users": len(visible.users),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "before": before,
        "after": check_retrieval(model, builder),
    }
    return PretrainResult(model, tokenizer, normaliser, limits.until, metrics)


def _corpus(visible: EventArrays, workspace: Workspace, pairs: PairSet) -> list[str]:
    scenarios = [text for s in workspace.scenarios.values() for text in (s.query, s.positive, s.negative)]
    return [*visible.texts, *pairs.questions, *pairs.phrases, *scenarios]


def _key(config: PretrainConfig, model: ModelConfig, pairs: PairSet, visible: EventArrays) -> str:
    """Identifies a run: the same key has the same steps before it and after it."""
    digest = hashlib.sha256(f"{asdict(config)}{model.model_dump_json()}{visible.texts}".encode())
    for array in (pairs.points.rows, pairs.points.cutoffs, pairs.question, pairs.answers):
        digest.update(np.ascontiguousarray(array).tobytes())
    for events in visible.modalities:
        digest.update(events.time.tobytes())
        digest.update(events.numbers.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Keeper:
    """Keeps an unfinished run's state, where it has a folder."""

    folder: Path | None
    key: str

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        return load_run(self.folder, self.key, model, optimizer) if self.folder else None

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> None:
        if self.folder:
            save_run(self.folder, model, optimizer, {"key": self.key, **content})


class _Run:
    """The optimiser's loop over one set of pairs."""

    def __init__(
        self,
        model: QAnchor,
        builder: BatchBuilder,
        config: PretrainConfig,
        keeper: "_Keeper",
        runtime: Runtime,
    ) -> None:
        self._model = model
        self._builder = builder
        self._config = config
        self._keeper = keeper
        self._runtime = runtime
        self._reader = _summary_reader(model.config.embedding_width, builder.pairs, config.seed)
        self._reader.to(runtime.device)
        self._parts = nn.ModuleList([model, self._reader])
        self._weights = [*self._reader.parameters(), *(p for p in model.parameters() if p.requires_grad)]
        self._optimizer = torch.optim.AdamW(
            self._weights, config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )

    def train(self, progress: Progress) -> dict[str, Any]:
        """Run all steps that are left; the curves of the two losses and how many steps there were."""
        torch.manual_seed(self._config.seed)
        state = self._keeper.load(self._parts, self._optimizer)
        done: int = state["step"] if state else 0
        losses: list[list[float]] = state["losses"] if state else []
        steps: int = state["steps"] if state else self._steps()
        self._model.train()
        progress.start("pre-training", steps)
        progress.advance(done)
        plan = [self._planned(step) for step in range(done, steps)]
        for step, batch in enumerate(batches(self._builder, plan), start=done):
            losses.append(self._step(batch, step, steps))
            progress.advance(
                1,
                f"contrastive {losses[-1][0]:.3f} next-token {losses[-1][1]:.3f} summary {losses[-1][2]:.3f}",
            )
            if (step + 1) % self._config.save_every == 0 and step + 1 < steps:
                content = {"step": step + 1, "steps": steps, "losses": losses}
                self._keeper.save(self._parts, self._optimizer, content)
        return {
            "steps": steps,
            "contrastive_loss": [loss[0] for loss in losses],
            "next_token_loss": [loss[1] for loss in losses],
            "summary_loss": [loss[2] for loss in losses],
        }

    def _planned(self, step: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], EventDropout]:
        config = self._config
        chance = np.random.default_rng([config.seed, step, 1])
        points = points_of_step(self._builder.pairs, config.points, step, config.seed)
        return points, EventDropout(config.event_dropout, chance)

    def _step(self, batch: PairBatch, step: int, steps: int) -> list[float]:
        config = self._config
        share = warm_up_cosine(step, steps, max(1, round(steps * config.warm_up)))
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        contrastive, next_token, summary = self._losses(batch, masked=step >= steps * config.margin_from)
        loss = (
            config.contrastive_weight * contrastive
            + config.next_token_weight * next_token
            + config.summary_weight * summary
        )
        if not torch.isfinite(loss):
            raise TrainingDiverged(step, config.learning_rate)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._weights, config.clip)
        self._optimizer.step()
        return [round(part.item(), 5) for part in (contrastive, next_token, summary)]

    def _losses(self, batch: PairBatch, masked: bool) -> tuple[Tensor, Tensor, Tensor]:
        config = self._config
        batch = batch.to(self._runtime.device)
        told = config.next_token_questions if config.next_token_weight > 0 else 0
        with self._runtime.autocast():
            output = forward_points(self._model, batch, told)
        users = batch.users.repeat_interleave(batch.question_ids.shape[1])
        never = same_user_or_answer(users, batch.answer_ids.flatten(0, 1))
        contrastive = contrastive_loss(
            output.anchor,
            output.answer,
            config.temperature,
            config.margin if masked else NO_MARGIN,
            never,
            config.form,
        )
        summary = summary_loss(self._reader(output.anchor), batch.summaries.flatten(0, 1))
        return contrastive, output.ntp_loss, summary

    def _steps(self) -> int:
        """The steps asked for, or those that fill the minutes, measured on a few that are undone again."""
        if self._config.minutes is None:
            return self._config.steps
        kept = {name: value.clone() for name, value in self._model.state_dict().items()}
        self._model.train()
        trial = list(batches(self._builder, [self._planned(step) for step in range(4)]))
        seconds = []
        for batch in trial:
            began = time.monotonic()
            contrastive, next_token, summary = self._losses(batch, masked=True)
            (contrastive + next_token + summary).backward()  # type: ignore[no-untyped-call]
            self._optimizer.zero_grad(set_to_none=True)
            seconds.append(time.monotonic() - began)
        self._model.load_state_dict(kept)
        return max(20, int(self._config.minutes * 60 / min(seconds[1:])))


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


@torch.no_grad()
def check_retrieval(model: QAnchor, builder: BatchBuilder, most: int = 256) -> dict[str, float]:
    """How often held-out users' own answer is the nearest among those of a cell, and its mean rank.

    All points of a cell are asked the same; an answer equal to the user's own does not count against it.

    Returns:
        retrieval_at_1 (share), mean_rank (1 is best) and chance_rank; empty without held-out points.
    """
    pairs = builder.pairs
    cells = min(most, len(pairs.points) - pairs.trained) // pairs.cell
    if cells == 0:
        return {}
    training = model.training
    model.eval()
    ranks, sizes = [], []
    for cell in range(cells):
        points = pairs.trained + cell * pairs.cell + np.arange(pairs.cell)
        batch = builder.build(points).to(model.projection[0].weight.device)  # type: ignore[arg-type]
        output = forward_points(model, batch, next_token_questions=0)
        for slot in range(batch.question_ids.shape[1]):
            rank, size = _ranks(output.anchor, output.answer, batch.answer_ids, slot)
            ranks.append(rank)
            sizes.append(size)
    model.train(training)
    rank, size = torch.cat(ranks).float(), torch.cat(sizes).float()
    return {
        "retrieval_at_1": round(float((rank == 1).float().mean()), 4),
        "mean_rank": round(float(rank.mean()), 3),
        "chance_rank": round(float((size + 1).mean() / 2), 3),
    }


def _ranks(anchor: Tensor, answer: Tensor, answer_ids: Tensor, slot: int) -> tuple[Tensor, Tensor]:
    """Rank of each point's own answer to one question, and among how many different ones; int64 [points]."""
    points, asked = answer_ids.shape[:2]
    own = answer.view(points, asked, -1)[:, slot]
    _, same = torch.unique(answer_ids[:, slot], dim=0, return_inverse=True)
    scores = anchor.view(points, asked, -1)[:, slot] @ own.T  # [points, points]
    other = same[:, None] != same[None, :]
    better = (scores > scores.diagonal()[:, None]) & other
    return better.sum(1) + 1, other.sum(1) + 1
