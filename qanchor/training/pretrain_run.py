"""The optimiser's loop of pre-training: L = L_cl + L_ntp.

Source: arXiv 2602.14492, section 3.2.2.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qanchor.errors import TrainingDiverged
from qanchor.model.batch import EventDropout
from qanchor.model.qanchor import QAnchor
from qanchor.model.runtime import Runtime
from qanchor.progress import Progress
from qanchor.training.batches import BatchBuilder, PairBatch, batches, points_of_step
from qanchor.training.forward import forward_points
from qanchor.training.losses import contrastive_loss, same_user_or_answer, summary_loss
from qanchor.training.pretrain_config import PretrainConfig
from qanchor.training.run_state import load_run, save_run
from qanchor.training.schedule import warm_up_cosine
from qanchor.training.useru.pairs import PairSet

NO_MARGIN = 3.0  # cosines differ by 2 at most


@dataclass(frozen=True)
class Keeper:
    """Keeps an unfinished run's state, where it has a folder."""

    folder: Path | None
    key: str

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        return load_run(self.folder, self.key, model, optimizer) if self.folder else None

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, content: dict[str, Any]) -> None:
        if self.folder:
            save_run(self.folder, model, optimizer, {"key": self.key, **content})


class PretrainRun:
    """The optimiser's loop over one set of pairs."""

    def __init__(
        self,
        model: QAnchor,
        builder: BatchBuilder,
        config: PretrainConfig,
        keeper: Keeper,
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
