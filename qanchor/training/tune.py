"""Soft-prompt tuning: a few vectors and class prototypes for each scenario, everything else frozen.

Source: arXiv 2602.14492, section 3.2.3 and Eq. 7.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from qanchor.errors import LabelsInvalid
from qanchor.events.history import Int64
from qanchor.linear_probe import ProbeRows
from qanchor.model.qanchor import QAnchor, Suffix
from qanchor.model.space import narrowed
from qanchor.progress import Progress
from qanchor.training.losses import at_widths, prompt_loss
from qanchor.training.prefixes import PrefixBank
from qanchor.training.tune_objective import (
    class_auc,
    even_chances,
    geometry_loss,
    initial_prototypes,
    probe_auc,
    spread_of,
)


@dataclass(frozen=True)
class TuneConfig:
    """How to tune.

    Args:
        tokens: soft prompt vectors.
        steps: most optimiser steps.
        batch: users in a step, equally many of each class.
        learning_rate: learning rate of the prompt.
        prototype_rate: learning rate of the prototypes.
        weight_decay: pulls the prompt towards where it began.
        geometry_weight: weight of the loss that keeps the base embedding's geometry.
        temperature: temperature of the prototypes' softmax.
        check_every: steps between checks on the validation part.
        patience: checks without gain before it stops.
        seed: seed of all randomness.
        most_rows: most label rows of a scenario to learn from; their prefixes stay in memory.
    """

    tokens: int = 6
    steps: int = 500
    batch: int = 128
    learning_rate: float = 1e-2
    prototype_rate: float = 5e-3
    weight_decay: float = 1e-3
    geometry_weight: float = 1.0
    temperature: float = 0.07
    check_every: int = 20
    patience: int = 3
    seed: int = 0
    most_rows: int = 6_000


@dataclass(frozen=True)
class LabelledRequests:
    """Label rows as requests of a PrefixBank.

    Args:
        requests: int64 [rows].
        labels: class of each row, int64 [rows], from 0 on.
    """

    requests: Int64
    labels: Int64

    def __len__(self) -> int:
        return len(self.requests)


@dataclass(frozen=True)
class TunedPrompt:
    """A scenario's prompt and its figures.

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
    """One scenario's query and labels.

    Args:
        scenario: name of the scenario.
        query_ids: int64 [tokens], ending in `<|user_emb|>`.
        train: rows to learn from.
        valid: rows that decide when to stop.
        classes: number of classes.
    """

    scenario: str
    query_ids: Tensor
    train: LabelledRequests
    valid: LabelledRequests
    classes: int = 2


def tune_prompt(
    task: TuneTask, model: QAnchor, bank: PrefixBank, config: TuneConfig, progress: Progress
) -> TunedPrompt:
    """Tune the prompt of one scenario on its train part, stopping by its valid part.

    Args:
        task: query and labels.
        model: frozen.
        bank: holds the prefixes of the task's requests.
        config: how to tune.
        progress: counts the steps.

    Raises:
        LabelsInvalid: the train or valid part lacks a class; load labels of every class.
    """
    check_classes(task)
    began = time.monotonic()
    tuner = _Tuner(task, model, bank, config)
    tuner.run(progress)
    return tuner.result(round(time.monotonic() - began, 2))


def check_classes(task: TuneTask) -> None:
    """Refuse a task whose train or valid part lacks a class.

    Raises:
        LabelsInvalid: a class is missing; the message names part and class.
    """
    for name, part in (("train", task.train), ("valid", task.valid)):
        counts = np.bincount(part.labels, minlength=task.classes)
        if not counts.all():
            raise LabelsInvalid(
                f"the {name} part of scenario {task.scenario!r} has no row with label {counts.argmin()}",
                "Load labels of every class in every part, or name another --test-fold.",
            )


@dataclass(frozen=True)
class _Best:
    """The prompt that ranked the validation part best so far."""

    auc: float
    step: int
    prompt: Tensor
    prototypes: Tensor


class _Tuner:
    def __init__(self, task: TuneTask, model: QAnchor, bank: PrefixBank, config: TuneConfig) -> None:
        self._task, self._query_ids, self._config = task, task.query_ids, config
        self._model, self._bank = model, bank
        seed = int.from_bytes(hashlib.blake2b(task.scenario.encode(), digest_size=4).digest())
        self._chance = np.random.default_rng([config.seed, seed])
        parts = [bank.vectors(task.query_ids, None, p.requests) for p in (task.train, task.valid)]
        self._base = parts[0], parts[1]
        self._start = self._initial_prompt()
        self.prompt = nn.Parameter(self._start.clone())
        self.prototypes = nn.Parameter(
            initial_prototypes(parts[0], task.train.labels, task.classes, config.temperature)
        )
        self._best = _Best(-1.0, 0, self.prompt, self.prototypes)
        self._losses: list[float] = []
        self._checks: list[tuple[int, float]] = []

    def run(self, progress: Progress) -> None:
        """Steps until the validation part gains no more."""
        config, train = self._config, self._task.train
        groups = [
            {"params": [self.prompt], "lr": config.learning_rate},
            {"params": [self.prototypes], "lr": config.prototype_rate},
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
        chances = even_chances(train.labels)
        self._check(0)
        progress.start(f"tuning {self._task.scenario}", config.steps)
        for step in range(config.steps):
            loss = self._loss(self._chance.choice(len(train), config.batch, p=chances))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            self._losses.append(round(loss.item(), 5))
            progress.advance(1, f"loss {loss.item():.3f} valid AUC {self._best.auc:.4f}")
            if (step + 1) % config.check_every == 0:
                self._check(step + 1)
                if step + 1 - self._best.step >= config.patience * config.check_every:
                    break

    def result(self, seconds: float) -> TunedPrompt:
        """The best prompt by the validation part, and the areas of linear probes on it and on the base."""
        prompt = self._best.prompt
        train, valid = self._task.train, self._task.valid
        tuned = [self._bank.vectors(self._query_ids, prompt, part.requests) for part in (train, valid)]
        widths = self._model.config.widths
        probes = [self._probed(vectors, widths[-1]) for vectors in (self._base, tuned)]
        return TunedPrompt(
            prompt,
            normalize(self._best.prototypes, dim=-1),
            {
                "valid_auc_base_probe": round(probes[0], 4),
                "valid_auc_tuned_probe": round(probes[1], 4),
                "valid_auc_prototypes": round(self._best.auc, 4),
                **{f"valid_auc_width_{width}": round(self._probed(tuned, width), 4) for width in widths[:-1]},
                "tokens": len(prompt),
                "classes": self._task.classes,
                "best_step": self._best.step,
                "valid_auc_by_step": self._checks,
                "steps": len(self._losses),
                "loss": self._losses,
                "spread_base": spread_of(self._base[1]),
                "spread_tuned": spread_of(tuned[1]),
                "train_rows": len(train),
                "valid_rows": len(valid),
                "train_positives": int(np.count_nonzero(train.labels)),
                "seconds": seconds,
            },
        )

    def _probed(self, vectors: Sequence[NDArray[np.float32]], width: int) -> float:
        """The area of a linear probe on the first numbers of the train and valid part's vectors."""
        train, valid = (narrowed(some, width) for some in vectors)
        return probe_auc(ProbeRows(train, self._task.train.labels, valid, self._task.valid.labels))

    def _loss(self, chosen: Int64) -> Tensor:
        config, train = self._config, self._task.train
        # As a block of one suffix, whose part that no prefix reaches is computed once for all users.
        block = self._model.suffix_block([Suffix(self._query_ids, self.prompt)])
        vectors = self._model.read_out_block(self._bank.take(train.requests[chosen]), block)[0]
        labels = torch.from_numpy(train.labels[chosen])
        prototypes = normalize(self.prototypes, dim=-1)
        # A scenario may be served at any width that the model was trained for.
        widths = self._model.config.nested_widths
        cut = zip(at_widths(vectors, widths), at_widths(prototypes, widths), strict=True)
        loss = torch.stack([prompt_loss(*some, labels, config.temperature) for some in cut]).mean()
        loss = loss + config.weight_decay * (self.prompt - self._start).square().sum()
        if config.geometry_weight > 0:
            base = torch.from_numpy(self._base[0][chosen])
            loss = loss + config.geometry_weight * geometry_loss(vectors, base)
        return loss

    def _check(self, step: int) -> None:
        prompt, prototypes = self.prompt.detach().clone(), self.prototypes.detach().clone()
        vectors = self._bank.vectors(self._query_ids, prompt, self._task.valid.requests)
        auc = class_auc(self._task.valid.labels, vectors @ normalize(prototypes, dim=-1).numpy().T)
        self._checks.append((step, round(auc, 4)))
        if auc > self._best.auc:
            self._best = _Best(auc, step, prompt, prototypes)

    def _initial_prompt(self) -> Tensor:
        """The vectors of the query's tokens, repeated as needed, with a little noise to make them differ."""
        words = self._model.backbone.embed(self._query_ids[None, :-1])[0].detach().float()
        tokens = self._config.tokens
        noise = torch.from_numpy(self._chance.normal(0.0, 0.02, (tokens, words.shape[1])).astype(np.float32))
        return words.repeat(-(-tokens // max(1, len(words))), 1)[:tokens] + noise
