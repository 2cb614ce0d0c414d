"""Scores without labels: how much nearer a user lies to a scenario's positive answer than to its negative.

Users and answers share a space, but pre-training's answers have a language of their own: words of the log
with how often they come ("takeout many"), "active days few", "amount level9". An answer written by a person
is said in that language first: its words that the log knows, whether it speaks of activity or of spending,
and whether it says so or denies it. What neither holds, such as a motive, is lost; where nothing is left, the
sentences themselves are embedded, which tells little.

Source: arXiv 2602.14492, section 3.2.2 (anchors and answers in one space).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sqlalchemy import select

from qanchor.audience.describe import embed_words, event_words, match_words
from qanchor.audience.index import manifest_vectors
from qanchor.audience.scorers import DirectionScorer
from qanchor.errors import InputError
from qanchor.metrics import roc_auc
from qanchor.model.space import narrowed
from qanchor.names import USER_ID
from qanchor.registry.manifests import active_manifest
from qanchor.registry.session import transaction
from qanchor.registry.tables import ModelVersion
from qanchor.site import Site
from qanchor.storage.vectors import Vectors
from qanchor.workspace import ScenarioSpec, Workspace

if TYPE_CHECKING:
    from qanchor.model.checkpoint import LoadedModel

_ACTIVITY = re.compile(
    r"\b(in)?activ(e|ity)\b|\blog(s|ged)? in\b|\blogins?\b|\b(uses?|using|usage|visits?|visiting)\b"
    r"|\b(churns?|laps(es?|ed)|engage[sd]?)\b"
)
_SPENDING = re.compile(
    r"\b(spends?|spent|spending|spenders?|expensive|costly|premium|luxury|high[- ]value|amounts?)\b"
)
_DENIAL = re.compile(
    r"\b(no|not|never|none|nothing|few|fewer|little|less|rarely|seldom|hardly|without|inactive)\b"
    r"|\b(stops?|stopped|quits?|ignores?|leaves?|churns?|laps(es?|ed)|avoids?)\b"
)
# Levels of the answers that pre-training learns from; see qanchor.training.useru.answers.
_DAYS_OFTEN, _DAYS_SELDOM = ("lots", "masses"), ("nothing", "one", "two")
_AMOUNTS_HIGH, _AMOUNTS_LOW = ("level8", "level9"), ("level0", "level1")


@dataclass(frozen=True)
class Statement:
    """What an answer in words says, as far as it can be said in the answers' language.

    Args:
        words: of the log.
        activity: it speaks of how often the user comes.
        spending: it speaks of how much the user spends.
        denied: it says that there is little of all this.
    """

    words: tuple[str, ...]
    activity: bool
    spending: bool
    denied: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the answer can be said."""
        return not (self.words or self.activity or self.spending)


@dataclass(frozen=True)
class WordScorer:
    """Ranks users by a scenario's words alone.

    Args:
        scenario: its name.
        positive: what was understood of the positive answer.
        negative: what was understood of the negative one.
        direction: unit vector float32 [1, width]; the score is a vector's inner product with it.
    """

    scenario: str
    positive: Statement
    negative: Statement
    direction: Vectors

    def score(self, vectors: Vectors) -> NDArray[np.float32]:
        """In [-1, 1], higher the likelier, float32 [rows]; it ranks users and is no probability.

        Args:
            vectors: unit vectors of the scenario's space, float32 [rows, width]; narrower ones than the
                model's meet the first numbers of the direction.
        """
        return DirectionScorer(narrowed(self.direction, vectors.shape[1])).score(vectors)

    def auc(self, vectors: Vectors, labels: NDArray[np.int64]) -> float:
        """How well the words rank labelled users, to stand beside what was learned from labels.

        Args:
            vectors: unit vectors of the scenario's space, float32 [rows, width].
            labels: 0 or 1, [rows].

        Raises:
            LabelsInvalid: there is one class only.
        """
        return float(roc_auc(labels, self.score(vectors)))


@dataclass(frozen=True)
class WordScores:
    """Users scored by words alone.

    Args:
        table: user_id and score, best first.
        scorer: what scored them.
        is_tuned: the users were read with a soft prompt, which no words were aligned with.
        without_vector: users asked for who have no vector, and so no score.
    """

    table: pa.Table
    scorer: WordScorer
    is_tuned: bool
    without_vector: int


def understand(text: str, vocabulary: Mapping[str, int]) -> Statement:
    """What an answer says in the answers' language.

    Args:
        text: in words.
        vocabulary: words of the log with how common they are.
    """
    lower = text.lower()
    return Statement(
        match_words(text, vocabulary),
        bool(_ACTIVITY.search(lower)),
        bool(_SPENDING.search(lower)),
        bool(_DENIAL.search(lower)),
    )


