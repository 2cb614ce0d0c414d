"""Tiny workspaces and event tables for the training tests."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from qanchor.events.history import arrays_from_table
from qanchor.model.batch import EventDropout
from qanchor.model.build import build_model, make_tokenizer
from qanchor.model.config import BackboneConfig, ModelConfig, TextEncoderConfig, preset_config
from qanchor.model.features import Normaliser
from qanchor.model.qanchor import QAnchor
from qanchor.times import to_microseconds
from qanchor.training.batches import BatchBuilder, PairBatch, points_of_step
from qanchor.training.initial_weights import widen_fresh_weights
from qanchor.training.useru.pairs import UserUConfig, build_pairs
from qanchor.training.useru.points import visible_events
from qanchor.workspace import FieldSpec, ModalitySpec, ScenarioSpec, Workspace

START = datetime(2026, 1, 1, tzinfo=UTC)
UNTIL = START + timedelta(days=80)


def tiny_workspace() -> Workspace:
    """Two modalities with odd names and two scenarios."""
    text, number = FieldSpec(type="text"), FieldSpec(type="number", amount=True, optional=True)
    modalities = {
        "ferry_trips": ModalitySpec(
            text="{port} by {ship}", fields={"port": text, "ship": text, "fare": number}, max_events=12
        ),
        "songs": ModalitySpec(text="{title}", fields={"title": text}, max_events=6),
    }
    scenarios = {
        "sails": ScenarioSpec(domain="marketing", query="Will this user sail to Oslo soon?", horizon_days=14),
        "sings": ScenarioSpec(
            domain="engagement", query="Will this user hear a ballad again?", horizon_days=14
        ),
    }
    return Workspace(Path("tiny"), 60, modalities, scenarios)


def tiny_events(users: int = 24, days: int = 100, seed: int = 0, per_day: float = 0.4) -> pd.DataFrame:
    """Events of both modalities over `days`; about half the users sail to Oslo, the others to Kiel."""
    rng = np.random.default_rng(seed)
    count = int(users * days * per_day)
    user = rng.integers(0, users, count)
    sails = rng.random(count) < 0.5
    port = np.where((user % 2 == 0) ^ (rng.random(count) < 0.1), "Oslo", "Kiel")
    seconds = rng.integers(0, days * 86_400, count)
    table = pd.DataFrame(
        {
            "user_id": [f"u{i:03d}" for i in user],
            "event_time": [START + timedelta(seconds=int(s)) for s in seconds],
            "modality": np.where(sails, "ferry_trips", "songs"),
            "port": port,
            "ship": rng.choice(["Anna", "Berta"], count),
            "fare": rng.gamma(2.0, 20.0, count),
            "title": rng.choice(["slow ballad", "march", "waltz"], count),
        }
    )
    table.loc[~sails, ["port", "ship", "fare"]] = None
    table.loc[sails, "title"] = None
    return table


def planted_leak(events: pd.DataFrame, moment: datetime) -> pd.DataFrame:
    """The events, and at and after `moment` a flood of new words and of a user that sorts first."""
    rows = [
        {
            "user_id": user,
            "event_time": moment + timedelta(hours=hours),
            "modality": "songs",
            "title": "aaa perfect predictor",
        }
        for user in ["a_new_user", *sorted(set(events["user_id"]))]
        for hours in (0, 1, 30)
    ]
    return pd.concat([pd.DataFrame(rows), events], ignore_index=True)


def tiny_config(workspace: Workspace) -> ModelConfig:
    """A model of a few thousand weights."""
    return preset_config(
        "tiny",
        workspace,
        backbone=BackboneConfig(width=16, layers=2, heads=2, key_value_heads=1, feed_forward=24),
        text_encoder=TextEncoderConfig(width=16),
        vocabulary=400,
        projection_width=24,
        embedding_width=12,
    )


def tiny_trainee(useru: UserUConfig, points: int = 8) -> tuple[QAnchor, BatchBuilder, PairBatch]:
    """A fresh model, its batches, and one of them with events left out at random."""
    workspace = tiny_workspace()
    arrays = visible_events(arrays_from_table(tiny_events(), workspace), to_microseconds(UNTIL), frozenset())
    pairs = build_pairs(arrays, workspace, to_microseconds(UNTIL), useru, 0)
    config = tiny_config(workspace)
    tokenizer = make_tokenizer(config, [*arrays.texts, *pairs.questions, *pairs.phrases])
    normaliser = Normaliser.fit(arrays, workspace.modalities)
    builder = BatchBuilder(arrays, workspace, pairs, tokenizer, normaliser, config)
    model = build_model(config, tokenizer)
    widen_fresh_weights(model.backbone, 0)
    dropout = EventDropout(0.3, np.random.default_rng(0))
    return model, builder, builder.build(points_of_step(pairs, points, 0, 0), dropout)
