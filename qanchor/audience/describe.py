"""An audience in words: the semantic tower embeds them, and users are ranked by their closeness.

Pre-training pulls a user, read under a query, towards answers in words. Those answers have a language of
their own: words of the log with how often they come ("takeout many"). A free sentence is not part of it and
is embedded badly; so the words of the sentence that the log knows are put into that language, and the vector
of neutral answers is subtracted, as all answers share much of it. A soft prompt moves users afterwards,
towards its scenario's prototypes and not towards any words: the more it moves them, the less words mean.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import select

from qanchor.audience.population import Population
from qanchor.audience.scorers import DirectionScorer
from qanchor.errors import InputError
from qanchor.registry.manifests import find_manifest
from qanchor.registry.session import transaction
from qanchor.registry.tables import EmbeddingManifest, ModelVersion
from qanchor.site import Site
from qanchor.storage.event_log import EventLog
from qanchor.storage.sql import quote
from qanchor.storage.vectors import Vectors
from qanchor.workspace import Workspace

if TYPE_CHECKING:
    from qanchor.model.checkpoint import LoadedModel

# Of the words that answers count with, those that say "often"; see qanchor.training.useru.answers.
OFTEN = ("several", "many", "lots", "masses")
SELDOM = "some"

_WORD = re.compile(r"[^\W_]+")
_SHORTEST = 4
_STEM = 5
_MOST_PER_WORD = 2
_MOST_CHARACTERS = 1_000
# Words of English that carry no topic; in other languages they match little and cost little.
_EMPTY_WORDS = frozenset(
    [
        *("about", "after", "also", "been", "before", "customers", "each", "every", "from", "have", "into"),
        *("like", "many", "more", "most", "much", "often", "over", "people", "several", "some", "than"),
        *("that", "their", "them", "then", "these", "they", "this", "those", "times", "users", "very"),
        *("week", "what", "when", "where", "which", "with", "will", "would", "your"),
    ]
)


@dataclass(frozen=True)
class Words:
    """An audience in words, ready to rank.

    Args:
        text: description of the audience.
        matched: words of the log that match the text; empty where none does, and the text as a whole was
            embedded, which tells little.
        is_tuned: whether users were read with a soft prompt, which no words were aligned with.
        scorer: scorer that ranks users by the words.
    """

    text: str
    matched: tuple[str, ...]
    is_tuned: bool
    scorer: DirectionScorer


def read_words(site: Site, population: Population, text: str) -> Words:
    """Put words into the space of a population's index, with the model that its vectors come from.

    Args:
        site: model, event log, registry and workspace.
        population: users of the index.
        text: description of the audience.

    Raises:
        InputError: the text is empty or longer than 1,000 characters.
        CheckpointInvalid: the model is missing or damaged.
    """
    if not text.strip() or len(text) > _MOST_CHARACTERS:
        raise InputError(f"the text has {len(text.strip()):,} characters", f"Give 1 to {_MOST_CHARACTERS:,}.")
    manifest = find_manifest(site.engine, population.index.metadata.manifest_id)
    loaded = manifest_model(site, manifest)
    vocabulary = event_words(site.event_log)
    matched = match_words(text, vocabulary)
    direction = embed_words(loaded, site.workspace, text, matched)[:, : population.index.dim]
    return Words(text, matched, manifest.prompt_version is not None, DirectionScorer(direction))


def manifest_model(site: Site, manifest: EmbeddingManifest) -> "LoadedModel":
    """The model that a manifest's vectors come from, on the CPU.

    Raises:
        CheckpointInvalid: the model is missing or damaged.
    """
    from qanchor.model.checkpoint import load_model

    with transaction(site.engine) as session:
        path = session.scalars(
            select(ModelVersion.path).where(ModelVersion.version == manifest.model_version)
        ).one()
    return load_model(site.home.root / path, "cpu", "float32")


def event_words(log: EventLog) -> Counter[str]:
    """Words of the events' texts, with the number of distinct texts that hold each."""
    modalities = log.workspace.modalities
    fields = [(name, field) for name, spec in modalities.items() for field in spec.template_fields]
    if not fields:
        return Counter()
    # In one query: the log's files are opened once.
    lists = ", ".join(
        f"list(DISTINCT {quote(field)}) FILTER (WHERE modality = ${number} AND {quote(field)} IS NOT NULL)"
        for number, (_, field) in enumerate(fields, 1)
    )
    with log.connect() as connection:
        row = connection.execute(f"SELECT {lists} FROM events", [name for name, _ in fields]).fetchone()
    words: Counter[str] = Counter()
    for values in row or ():
        for value in values or ():
            words.update(set(_WORD.findall(str(value).lower())))
    return words


def match_words(text: str, vocabulary: Mapping[str, int]) -> tuple[str, ...]:
    """Words of the log that match a text; inflected forms match by their common beginning.

    Args:
        text: description in words.
        vocabulary: number of texts of each word of the log.
    """
    by_stem: dict[str, list[str]] = {}
    for word in vocabulary:
        if len(word) >= _SHORTEST:
            by_stem.setdefault(word[:_STEM], []).append(word)
    matched: list[str] = []
    for word in _WORD.findall(text.lower()):
        if len(word) >= _SHORTEST and word not in _EMPTY_WORDS:
            same_stem = by_stem.get(word[:_STEM], [])
            exact = [word] if word in same_stem else []
            others = sorted((w for w in same_stem if w != word), key=lambda w: (-vocabulary[w], w))
            matched += (exact + others)[:_MOST_PER_WORD]
    return tuple(dict.fromkeys(matched))


def embed_words(loaded: "LoadedModel", workspace: Workspace, text: str, matched: tuple[str, ...]) -> Vectors:
    """The direction towards users of whom the words are true, float32 [1, width].

    Args:
        loaded: model of the users' vectors.
        workspace: workspace with the modalities.
        text: description of the audience.
        matched: words of the log; empty: the text is embedded as it is.
    """
    names = [name.replace("_", " ") for name in workspace.modalities]
    answers = [f"{word} {often}" for word in matched for often in OFTEN] or [text]
    neutral = ["nothing", f"active days {SELDOM}", *(f"{name} {SELDOM}" for name in names)]
    import torch

    with torch.inference_mode():
        ids = loaded.tokenizer.encode_answers([*answers, *neutral])
        vectors = loaded.model.encode_answers(ids.to(loaded.runtime.device)).cpu().numpy()
    direction = vectors[: len(answers)].mean(axis=0) - vectors[len(answers) :].mean(axis=0)
    return np.asarray(direction[None], np.float32)
