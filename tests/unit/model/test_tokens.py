"""The tokenizer: any words in, none lost, and the ends where the towers read."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.model.tokens import TextTokenizer, train_tokenizer

TEXTS = ["paid tea", "paid coffee house", "Will this user buy TEA?", "the user buys tea"]
TOKENIZER = train_tokenizer(TEXTS, 400)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_becomes_a_question(text: str) -> None:
    ids = TOKENIZER.encode_queries([text], 300)
    assert ids[0, -1] == TOKENIZER.user_id
    assert int(ids.max()) < TOKENIZER.vocabulary
    assert TOKENIZER.user_id not in ids[0, :-1].tolist() or "<|user_emb|>" in text


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="abcdefg hij é日本", max_size=30))
def test_words_survive_encoding(text: str) -> None:
    ids = TOKENIZER.encode_answers([text], 300)[0].tolist()
    assert TOKENIZER.decode(ids) == text.lower().strip()


def test_case_makes_no_difference() -> None:
    ids = TOKENIZER.encode_queries(["buy tea", "BUY Tea"])
    assert ids[0].tolist() == ids[1].tolist()


def test_padding_is_on_the_right() -> None:
    ids = TOKENIZER.encode_answers(["tea", "the user buys tea"])
    short = ids[0].tolist()
    end = short.index(TOKENIZER.end_id)
    assert set(short[end + 1 :]) == {TOKENIZER.pad_id}
    assert ids[1, -1] == TOKENIZER.end_id


def test_cutting_keeps_the_token_that_is_read() -> None:
    ids = TOKENIZER.encode_queries(["a very long question " * 20], 8)
    assert ids.shape == (1, 8)
    assert ids[0, -1] == TOKENIZER.user_id


def test_an_empty_event_text_is_one_padding_token() -> None:
    texts = TOKENIZER.tokenise_events(["", "paid tea"])
    assert texts.lengths[0] == 1
    assert texts.ids[0, 0] == TOKENIZER.pad_id


def test_saving_keeps_every_token(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    again = TextTokenizer.load(tmp_path, TOKENIZER.pad_id, TOKENIZER.end_id)
    question = ["Ob er Tee trinkt? ☕"]
    assert again.encode_queries(question).tolist() == TOKENIZER.encode_queries(question).tolist()
    assert again.user_id == TOKENIZER.user_id


def test_training_twice_gives_the_same_tokens() -> None:
    again = train_tokenizer(TEXTS, 400)
    assert again.encode_queries(TEXTS).tolist() == TOKENIZER.encode_queries(TEXTS).tolist()
