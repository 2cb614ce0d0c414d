"""Scores without labels: how much closer a user is to a scenario's positive answer than to its negative one.

Users and answers share a space, but pre-training's answers have a language of their own: words of the log
with how often they come ("takeout many"), "active days few", "amount level9". An answer written by a person
is put into that language first: its words that the log knows, whether it is about activity or spending, and
whether it affirms or denies them. Anything else, such as a motive, is lost; where nothing is left, the
sentences themselves are embedded, which tells little.

Source: arXiv 2602.14492, section 3.2.2 (anchors and answers in one space).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qanchor.audience.describe import embed_words, event_words, manifest_model, match_words
from qanchor.audience.index import manifest_vectors
from qanchor.audience.scorers import DirectionScorer
from qanchor.errors import InputError
from qanchor.metrics import roc_auc
from qanchor.model.space import narrowed
from qanchor.names import USER_ID
from qanchor.registry.manifests import active_manifest
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
    """An answer in words, put into the language of pre-training's answers.

    Args:
        words: words of the log that it names.
        activity: whether it is about how often the user comes.
        spending: whether it is about how much the user spends.
        denied: whether it says that there is little of all this.
    """

    words: tuple[str, ...]
    activity: bool
    spending: bool
    denied: bool

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the answer has a counterpart in that language."""
        return not (self.words or self.activity or self.spending)


@dataclass(frozen=True)
class WordScorer:
    """Ranks users by a scenario's words alone.

    Args:
        scenario: name of the scenario.
        positive: positive answer as it was understood.
        negative: negative answer as it was understood.
        direction: unit vector float32 [1, width]; the score is a vector's inner product with it.
    """

    scenario: str
    positive: Statement
    negative: Statement
    direction: Vectors

    def score(self, vectors: Vectors) -> NDArray[np.float32]:
        """Scores in [-1, 1], higher the likelier, float32 [rows]; they rank users and are no probabilities.

        Args:
            vectors: unit vectors of the scenario's space, float32 [rows, width]; where they are narrower than
                the model's, the direction is narrowed too.
        """
        return DirectionScorer(narrowed(self.direction, vectors.shape[1])).score(vectors)

    def auc(self, vectors: Vectors, labels: NDArray[np.int64]) -> float:
        """Area under the ROC curve of the words' scores on labelled users.

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
        scorer: scorer of the scenario's words.
        is_tuned: whether the users were read with a soft prompt, which no words were aligned with.
        without_vector: number of requested users who have no vector, and so no score.
    """

    table: pa.Table
    scorer: WordScorer
    is_tuned: bool
    without_vector: int


def understand(text: str, vocabulary: Mapping[str, int]) -> Statement:
    """An answer in the language of pre-training's answers.

    Args:
        text: answer in words.
        vocabulary: number of texts of each word of the log.
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
        loaded: model of the users' vectors.
        workspace: workspace with the scenario and the modalities.
        scenario: name of the scenario.
        vocabulary: number of texts of each word of the log.

    Raises:
        UnknownScenario: scenarios.yaml does not name it.
        InputError: it has no answers in words, or more than two of them.
    """
    spec = workspace.scenario(scenario)
    _check_words(scenario, spec)
    positive, negative = (understand(text, vocabulary) for text in (spec.positive, spec.negative))
    if positive.is_empty:
        # The query says what the answer leaves out: "yes, the user does".
        query = understand(spec.query, vocabulary)
        positive = replace(query, denied=positive.denied)
    parts = _directions(loaded, workspace, positive)
    if not parts:
        parts = [_embedded(loaded, [spec.positive]) - _embedded(loaded, [spec.negative])]
    # Words of both answers count for the positive one, words of the negative alone against it.
    only_negative = tuple(word for word in negative.words if word not in positive.words)
    against = Statement(only_negative, False, False, negative.denied)
    parts += [-part for part in _directions(loaded, workspace, against)]
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
        CheckpointInvalid: the model is missing or damaged.
    """
    _check_words(scenario, site.workspace.scenario(scenario))
    manifest = active_manifest(site.engine, scenario)
    loaded = manifest_model(site, manifest)
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


def _directions(
    loaded: "LoadedModel", workspace: Workspace, statement: Statement
) -> list[NDArray[np.float64]]:
    """A direction for each subject of a statement, towards what it says, [width] each."""
    parts = []
    if statement.words:
        parts.append(embed_words(loaded, workspace, "", statement.words)[0].astype(np.float64))
    if statement.activity:
        parts.append(_apart(loaded, ["active days"], _DAYS_OFTEN, _DAYS_SELDOM))
    if statement.spending:
        priced = {name: spec.amount for name, spec in workspace.modalities.items() if spec.amount}
        amounts = sorted({amount.replace("_", " ") for amount in priced.values()})
        if amounts:
            parts.append(_apart(loaded, amounts, _AMOUNTS_HIGH, _AMOUNTS_LOW))
            # How much in all is how much at a time and how often.
            often = [name.replace("_", " ") for name in priced]
            parts.append(_apart(loaded, often, _DAYS_OFTEN, _DAYS_SELDOM))
    return [-part for part in parts] if statement.denied else parts


def _apart(
    loaded: "LoadedModel", subjects: list[str], much: tuple[str, ...], little: tuple[str, ...]
) -> NDArray[np.float64]:
    """The direction from little of some subjects to much of them, [width]."""
    more, less = (
        [f"{subject} {level}" for subject in subjects for level in levels] for levels in (much, little)
    )
    return _embedded(loaded, more) - _embedded(loaded, less)


def _embedded(loaded: "LoadedModel", answers: list[str]) -> NDArray[np.float64]:
    """The mean vector of answers, [width]."""
    import torch

    with torch.inference_mode():
        ids = loaded.tokenizer.encode_answers(answers).to(loaded.runtime.device)
        vectors: NDArray[np.float32] = loaded.model.encode_answers(ids).cpu().numpy()
    mean: NDArray[np.float64] = vectors.mean(axis=0, dtype=np.float64)
    return mean


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit
