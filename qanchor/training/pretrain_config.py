"""How to pre-train."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from qanchor.model.config import Pooling
from qanchor.training.losses import Form
from qanchor.training.useru.pairs import UserUConfig


@dataclass(frozen=True)
class PretrainConfig:
    """How to pre-train.

    Args:
        preset: preset of the model: tiny, small or paper.
        steps: optimiser steps.
        minutes: train for this time instead, the preparation of batches included; planned by a trial, and
            again on the way. Reading events and making pairs come on top.
        points: users at a cut-off in a batch, with `useru.questions` questions each.
        learning_rate: peak learning rate.
        warm_up: share of the steps in which the learning rate rises.
        weight_decay: weight decay of AdamW.
        clip: largest norm of the gradient.
        temperature: temperature of the contrastive loss.
        margin: margin of the contrastive loss.
        margin_from: share of the steps before which no negative is left out. At the beginning all
            vectors are alike: the mask would leave out every negative, and no term would push them apart.
        form: form of the contrastive loss.
        contrastive_weight: weight of L_cl. It makes texts find users, and costs accuracy of a linear probe.
        next_token_weight: weight of L_ntp.
        summary_weight: weight of the summary loss, which predicts the span's counts from the embedding.
        next_token_questions: how many of a point's questions carry L_ntp.
        event_dropout: share of events left out of a training history.
        aggregate_dropout: share of hidden aggregates of a training history.
        grad_cache: points computed at a time, to the same result; 0: all of a process's share.
        checkpointing: whether the backward pass computes layers again instead of keeping their activations.
        backbone: name or folder of a pre-trained decoder; empty: the preset's.
        text_encoder: name or folder of a pre-trained encoder of event texts; empty: the preset's.
        text_pooling: pooling of a pre-trained text encoder.
        user_token: whether the prefix begins with a token of the whole user.
        modality_tokens: whether the prefix has a token of each modality.
        widths: nested widths: the losses are averaged over these first numbers of every vector, too, which
            can then be served alone; empty: the whole vector only.
        seed: seed of all randomness.
        save_every: steps between saved states of an unfinished run.
        useru: configuration of pairs that are made on the fly.
        pairs: folder of a built set of pairs; empty: they are made on the fly.
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
    contrastive_weight: float = 0.2
    next_token_weight: float = 1.0
    summary_weight: float = 3.0
    next_token_questions: int = 1
    event_dropout: float = 0.15
    aggregate_dropout: float = 0.2
    grad_cache: int = 0
    checkpointing: bool = False
    backbone: str = ""
    text_encoder: str = ""
    text_pooling: Pooling = "cls"
    user_token: bool = True
    modality_tokens: bool = True
    widths: tuple[int, ...] = ()
    seed: int = 0
    save_every: int = 100
    useru: UserUConfig = field(default_factory=UserUConfig)
    pairs: str = ""

    def identity(self) -> dict[str, Any]:
        """The fields that decide the result, without the learning rate; JSON."""
        # These change how a step is computed, not what it computes.
        without = {"learning_rate", "grad_cache", "checkpointing", "save_every"}
        return {name: value for name, value in asdict(self).items() if name not in without}

    def differences(self) -> dict[str, Any]:
        """The preset, the seed and what differs from the preset's settings; JSON."""
        usual = asdict(settings_of(self.preset))
        changed = {name: value for name, value in asdict(self).items() if value != usual[name]}
        return {"preset": self.preset, "seed": self.seed, **changed}


def settings_of(preset: str, **changes: Any) -> PretrainConfig:
    """How to pre-train a preset: `paper` as its authors do, the others for minutes on a CPU.

    Args:
        preset: tiny, small or paper.
        **changes: fields of PretrainConfig with other values.

    The margin mask sets in when the learning rate has warmed up: before, all vectors are alike.

    Source: arXiv 2602.14492, section 4: AdamW, 2e-4, decay 1e-5, 2,000 of 50,000 steps to warm up, clip 1.0,
        2,048 pairs in a batch.
    """
    return replace(_PAPER if preset == "paper" else PretrainConfig(), preset=preset, **changes)


_QUESTIONS = UserUConfig.questions
_PAPER = PretrainConfig(
    steps=50_000,
    points=2_048 // _QUESTIONS,
    learning_rate=2e-4,
    warm_up=2_000 / 50_000,
    weight_decay=1e-5,
    margin_from=2_000 / 50_000,
    contrastive_weight=1.0,
    summary_weight=0.0,
    next_token_questions=_QUESTIONS,
    event_dropout=0.0,
    aggregate_dropout=0.0,
    grad_cache=16,
    checkpointing=True,
)
