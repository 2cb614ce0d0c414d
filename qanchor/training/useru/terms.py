"""The words of a log's event texts, per modality, and how telling each is."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from qanchor.events.history import EventArrays, ModalityEvents

_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> tuple[str, ...]:
    """The distinct lower-case words of a text, in order."""
    return tuple(dict.fromkeys(_WORD.findall(text.lower())))


@dataclass(frozen=True)
class Terms:
    """A term is a word within one modality.

    Args:
        words: the word of each term.
        modality: int64 [terms], the modality's position.
        weight: float64 [terms], inverse user frequency in nats; 0 where everybody has it.
        users: int64 [terms], users who have it.
        of_text: for each modality, sparse [texts, terms], 1 where the text holds the term.
    """

    words: tuple[str, ...]
    modality: NDArray[np.int64]
    weight: NDArray[np.float64]
    users: NDArray[np.int64]
    of_text: tuple[csr_matrix, ...]


def find_terms(arrays: EventArrays, min_users: int = 3, most: int = 1500) -> Terms:
    """The terms that enough users have, most common first.

    Args:
        arrays: the events to read, all of them.
        min_users: a term of fewer users says nothing about the others.
        most: how many terms to keep.
    """
    names: list[tuple[int, str]] = []
    users: list[int] = []
    columns: list[csr_matrix] = []
    for position, events in enumerate(arrays.modalities):
        texts, words = _text_words(events, arrays.texts)
        columns.append(texts)
        owners = np.repeat(np.arange(len(arrays.users)), np.diff(events.offsets))
        has = csr_matrix(
            (np.ones(len(owners), np.int32), (owners, events.text)),
            shape=(len(arrays.users), len(arrays.texts)),
        )
        per_user = (has @ texts).tocsc()
        names += [(position, word) for word in words]
        users += np.diff(per_user.indptr).tolist()
    counts = np.array(users, np.int64)
    order = sorted(np.flatnonzero(counts >= min_users).tolist(), key=lambda i: (-counts[i], names[i]))[:most]
    bounds = np.concatenate([[0], np.cumsum([c.shape[1] for c in columns])]).astype(int)
    kept = []
    for position, texts in enumerate(columns):
        chosen = [(new, old - bounds[position]) for new, old in enumerate(order) if names[old][0] == position]
        pick = csr_matrix(
            (np.ones(len(chosen), np.int32), ([o for _, o in chosen], [n for n, _ in chosen])),
            shape=(texts.shape[1], len(order)),
        )
        kept.append((texts @ pick).tocsr())
    weight = np.log(max(1, len(arrays.users)) / np.maximum(1, counts[order]))
    return Terms(
        tuple(names[i][1] for i in order),
        np.array([names[i][0] for i in order], np.int64),
        weight,
        counts[order],
        tuple(kept),
    )


def _text_words(events: ModalityEvents, texts: tuple[str, ...]) -> tuple[csr_matrix, list[str]]:
    """Which word stands in which text of the modality, [texts, words], and the words."""
    seen: dict[str, int] = {}
    rows, columns = [], []
    for text in np.unique(events.text).tolist():
        for word in words_of(texts[text]):
            rows.append(text)
            columns.append(seen.setdefault(word, len(seen)))
    shape = (len(texts), len(seen))
    return csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=shape), list(seen)
