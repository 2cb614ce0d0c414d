"""A head on disk: LightGBM's text, a JSON card that describes the head, its scored rows and its frame."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from qanchor.errors import CheckpointInvalid
from qanchor.files import atomic_folder, checked_file, file_hash
from qanchor.heads.calibrate import Calibration
from qanchor.heads.fit import Boosters, FitOptions
from qanchor.heads.frame import HeadFrame, stored_frame
from qanchor.heads.spec import FeatureSpec, Group

FORMAT = 2
CARD_FILE, SCORES_FILE, FRAME_FILE = "card.json", "scores.parquet", "frame.parquet"
_LIBRARIES = ("lightgbm", "numpy", "scikit-learn", "qanchor")


def booster_file(number: int) -> str:
    """File name of a booster."""
    return f"booster_{number}.txt"


class SplitCard(BaseModel, extra="forbid", frozen=True):
    """How the rows were divided; see `qanchor.heads.split.Division`."""

    by: str
    begins: dict[str, str]
    left_out: dict[str, int]


class HeadCard(BaseModel, extra="forbid", frozen=True):
    """What a head was fitted on and how well it does.

    `metrics` holds one dictionary each for `head`, `probe` (linear, on the embedding alone) and `aggregates`
    (the best head on activity and profile alone), all on the test rows; the last two may be absent.
    `segments` holds the head's figures by value of each categorical profile feature. `importance` holds mean
    absolute contributions to the raw score, by `groups` and `features`, over test rows. `unseen` counts
    category values of valid and test rows that training did not have. `scores_hash` is empty in cards of
    earlier versions: their scores are not checked. `stale` counts by view the label rows whose features are
    more than a day older than the label's time.
    """

    format: int
    scenario: str
    version: str
    created_at: datetime
    fingerprint: str
    model_version: str | None
    prompt_version: str | None
    groups: tuple[Group, ...]
    width: int
    numbers: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    calibration: Calibration
    options: FitOptions
    parameters: dict[str, Any]
    rounds: tuple[int, ...]
    tried: int
    valid_auc: float
    test_fold: int | None
    split: SplitCard
    labels_hash: str
    frame_hash: str
    rows: dict[str, int]
    without_embedding: int
    constant: tuple[str, ...]
    unseen: dict[str, dict[str, int]]
    metrics: dict[str, dict[str, float]]
    segments: list[dict[str, Any]]
    importance: dict[str, dict[str, float]]
    booster_hashes: tuple[str, ...]
    libraries: dict[str, str]
    scores_hash: str = ""
    stale: dict[str, int] = {}

    @property
    def spec(self) -> FeatureSpec:
        """The columns that the head reads."""
        return FeatureSpec(self.scenario, self.width, self.numbers, self.categories)


@dataclass(frozen=True)
class HeadFiles:
    """The other files of a head.

    Args:
        boosters: LightGBM's boosters.
        scores: label rows with the scores of the head and its baselines.
        frame: rows and features that the head was fitted and tested on.
    """

    boosters: Boosters
    scores: pa.Table
    frame: HeadFrame


def libraries() -> dict[str, str]:
    """Versions of the libraries that a head depends on."""
    return {name: library_version(name) for name in _LIBRARIES}


def text_hash(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_head(folder: Path, card: HeadCard, files: HeadFiles) -> tuple[HeadCard, str]:
    """Write a head's folder in one step: it is whole or absent.

    Args:
        folder: `heads/SCENARIO/VERSION`; must not exist.
        card: card without hashes.
        files: boosters, scores and frame.

    Returns:
        The card with its hashes, and SHA-256 of its file, for the registry.

    Raises:
        DiskFull: no space is left; free some.
    """
    texts = files.boosters.texts
    with atomic_folder(folder) as staged:
        for number, text in enumerate(texts):
            (staged / booster_file(number)).write_text(text, encoding="utf-8")
        frame_hash = files.frame.write(staged / FRAME_FILE)
        pq.write_table(files.scores, staged / SCORES_FILE)
        hashes = {
            "booster_hashes": tuple(text_hash(text) for text in texts),
            "frame_hash": frame_hash,
            "scores_hash": file_hash(staged / SCORES_FILE),
        }
        card = card.model_copy(update=hashes)
        content = card.model_dump_json(indent=2)
        (staged / CARD_FILE).write_text(content, encoding="utf-8")
    return card, text_hash(content)


def _remedy(folder: Path) -> str:
    return f"Run `qanchor-cli head train --scenario {folder.parent.name}` again."


def read_card(folder: Path, card_hash: str) -> HeadCard:
    """A head's card as it was written.

    Args:
        folder: folder of the head.
        card_hash: hash in the registry.

    Raises:
        CheckpointInvalid: it is missing, was edited or has another format; train the head again.
    """
    path = checked_file(folder / CARD_FILE, card_hash, _remedy(folder))
    content = path.read_text(encoding="utf-8")
    written = json.loads(content).get("format")
    if written != FORMAT:
        raise CheckpointInvalid(
            f"head {folder} has format {written}, this version reads {FORMAT}", _remedy(folder)
        )
    try:
        return HeadCard.model_validate_json(content)
    except ValidationError as error:
        raise CheckpointInvalid(f"{path}: {error.errors()[0]['msg']}", _remedy(folder)) from error


def read_boosters(folder: Path, card: HeadCard) -> Boosters:
    """A head's boosters as they were written.

    Raises:
        CheckpointInvalid: a file is missing, was edited or cannot be read; train the head again.
    """
    paths = [
        checked_file(folder / booster_file(number), expected, _remedy(folder))
        for number, expected in enumerate(card.booster_hashes)
    ]
    try:
        return Boosters.from_texts([path.read_text(encoding="utf-8") for path in paths])
    except ValueError as error:
        raise CheckpointInvalid(
            f"the boosters of {folder} cannot be read: {error}", _remedy(folder)
        ) from error


def read_scores(folder: Path, card: HeadCard) -> pa.Table:
    """user_id, as_of, label, part and the scores of head, probe and aggregates (null where there was none).

    Raises:
        CheckpointInvalid: the file is missing or was edited; train the head again.
    """
    path = folder / SCORES_FILE
    if card.scores_hash:
        checked_file(path, card.scores_hash, _remedy(folder))
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise CheckpointInvalid(f"{path} cannot be read: {error}", _remedy(folder)) from error


def read_stored_frame(folder: Path, card: HeadCard) -> HeadFrame:
    """The frame that a head was fitted and tested on.

    Raises:
        CheckpointInvalid: the file is missing or was edited; train the head again.
    """
    return stored_frame(card.scenario, folder / FRAME_FILE, card.frame_hash)
