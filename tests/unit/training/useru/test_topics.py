"""Topics: words that go together, without a list of names."""

import numpy as np
from scipy.sparse import csr_matrix

from qanchor.training.useru.topics import Terms, co_occurrence_vectors, find_topics, words_of

TOPICS, EACH = 4, 6


def _counts(points: int = 400, seed: int = 0) -> csr_matrix:
    """Each point has a strength in each of four topics, and uses that topic's words accordingly."""
    rng = np.random.default_rng(seed)
    strength = rng.gamma(0.5, 2.0, (points, TOPICS))
    return csr_matrix(rng.poisson(np.repeat(strength, EACH, axis=1)))


def _terms() -> Terms:
    words = tuple(f"t{topic}w{word}" for topic in range(TOPICS) for word in range(EACH))
    count = len(words)
    users = np.arange(count, 0, -1)
    return Terms(words, np.zeros(count, np.int64), np.ones(count), users, ())


def test_words_that_go_together_make_a_topic() -> None:
    topics = find_topics(_counts(), _terms(), np.random.default_rng(0), most=TOPICS)
    groups = topics.of_term.reshape(TOPICS, EACH)
    assert (groups == groups[:, :1]).all()
    assert len(topics.names) == TOPICS


def test_a_topic_is_named_by_its_most_common_words() -> None:
    topics = find_topics(_counts(), _terms(), np.random.default_rng(0), most=TOPICS)
    assert topics.names[topics.of_term[0]] == "t0w0 t0w1"
    assert topics.members().sum() == TOPICS * EACH


def test_no_words_give_no_topics() -> None:
    empty = Terms((), np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), ())
    topics = find_topics(csr_matrix((5, 0), dtype=np.int64), empty, np.random.default_rng(0))
    assert topics.names == ()


def test_a_word_that_never_varies_has_no_direction() -> None:
    counts = csr_matrix(np.column_stack([np.ones(50, np.int64), _counts(50).toarray()]))
    vectors = co_occurrence_vectors(counts, 8)
    assert np.allclose(vectors[0], 0)
    assert np.allclose(np.linalg.norm(vectors[1:], axis=1), 1)


def test_words_are_split_in_any_script_and_without_case() -> None:
    assert words_of("Paid KFC_market paid, 2x Кофе") == ("paid", "kfc", "market", "2x", "кофе")
