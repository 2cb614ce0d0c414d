"""A head on disk: LightGBM's own text, a JSON card that says what it is, and its scored label rows."""

import hashlib
import json
import os
import shutil
from datetime import datetime
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from qanchor.errors import CheckpointInvalid

FORMAT = 1
BOOSTER_FILE, CARD_FILE, SCORES_FILE = "booster.txt", "card.json", "scores.parquet"
_LIBRARIES = ("lightgbm", "numpy", "scikit-learn", "qanchor")


class HeadCard(BaseModel, extra="forbid", frozen=True):
    """What a head was fitted on and how well it does.

    `metrics` holds one dictionary each for `head`, `probe` (linear, on the embedding alone) and `aggregates`
    (the best head on activity and profile alone), all on the test rows; the last two may be absent.
    """

    format: int
    scenario: str
    version: str
    created_at: datetime
    fingerprint: str
    model_version: str | None
    prompt_version: str | None
    groups: tuple[str, ...]
    width: int
    numbers: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    slope: float
    intercept: float
    parameters: dict[str, Any]
    rounds: int
    test_fold: int | None
    labels_hash: str
    rows: dict[str, int]
    without_embedding: int
    metrics: dict[str, dict[str, float]]
    booster_hash: str
    libraries: dict[str, str]


def libraries() -> dict[str, str]:
    """The versions a head depends on."""
    return {name: library_version(name) for name in _LIBRARIES}


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_head(folder: Path, card: HeadCard, booster: str, scores: pa.Table) -> str:
    """Write a head's folder in one step: it is whole or absent.

    Args:
        folder: `heads/SCENARIO/VERSION`; must not exist.
        card: its `booster_hash` is of `booster`.
        booster: LightGBM's text.
        scores: the label rows with what the head and its baselines say of them.

    Returns:
        SHA-256 of the card, for the registry.
    """
    staged = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    staged.mkdir(parents=True)
    try:
        (staged / BOOSTER_FILE).write_text(booster, encoding="utf-8")
        (staged / CARD_FILE).write_text(card.model_dump_json(indent=2), encoding="utf-8")
        pq.write_table(scores, staged / SCORES_FILE)
        for path in staged.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return file_hash(folder / CARD_FILE)


def booster_hash(text: str) -> str:
    """SHA-256 of a booster's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_head(folder: Path, card_hash: str) -> tuple[HeadCard, str]:
    """A head's card and booster text, both as they were written.

    Args:
        folder: of the head.
        card_hash: what the registry recorded.

    Raises:
        CheckpointInvalid: a file is missing, was edited or has another format; train the head again.
    """
    remedy = f"Run `qanchor-cli head train --scenario {folder.parent.name}` again."
    try:
        content = (folder / CARD_FILE).read_bytes()
        booster = (folder / BOOSTER_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointInvalid(f"head {folder} cannot be read: {error}", remedy) from error
    if hashlib.sha256(content).hexdigest() != card_hash:
        raise CheckpointInvalid(f"{folder / CARD_FILE} was changed since it was written", remedy)
    written = json.loads(content).get("format")
    if written != FORMAT:
        raise CheckpointInvalid(f"head {folder} has format {written}, this version reads {FORMAT}", remedy)
    try:
        card = HeadCard.model_validate_json(content)
    except ValidationError as error:
        raise CheckpointInvalid(f"{folder / CARD_FILE}: {error.errors()[0]['msg']}", remedy) from error
    if booster_hash(booster) != card.booster_hash:
        raise CheckpointInvalid(f"{folder / BOOSTER_FILE} was changed since it was written", remedy)
    return card, booster


def read_scores(folder: Path) -> pa.Table:
    """user_id, as_of, label, part and the scores of head, probe and aggregates (null where there was none).

    Raises:
        CheckpointInvalid: the file is missing or damaged; train the head again.
    """
    try:
        return pq.read_table(folder / SCORES_FILE)
    except (OSError, pa.ArrowInvalid) as error:
        raise CheckpointInvalid(
            f"{folder / SCORES_FILE} cannot be read: {error}",
            f"Run `qanchor-cli head train --scenario {folder.parent.name}` again.",
        ) from error