def read_answers(
    loaded: "LoadedModel", workspace: Workspace, scenario: str, vocabulary: Mapping[str, int]
) -> WordScorer:
    """The direction from a scenario's negative answer to its positive one.

    Args:
        loaded: the model that reads the users.
        workspace: names the scenario and the modalities.
        scenario: its name.
        vocabulary: words of the log with how common they are.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        InputError: it has no answers in words, or more than two of them.
    """
    spec = workspace.scenario(scenario)
    _check_words(scenario, spec)
    positive, negative = (understand(text, vocabulary) for text in (spec.positive, spec.negative))
    if positive.is_empty:
        # The question says what the answer leaves out: "yes, the user does".
        asked = understand(spec.query, vocabulary)
        positive = Statement(asked.words, asked.activity, asked.spending, positive.denied)
    parts = _directions(loaded, workspace, positive)
    if not parts:
        parts = [_embedded(loaded, [spec.positive]) - _embedded(loaded, [spec.negative])]
    # What both answers speak of is the positive one's; what only the negative says counts against it.
    own = Statement(
        tuple(w for w in negative.words if w not in positive.words), False, False, negative.denied
    )
    parts += [-part for part in _directions(loaded, workspace, own)]
    direction = np.sum([_unit(part) for part in parts], axis=0)
    return WordScorer(scenario, positive, negative, _unit(direction).astype(np.float32)[None])


def score_by_words(site: Site, scenario: str, users: Sequence[str] | None = None) -> WordScores:
    """Score users who have a vector of a scenario by its words alone.

    Args:
        site: model, event log, offline store, registry and workspace.
        scenario: name of the scenario.
        users: ids of the users to score; None: everybody with a vector.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        InputError: it has no answers in words, or none of the users has a vector.
        NotReady: there are no embeddings of it yet; run `qanchor-cli backfill --scenario`.
        CheckpointInvalid: the model is gone or damaged.
    """
    _check_words(scenario, site.workspace.scenario(scenario))
    manifest = active_manifest(site.engine, scenario)
    from qanchor.model.checkpoint import load_model

    with transaction(site.engine) as session:
        path = session.scalars(
            select(ModelVersion.path).where(ModelVersion.version == manifest.model_version)
        ).one()
    loaded = load_model(site.home.root / path, "cpu", "float32")
    scorer = read_answers(loaded, site.workspace, scenario, event_words(site.event_log))
    current = manifest_vectors(site, manifest)
    table = pa.table({USER_ID: current.users, "score": scorer.score(current.vectors)})
    if users is not None:
        table = table.filter(pc.is_in(table[USER_ID], pa.array(set(users), pa.string())))
    if not table.num_rows:
        raise InputError(
            f"none of the {len(users or ()):,} users has a vector of {scenario!r}",
            f"Correct their ids, or run `qanchor-cli backfill --scenario {scenario}`.",
        )
    best = table.sort_by([("score", "descending"), (USER_ID, "ascending")])
    without = len(set(users)) - table.num_rows if users is not None else 0
    return WordScores(best, scorer, manifest.prompt_version is not None, without)


def _check_words(scenario: str, spec: ScenarioSpec) -> None:
    if len(spec.answers) > 2:
        raise InputError(
            f"scenario {scenario!r} has {len(spec.answers)} answers, and words tell two apart",
            "Make a scenario of each class, with a positive and a negative answer.",
        )
    if not spec.has_words:
        raise InputError(
            f"scenario {scenario!r} has no answers in words",
            "Give it `positive:` and `negative:` in scenarios.yaml, or load labels.",
        )


def _directions(loaded: "LoadedModel", workspace: Workspace, said: Statement) -> list[NDArray[np.float64]]:
    """A direction for each thing that a statement speaks of, towards what it says, [width] each."""
    parts = []
    if said.words:
        parts.append(embed_words(loaded, workspace, "", said.words)[0].astype(np.float64))
    if said.activity:
        parts.append(_apart(loaded, ["active days"], _DAYS_OFTEN, _DAYS_SELDOM))
    if said.spending:
        priced = {name: spec.amount for name, spec in workspace.modalities.items() if spec.amount}
        amounts = sorted({amount.replace("_", " ") for amount in priced.values()})
        if amounts:
            parts.append(_apart(loaded, amounts, _AMOUNTS_HIGH, _AMOUNTS_LOW))
            # How much in all is how much at a time and how often.
            often = [name.replace("_", " ") for name in priced]
            parts.append(_apart(loaded, often, _DAYS_OFTEN, _DAYS_SELDOM))
    return [-part for part in parts] if said.denied else parts


def _apart(
    loaded: "LoadedModel", things: list[str], much: tuple[str, ...], little: tuple[str, ...]
) -> NDArray[np.float64]:
    """From little of some things to much of them, [width]."""
    more, less = ([f"{thing} {level}" for thing in things for level in some] for some in (much, little))
    return _embedded(loaded, more) - _embedded(loaded, less)


def _embedded(loaded: "LoadedModel", answers: list[str]) -> NDArray[np.float64]:
    """The mean vector of some answers, [width]."""
    import torch

    with torch.inference_mode():
        ids = loaded.tokenizer.encode_answers(answers).to(loaded.runtime.device)
        vectors: NDArray[np.float32] = loaded.model.encode_answers(ids).cpu().numpy()
    mean: NDArray[np.float64] = vectors.mean(axis=0, dtype=np.float64)
    return mean


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit
