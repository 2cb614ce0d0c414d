"""The pool of 72 topics for questions about a profile, and each profile's most relevant topics.

Topics of everyday life come from a list; a listed topic that no profile mentions is replaced by one from the
log. Only events BEFORE the users' cut-offs are read.

Source: arXiv 2602.14492, section 3.1 (D_uqa).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from qanchor.errors import InputError
from qanchor.training.useru.topics import Terms, find_topics

POOL_TOPICS = 72
_MIN_USERS = 3
_MOST_TERMS = 1500
# A word of most users, or a short one, belongs to no topic: "pays", "in".
_TELLING_SHARE = 0.6
_SHORTEST = 3
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class PoolTopic:
    """One topic and its words in the log.

    Args:
        name: name of the topic in questions.
        words: lower-case words of the log; an event with one of them is about the topic.
        listed: whether the topic comes from the list, not from the log.
    """

    name: str
    words: frozenset[str]
    listed: bool


class _TopicFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    topics: dict[str, list[str]]


def read_topics(path: Path | None = None) -> dict[str, tuple[str, ...]]:
    """A list of topics with their words.

    Args:
        path: YAML with `topics: {name: [word, ...]}`; None: the 72 topics that come with the library.

    Raises:
        InputError: the file is missing or not of this form, or names more than 72 topics.
    """
    source = path or files("qanchor.training.useru").joinpath("life_topics.yaml")
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
        topics = msgspec.convert(content, _TopicFile).topics
    except OSError:
        raise InputError(f"there is no topic file {path}", "Give the path of a YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError, msgspec.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is not a topic file: {reason}", "Write it as `topics: {NAME: [word, word]}`."
        ) from error
    if not 1 <= len(topics) <= POOL_TOPICS:
        raise InputError(f"{path} names {len(topics)} topics", f"Name between 1 and {POOL_TOPICS}.")
    return {name: tuple(word.lower() for word in words) for name, words in topics.items()}


def build_pool(
    counts: csr_matrix, users: Int64, terms: Terms, listed: Mapping[str, tuple[str, ...]], seed: int
) -> tuple[PoolTopic, ...]:
    """The topics of these profiles, at most 72: listed ones first, then topics of the log.

    Args:
        counts: sparse [points, terms], occurrences of each term in a point's profile.
        users: int64 [points], user of each point.
        terms: terms of the columns.
        listed: listed topics with their words.
        seed: seed of the search for topics of the log.
    """
    frequent = _frequent_terms(counts, users, terms)
    words = {terms.words[term] for term in frequent.tolist()}
    topics, taken = [], set()
    for name, listed_words in listed.items():
        matched = {form for word in listed_words for form in _forms(word) if form in words}
        if matched:
            topics.append(PoolTopic(name, frozenset(matched), True))
            taken |= matched
    room = POOL_TOPICS - len(topics)
    user_counts = _users_with(counts, users)
    most_users = _TELLING_SHARE * len(np.unique(users))
    left = [
        t
        for t in frequent.tolist()
        if terms.words[t] not in taken and len(terms.words[t]) >= _SHORTEST and user_counts[t] <= most_users
    ]
    if room and left:
        topics += _log_topics(counts, np.array(left[:_MOST_TERMS]), terms, user_counts, room, seed)
    return tuple(topics)


def topics_by_word(topics: Sequence[PoolTopic]) -> dict[str, list[int]]:
    """The numbers of each word's topics."""
    by_word: dict[str, list[int]] = {}
    for number, topic in enumerate(topics):
        for word in topic.words:
            by_word.setdefault(word, []).append(number)
    return by_word


def rank_topics(counts: NDArray[np.int64], most: int) -> list[list[int]]:
    """The most relevant topics of each point, best first: those with more events than in other profiles.

    Args:
        counts: int64 [points, topics], a profile's events about each topic.
        most: largest number of topics of a point.
    """
    much = np.log1p(counts)
    spread = much.std(axis=0)
    unusual = (much - much.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    # Many events, and more than others have: a single event about a rare topic does not make it relevant.
    order = np.argsort(np.where(counts > 0, -unusual * much, np.inf), axis=1, kind="stable")[:, :most]
    return [[topic for topic in row if counts[point, topic] > 0] for point, row in enumerate(order.tolist())]


def _forms(word: str) -> tuple[str, ...]:
    return word, f"{word}s", f"{word}es"


def _frequent_terms(counts: csr_matrix, users: Int64, terms: Terms) -> Int64:
    """Terms in the profiles of enough users, most common first; the order depends on profiles alone."""
    user_counts = _users_with(counts, users)
    enough = np.flatnonzero(user_counts >= min(_MIN_USERS, max(1, len(np.unique(users)))))
    keys = [(-int(user_counts[t]), terms.words[t], int(terms.modality[t]), int(t)) for t in enough.tolist()]
    return np.array([key[-1] for key in sorted(keys)], np.int64)


def _users_with(counts: csr_matrix, users: Int64) -> Int64:
    """Number of users with each term in any of their profiles, int64 [terms]."""
    entries = counts.tocoo()
    has = csr_matrix(
        (np.ones(entries.nnz, np.int32), (users[entries.row], entries.col)),
        shape=(int(users.max(initial=-1)) + 1, counts.shape[1]),
    )
    has.sum_duplicates()
    users_with: Int64 = np.diff(has.tocsc().indptr).astype(np.int64)
    return users_with


def _log_topics(
    counts: csr_matrix, kept: Int64, terms: Terms, user_counts: Int64, room: int, seed: int
) -> list[PoolTopic]:
    """Groups of the terms `kept`, which belong to no listed topic."""
    words = tuple(terms.words[t] for t in kept.tolist())
    part = Terms(words, terms.modality[kept], terms.weight[kept], user_counts[kept], ())
    groups = find_topics(counts[:, kept], part, np.random.default_rng([seed, 72]), room)
    result = []
    for number, name in enumerate(groups.names):
        members = frozenset(part.words[i] for i in np.flatnonzero(groups.of_term == number).tolist())
        result.append(PoolTopic(name, members, False))
    return result
