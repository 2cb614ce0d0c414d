"""The pool: 72 topics, listed ones that the log mentions, then topics of the log."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from qanchor.errors import InputError
from qanchor.training.useru.pool import POOL_TOPICS, build_pool, rank_topics, read_topics
from qanchor.training.useru.topics import Terms


def _terms(*words: str) -> Terms:
    count = len(words)
    ones = np.ones(count)
    return Terms(words, np.zeros(count, np.int64), ones, np.full(count, 9, np.int64), ())


def test_the_list_that_comes_along_has_72_topics_and_no_word_twice() -> None:
    topics = read_topics()
    words = [word for listed in topics.values() for word in listed]
    assert len(topics) == POOL_TOPICS
    assert len(words) == len(set(words))
    assert all(word == word.lower() and " " not in word for word in words)


def test_a_listed_topic_is_known_by_its_words_and_their_plurals() -> None:
    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.poisson(1.0, (40, 3)))
    terms = _terms("coupons", "coupon", "zebra")
    pool = build_pool(counts, np.arange(40), terms, {"coupons": ("coupon",), "moon": ("moon",)}, 0)
    assert pool[0].words == {"coupon", "coupons"}
    assert "moon" not in {topic.name for topic in pool}


def test_words_that_no_list_knows_make_topics_of_their_own_up_to_72() -> None:
    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.poisson(0.1, (200, 400)))
    terms = _terms(*(f"word{i}" for i in range(400)))
    pool = build_pool(counts, np.arange(200), terms, {"first": ("word0",)}, 0)
    assert 50 < len(pool) <= POOL_TOPICS
    assert [topic.listed for topic in pool] == [True] + [False] * (len(pool) - 1)
    words = [word for topic in pool for word in topic.words]
    assert len(words) == len(set(words))


def test_words_of_nearly_everybody_and_of_hardly_anybody_tell_no_topic() -> None:
    counts = np.zeros((30, 3), np.int64)
    counts[:, 0] = 1
    counts[:2, 1] = 1
    counts[:9, 2] = 1
    pool = build_pool(csr_matrix(counts), np.arange(30), _terms("pays", "odd", "harp"), {}, 0)
    assert {word for topic in pool for word in topic.words} == {"harp"}


def test_the_order_of_points_and_terms_does_not_move_the_pool() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(0.3, (60, 20))
    words = tuple(f"w{i:02d}" for i in range(20))
    same = build_pool(csr_matrix(counts), np.arange(60), _terms(*words), {"a": ("w03",)}, 0)
    extra = np.column_stack([np.zeros(60, np.int64), counts])  # a word that no profile holds
    more = build_pool(csr_matrix(extra), np.arange(60), _terms("leak", *words), {"a": ("w03",)}, 0)
    assert same == more


def test_the_most_relevant_topics_are_those_a_user_speaks_of_more_than_others_do() -> None:
    counts = np.full((20, 3), 5)
    counts[:, 2] = 0
    counts[0] = [5, 30, 1]
    ranked = rank_topics(counts, 2)
    assert ranked[0][0] == 1
    assert all(2 not in topics for topics in ranked[1:])
    assert all(len(topics) <= 2 for topics in ranked)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topics: [a, b]", "is not a topic file"),
        ("topics: {a: b}", "is not a topic file"),
        ("topics: {}", "0 topics"),
        ("topics:\n" + "\n".join(f"  t{i}: [w{i}]" for i in range(73)), "73 topics"),
        (":\n  - {", "is not a topic file"),
    ],
)
def test_a_topic_file_that_does_not_hold_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "topics.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_topics(path)


def test_a_topic_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no topic file"):
        read_topics(tmp_path / "none.yaml")


def test_topics_of_ones_own_replace_the_list(tmp_path: Path) -> None:
    path = tmp_path / "topics.yaml"
    path.write_text("topics:\n  sailing: [Ferry, harbour]\n")
    assert read_topics(path) == {"sailing": ("ferry", "harbour")}
