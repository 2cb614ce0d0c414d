"""How to pre-train."""

from dataclasses import dataclass, field

from qanchor.training.losses import Form
from qanchor.training.useru.pairs import UserUConfig


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
