"""Scores by words alone: what is understood of an answer, and that users are ranked by it."""

from dataclasses import replace

import numpy as np
import pytest

from qanchor.audience.zero_label import Statement, WordScorer, read_answers, score_by_words, understand
from qanchor.errors import InputError, NotReady, UnknownScenario
from qanchor.site import Site
from qanchor.training.useru.answers import COUNT_WORDS
from qanchor.workspace import ScenarioSpec, Workspace
from tests.unit.audience.published import embed
from tests.unit.model.test_embedder import LOADED

VOCABULARY = {"takeout": 3, "loan": 2, "repayment": 2, "coupon": 4}


def _workspace(positive: str, negative: str, query: str = "Will this user do it?") -> Workspace:
    spec = ScenarioSpec(domain="risk", query=query, positive=positive, negative=negative)
    return replace(LOADED.config.workspace(), scenarios={"it": spec})


@pytest.mark.parametrize(
    ("text", "words", "activity", "spending", "denied"),
    [
        ("the user orders takeout", ("takeout",), False, False, False),
        ("the user orders no takeout", ("takeout",), False, False, True),
        ("falls behind on a loan repayment", ("loan", "repayment"), False, False, False),
        ("the user stops using the app", (), True, False, True),
        ("the user logs in on most days", (), True, False, False),
        ("becomes inactive", (), True, False, True),
        ("spends a lot", (), False, True, False),
        ("buys from a premium brand", (), False, True, False),
        ("the user is kind", (), False, False, False),
    ],
)
def test_an_answer_is_said_in_the_language_of_answers(
    text: str, words: tuple[str, ...], activity: bool, spending: bool, denied: bool
) -> None:
    assert understand(text, VOCABULARY) == Statement(words, activity, spending, denied)


def test_the_levels_are_those_that_answers_are_made_of() -> None:
    from qanchor.audience import zero_label

    assert set(zero_label._DAYS_OFTEN) | set(zero_label._DAYS_SELDOM) <= set(COUNT_WORDS)


def test_the_opposite_answers_give_the_opposite_ranking() -> None:
    yes = read_answers(LOADED, _workspace("uses the app", "stops using it"), "it", {})
    no = read_answers(LOADED, _workspace("stops using the app", "uses it"), "it", {})
    np.testing.assert_allclose(yes.direction, -no.direction, atol=1e-6)
    vectors = np.random.default_rng(0).normal(size=(50, LOADED.config.embedding_width)).astype(np.float32)
    labels = (yes.score(vectors) > 0).astype(np.int64)
    assert yes.auc(vectors, labels) == 1
    assert no.auc(vectors, labels) == 0


def test_an_answer_that_says_nothing_is_taken_from_the_question() -> None:
    asked = read_answers(
        LOADED,
        _workspace("the user will", "the user will not", "Will this user order takeout?"),
        "it",
        VOCABULARY,
    )
    told = read_answers(LOADED, _workspace("orders takeout", "will not"), "it", VOCABULARY)
    assert asked.positive.words == ("takeout",)
    np.testing.assert_allclose(asked.direction, told.direction, atol=1e-6)


def test_what_only_the_negative_answer_speaks_of_counts_against() -> None:
    plain = read_answers(LOADED, _workspace("a loan", "is fine"), "it", VOCABULARY).direction
    against = read_answers(LOADED, _workspace("a loan", "a coupon"), "it", VOCABULARY).direction
    coupon = read_answers(LOADED, _workspace("a coupon", "is fine"), "it", VOCABULARY).direction
    assert (against @ coupon.T).item() < (plain @ coupon.T).item()


def test_a_scenario_without_words_or_with_too_many_answers_is_refused() -> None:
    workspace = _workspace("yes", "no")
    with pytest.raises(InputError, match=r"no answers in words.*scenarios\.yaml"):
        read_answers(LOADED, workspace, "it", {})
    many = workspace.scenarios["it"].model_copy(update={"classes": ("a", "b", "c")})
    with pytest.raises(InputError, match="3 answers"):
        read_answers(LOADED, replace(workspace, scenarios={"it": many}), "it", {})
    with pytest.raises(UnknownScenario):
        read_answers(LOADED, workspace, "that", {})


@pytest.fixture
def towards_the_second_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Statement(("loan",), False, False, False)
    scorer = WordScorer("money", said, said, np.eye(128, dtype=np.float32)[1:2])
    monkeypatch.setattr("qanchor.model.checkpoint.load_model", lambda *_: LOADED)
    monkeypatch.setattr("qanchor.audience.zero_label.read_answers", lambda *_: scorer)


@pytest.fixture
def site(site: Site) -> Site:
    """A site whose scenario money has answers in words."""
    workspace = site.workspace
    money = workspace.scenarios["money"].model_copy(
        update={"positive": "owes a loan", "negative": "owes none"}
    )
    return site.with_parts(workspace=replace(workspace, scenarios={**workspace.scenarios, "money": money}))


@pytest.mark.usefixtures("towards_the_second_axis")
def test_users_are_scored_by_their_newest_vector_best_first(site: Site) -> None:
    embed(site, [("a", 0, 0), ("b", 1, 0), ("c", 1, 0), ("c", 0, 1), ("d", 2, 0)])
    scores = score_by_words(site, "money")
    assert scores.table.to_pylist()[0] == {"user_id": "b", "score": 1.0}
    assert scores.table["user_id"].to_pylist() == ["b", "a", "c", "d"]
    some = score_by_words(site, "money", ["d", "b", "nobody"])
    assert some.table["user_id"].to_pylist() == ["b", "d"]
    assert some.without_vector == 1


@pytest.mark.usefixtures("towards_the_second_axis")
def test_what_cannot_be_scored_is_refused_with_what_to_do(site: Site) -> None:
    with pytest.raises(NotReady, match="backfill --scenario money"):
        score_by_words(site, "money")
    with pytest.raises(InputError, match="no answers in words"):
        score_by_words(site, "quiet")
    embed(site, [("a", 0, 0)])
    with pytest.raises(InputError, match="none of the 2 users has a vector"):
        score_by_words(site, "money", ["x", "y"])
