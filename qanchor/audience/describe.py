"""An audience in words: the semantic tower embeds them, and users are ranked by how near they are.

Pre-training pulls a user, read under a question, towards the answer in words. Those answers have a language
of their
own: words of the log with how often they come ("takeout many"). A free sentence lies outside of it and is
    placed
badly; so its words are looked up in the log and said in that language, and the vector of saying nothing in
particular is taken away, as all answers share much of it. A soft prompt moves users afterwards, towards its
scenario's prototypes and not towards any words: the more it moves them, the less words mean.
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
from qanchor.registry.tables import ModelVersion
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
        text: as it was written.
        matched: words of the log that the text speaks of; empty where it speaks of none, and the text as a
            whole was embedded, which tells little.
        is_tuned: users were read with a soft prompt, which no words were aligned with.
        scorer: ranks users of the space.
    """

    text: str
    matched: tuple[str, ...]
    is_tuned: bool
    scorer: DirectionScorer


def read_words(site: Site, population: Population, text: str) -> Words:
    """Put words into the space of a population's index, with the model that its vectors come from.

    Args:
        site: model, event log, registry and workspace.
        population: the users.
        text: who is wanted.

    Raises:
        InputError: the text is empty or longer than 1,000 characters.
        CheckpointInvalid: the model is gone or damaged.
    """
    if not text.strip() or len(text) > _MOST_CHARACTERS:
        raise InputError(f"the text has {len(text.strip()):,} characters", f"Give 1 to {_MOST_CHARACTERS:,}.")
    from qanchor.model.checkpoint import load_model

    manifest = find_manifest(site.engine, population.index.metadata.manifest_id)
    with transaction(site.engine) as session:
        path = session.scalars(
            select(ModelVersion.path).where(ModelVersion.version == manifest.model_version)
        ).one()
    loaded = load_model(site.home.root / path, "cpu", "float32")
    vocabulary = event_words(site.event_log)
    matched = match_words(text, vocabulary)
    direction = embed_words(loaded, site.workspace, text, matched)[:, : population.index.dim]
    return Words(text, matched, manifest.prompt_version is not None, DirectionScorer(direction))


def event_words(log: EventLog) -> Counter[str]:
    """Words of the events' texts, with the number of distinct texts that each is in."""
    modalities = log.workspace.modalities
    asked = [(name, field) for name, spec in modalities.items() for field in spec.template_fields]
    if not asked:
        return Counter()
    # In one query: the log's files are opened once.
    lists = ", ".join(
        f"list(DISTINCT {quote(field)}) FILTER (WHERE modality = ${place} AND {quote(field)} IS NOT NULL)"
        for place, (_, field) in enumerate(asked, 1)
    )
    with log.connect() as connection:
        found = connection.execute(f"SELECT {lists} FROM events", [name for name, _ in asked]).fetchone()
    words: Counter[str] = Counter()
    for values in found or ():
        for value in values or ():
            words.update(set(_WORD.findall(str(value).lower())))
    return words


def match_words(text: str, vocabulary: Mapping[str, int]) -> tuple[str, ...]:
    """Words of the log that a text speaks of; inflected forms match by their common beginning.

    Args:
        text: in words.
        vocabulary: words of the log with how common they are.
    """
    by_stem: dict[str, list[str]] = {}
    for word in vocabulary:
        if len(word) >= _SHORTEST:
            by_stem.setdefault(word[:_STEM], []).append(word)
    matched: list[str] = []
    for word in _WORD.findall(text.lower()):
        if len(word) >= _SHORTEST and word not in _EMPTY_WORDS:
            found = by_stem.get(word[:_STEM], [])
            exact = [word] if word in found else []
            others = sorted((w for w in found if w != word), key=lambda w: (-vocabulary[w], w))
            matched += (exact + others)[:_MOST_PER_WORD]
    return tuple(dict.fromkeys(matched))


def embed_words(loaded: "LoadedModel", workspace: Workspace, text: str, matched: tuple[str, ...]) -> Vectors:
    """The direction in which users lie of whom the words are true, float32 [1, width].

    Args:
        loaded: the model.
        workspace: names the modalities.
        text: as it was written.
        matched: words of the log; empty: the text is embedded as it is.
    """
    names = [name.replace("_", " ") for name in workspace.modalities]
    said = [f"{word} {often}" for word in matched for often in OFTEN] or [text]
    neutral = ["nothing", f"active days {SELDOM}", *(f"{name} {SELDOM}" for name in names)]
    import torch

    with torch.inference_mode():
        ids = loaded.tokenizer.encode_answers([*said, *neutral])
        vectors = loaded.model.encode_answers(ids.to(loaded.runtime.device)).cpu().numpy()
    direction = vectors[: len(said)].mean(axis=0) - vectors[len(said) :].mean(axis=0)
    return np.asarray(direction[None], np.float32)
