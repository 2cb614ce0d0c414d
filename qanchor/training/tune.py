"""Soft-prompt tuning: a few vectors and class prototypes for each scenario, everything else frozen.

Source: arXiv 2602.14492, section 3.2.3 and Eq. 7.
"""

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from qanchor.errors import LabelsInvalid
from qanchor.events.history import Int64
from qanchor.linear_probe import LinearProbe, ProbeRows, fit_probe
from qanchor.metrics import roc_auc
from qanchor.model.qanchor import QAnchor, Suffix
from qanchor.progress import Progress
from qanchor.training.losses import prompt_loss
from qanchor.training.prefixes import PrefixBank

CLASSES = 2


@dataclass(frozen=True)
class TuneConfig:
    """How to tune.

    Args:
        tokens: soft prompt vectors.
        steps: most optimiser steps.
        batch: users in a step.
        learning_rate: of the prompt.
        prototype_rate: learning rate of the prototypes.
        weight_decay: pulls the prompt towards where it began.
        temperature: of the prototypes' softmax.
        check_every: steps between looks at the validation part.
        patience: looks without gain before it stops.
        seed: of everything.
        most_rows: label rows of a scenario to learn from, by chance; their prefixes stay in memory.
    """

    tokens: int = 6
    steps: int = 120
    batch: int = 128
    learning_rate: float = 1e-2
    prototype_rate: float = 5e-3
    weight_decay: float = 1e-3
    temperature: float = 0.07
    check_every: int = 20
    patience: int = 3
    seed: int = 0
    most_rows: int = 6_000


@dataclass(frozen=True)
class LabelledRequests:
    """Label rows as places in a PrefixBank.

    Args:
        requests: int64 [rows].
        labels: int64 [rows], 0 or 1.
    """

    requests: Int64
    labels: Int64

    def __len__(self) -> int:
        return len(self.requests)


@dataclass(frozen=True)
class TunedPrompt:
    """A scenario's prompt and what it brought.

    Args:
        vectors: float32 [tokens, d_model].
        prototypes: unit vectors float32 [classes, dim].
        metrics: validation AUCs and the course of the tuning; JSON.
    """

    vectors: Tensor
    prototypes: Tensor
    metrics: dict[str, Any]


@dataclass(frozen=True)
class TuneTask:
    """One scenario's question and labels.

    Args:
        scenario: its name.
        question_ids: int64 [tokens], ending in `<|user_emb|>`.
        train: what is learned from.
        valid: what decides when to stop.
    """

    scenario: str
    question_ids: Tensor
    train: LabelledRequests
    valid: LabelledRequests


def tune_prompt(
    task: TuneTask, model: QAnchor, bank: PrefixBank, config: TuneConfig, progress: Progress
) -> TunedPrompt:
    """Tune the prompt of one scenario on its train part, stopping by its valid part.

    Args:
        task: question and labels.
        model: frozen.
        bank: holds the prefixes of the task's requests.
        config: how.
        progress: told of every step.

    Raises:
        LabelsInvalid: the train or valid part has one class only; load labels of both.
    """
    for name, part in (("train", task.train), ("valid", task.valid)):
        if len(np.unique(part.labels)) < CLASSES:
            raise LabelsInvalid(
                f"the {name} part of scenario {task.scenario!r} has labels of one class only",
                "Load labels with both classes in every part.",
            )
    began = time.monotonic()
    tuner = _Tuner(task, model, bank, config)
    tuner.run(progress)
    return tuner.result(round(time.monotonic() - began, 2))


class _Tuner:
    def __init__(self, task: TuneTask, model: QAnchor, bank: PrefixBank, config: TuneConfig) -> None:
        self._scenario, self._question, self._config = task.scenario, task.question_ids, config
        self._model, self._bank = model, bank
        seed = int.from_bytes(hashlib.blake2b(task.scenario.encode(), digest_size=4).digest())
        self._chance = np.random.default_rng([config.seed, seed])
        self._train = self._some(task.train)
        self._valid = task.valid
        base_train = bank.vectors(task.question_ids, None, self._train.requests)
        self._base = base_train, bank.vectors(task.question_ids, None, self._valid.requests)
        self._start = self._initial_prompt()
        self.prompt = nn.Parameter(self._start.clone())
        self.prototypes = nn.Parameter(
            _initial_prototypes(base_train, self._train.labels, config.temperature)
        )
        self._best: tuple[float, int, Tensor, Tensor] = (-1.0, 0, self.prompt, self.prototypes)
        self._losses: list[float] = []
        self._checks: list[tuple[int, float]] = []

    def run(self, progress: Progress) -> None:
        """Steps until the validation part has nothing more to gain."""
        config = self._config
        positive = float(self._train.labels.mean())
        weights = torch.tensor([0.5 / (1 - positive), 0.5 / positive], dtype=torch.float32)
        groups = [
            {"params": [self.prompt], "lr": config.learning_rate},
            {"params": [self.prototypes], "lr": config.prototype_rate},
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
        self._check(0)
        progress.start(f"tuning {self._scenario}", config.steps)
        for step in range(config.steps):
            chosen = self._chance.integers(0, len(self._train), config.batch)
            loss = self._loss(chosen, weights)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            self._losses.append(round(loss.item(), 5))
            progress.advance(1, f"loss {loss.item():.3f} valid AUC {self._best[0]:.4f}")
            if (step + 1) % config.check_every == 0:
                self._check(step + 1)
                if step + 1 - self._best[1] >= config.patience * config.check_every:
                    break

    def result(self, seconds: float) -> TunedPrompt:
        """The best prompt by the validation part, and what a linear probe makes of it and of the base."""
        auc, step, prompt, prototypes = self._best
        tuned = [self._bank.vectors(self._question, prompt, p.requests) for p in (self._train, self._valid)]
        base, new = self._probed(self._base[0], self._base[1]), self._probed(tuned[0], tuned[1])
        return TunedPrompt(
            prompt,
            normalize(prototypes, dim=-1),
            {
                "valid_auc_base_probe": round(base.valid_auc, 4),
                "valid_auc_tuned_probe": round(new.valid_auc, 4),
                "valid_auc_prototypes": round(auc, 4),
                "tokens": len(prompt),
                "best_step": step,
                "valid_auc_by_step": self._checks,
                "steps": len(self._losses),
                "loss": self._losses,
                "train_rows": len(self._train),
                "valid_rows": len(self._valid),
                "train_positives": int(self._train.labels.sum()),
                "seconds": seconds,
            },
        )

    def _probed(self, train: NDArray[np.float32], valid: NDArray[np.float32]) -> LinearProbe:
        return fit_probe(ProbeRows(train, self._train.labels, valid, self._valid.labels))

    def _loss(self, chosen: Int64, weights: Tensor) -> Tensor:
        prefix = self._bank.take(self._train.requests[chosen])
        vectors = self._model.read_out(prefix, Suffix(self._question, self.prompt))
        labels = torch.from_numpy(self._train.labels[chosen])
        loss = prompt_loss(
            vectors, normalize(self.prototypes, dim=-1), labels, self._config.temperature, weights
        )
        moved: Tensor = (self.prompt - self._start).square().sum()
        return loss + self._config.weight_decay * moved

    def _check(self, step: int) -> None:
        prompt, prototypes = self.prompt.detach().clone(), self.prototypes.detach().clone()
        vectors = self._bank.vectors(self._question, prompt, self._valid.requests)
        unit = normalize(prototypes, dim=-1).numpy()
        auc = float(roc_auc(self._valid.labels, vectors @ (unit[1] - unit[0])))
        self._checks.append((step, round(auc, 4)))
        if auc > self._best[0]:
            self._best = (auc, step, prompt, prototypes)

    def _initial_prompt(self) -> Tensor:
        """The question's own vectors, repeated as needed, with a little noise to tell them apart."""
        words = self._model.backbone.embed(self._question[None, :-1])[0].detach().float()
        tokens = self._config.tokens
        noise = torch.from_numpy(self._chance.normal(0.0, 0.02, (tokens, words.shape[1])).astype(np.float32))
        return words.repeat(-(-tokens // max(1, len(words))), 1)[:tokens] + noise

    def _some(self, part: LabelledRequests) -> LabelledRequests:
        if len(part) <= self._config.most_rows:
            return part
        chosen = np.sort(self._chance.permutation(len(part))[: self._config.most_rows])
        return LabelledRequests(part.requests[chosen], part.labels[chosen])


def _initial_prototypes(vectors: NDArray[np.float32], labels: Int64, temperature: float) -> Tensor:
    """Two directions whose difference is the classes' linear discriminant on the base vectors.

    The vectors lie in a narrow cone, where the class means differ less than chance moves them; the
    discriminant starts the tuning from what a linear probe would see.

    Args:
        vectors: unit vectors, [rows, dim].
        labels: int64 [rows].
        temperature: of the softmax, which decides how far apart they begin.

    Returns:
        float32 [classes, dim].
    """
    ones, zeros = vectors[labels == 1].astype(np.float64), vectors[labels == 0].astype(np.float64)
    centre = (ones.mean(0) + zeros.mean(0)) / 2
    within = np.concatenate([ones - ones.mean(0), zeros - zeros.mean(0)])
    spread = within.T @ within / len(within)
    ridge = 0.1 * np.trace(spread) / len(spread) + 1e-9
    axis = np.linalg.solve(spread + ridge * np.eye(len(spread)), ones.mean(0) - zeros.mean(0))
    # Moved along the centre until the point between the classes scores the same for both.
    axis -= centre * (axis @ centre) / (centre @ centre)
    axis *= temperature / max(1e-9, float(np.std(within @ axis)))
    middle = centre / np.linalg.norm(centre)
    return torch.from_numpy(np.stack([middle - axis / 2, middle + axis / 2]).astype(np.float32))
