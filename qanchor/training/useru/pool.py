"""The pool of 72 topics that questions about a profile are drawn from, and which matter to whom.

Topics of everyday life come from a list; where no user speaks of one, a topic found in the log takes its
place. What is known of the log here is what users did BEFORE their cut-offs, nothing later.

Source: arXiv 2602.14492, section 3.1 (D_uqa).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from qanchor.errors import InputError
from qanchor.training.useru.terms import Terms
from qanchor.training.useru.topics import find_topics

POOL_TOPICS = 72
_MIN_USERS = 3
_MOST_TERMS = 1500
# A word that most users have, or a short one, tells no topic: "pays", "in".
_TELLING_SHARE = 0.6
_SHORTEST = 3
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class PoolTopic:
    """One topic and the log's words that tell it.

    Args:
        name: as questions say it.
        words: lower-case words of the log; an event with one of them is about the topic.
        listed: it is of the list, and not found in the log.
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
        InputError: the file is not there, is no such YAML, or names more than 72 topics.
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
            f"{path} lists no topics: {reason}", "Write it as `topics: {NAME: [word, word]}`."
        ) from error
    if not 1 <= len(topics) <= POOL_TOPICS:
        raise InputError(f"{path} names {len(topics)} topics", f"Name between 1 and {POOL_TOPICS}.")
    return {name: tuple(word.lower() for word in words) for name, words in topics.items()}


def build_pool(
    counts: csr_matrix, users: Int64, terms: Terms, listed: Mapping[str, tuple[str, ...]], seed: int
) -> tuple[PoolTopic, ...]:
    """The topics that these profiles speak of, 72 at most: those listed first, then those found.

    Args:
        counts: sparse [points, terms], how often each term stands in a point's profile.
        users: int64 [points], the points' users.
        terms: the columns.
        listed: topics with their words.
        seed: of the search for further topics.
    """
    spoken = _told_by_enough(counts, users, terms)
    words = {terms.words[term] for term in spoken.tolist()}
    topics, taken = [], set()
    for name, wanted in listed.items():
        matched = {form for word in wanted for form in _forms(word) if form in words}
        if matched:
            topics.append(PoolTopic(name, frozenset(matched), True))
            taken |= matched
    room = POOL_TOPICS - len(topics)
    known = _users_with(counts, users)
    most_users = _TELLING_SHARE * len(np.unique(users))
    left = [
        t
        for t in spoken.tolist()
        if terms.words[t] not in taken and len(terms.words[t]) >= _SHORTEST and known[t] <= most_users
    ]
    if room and left:
        topics += _found(counts, np.array(left[:_MOST_TERMS]), known, terms, room, seed)
    return tuple(topics)


def rank_topics(counts: NDArray[np.int64], most: int) -> list[list[int]]:
    """The most relevant topics of each point, best first: those it speaks of more than others do.

    Args:
        counts: int64 [points, topics], a profile's events about each topic.
        most: topics of a point; fewer where its profile speaks of fewer.
    """
    much = np.log1p(counts)
    spread = much.std(axis=0)
    unusual = (much - much.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    # Much of it, and more than others: a single event about something rare makes no life topic.
    order = np.argsort(np.where(counts > 0, -unusual * much, np.inf), axis=1, kind="stable")[:, :most]
    return [[topic for topic in row if counts[point, topic] > 0] for point, row in enumerate(order.tolist())]


def _forms(word: str) -> tuple[str, ...]:
    return word, f"{word}s", f"{word}es"


def _told_by_enough(counts: csr_matrix, users: Int64, terms: Terms) -> Int64:
    """Terms that enough users' profiles hold, most common first; the order knows nothing but profiles."""
    known = _users_with(counts, users)
    enough = np.flatnonzero(known >= min(_MIN_USERS, max(1, len(np.unique(users)))))
    keys = [(-int(known[t]), terms.words[t], int(terms.modality[t]), int(t)) for t in enough.tolist()]
    return np.array([key[-1] for key in sorted(keys)], np.int64)


def _users_with(counts: csr_matrix, users: Int64) -> Int64:
    """How many users have each term in any of their profiles, int64 [terms]."""
    entries = counts.tocoo()
    has = csr_matrix(
        (np.ones(entries.nnz, np.int32), (users[entries.row], entries.col)),
        shape=(int(users.max(initial=-1)) + 1, counts.shape[1]),
    )
    has.sum_duplicates()
    known: Int64 = np.diff(has.tocsc().indptr).astype(np.int64)
    return known


def _found(
    counts: csr_matrix, kept: Int64, known: Int64, terms: Terms, room: int, seed: int
) -> list[PoolTopic]:
    """Groups of the words that no listed topic has taken."""
    words = tuple(terms.words[t] for t in kept.tolist())
    part = Terms(words, terms.modality[kept], terms.weight[kept], known[kept], ())
    groups = find_topics(counts[:, kept], part, np.random.default_rng([seed, 72]), room)
    result = []
    for number, name in enumerate(groups.names):
        members = frozenset(part.words[i] for i in np.flatnonzero(groups.of_term == number).tolist())
        result.append(PoolTopic(name, members, False))
    return result
