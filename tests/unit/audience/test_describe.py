"""Words are looked up in the log, said as the model was trained to hear them, and rank users."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from qanchor.audience.describe import OFTEN, SELDOM, embed_words, event_words, match_words
from qanchor.home import Home
from qanchor.storage.event_log import EventLog
from qanchor.training.useru.answers import COUNT_WORDS
from qanchor.workspace import FieldSpec, ModalitySpec, Workspace
from tests.unit.embedding.world import add_events, make_workspace
from tests.unit.model.test_embedder import LOADED

VOCABULARY = {"takeout": 3, "order": 9, "orders": 4, "ordered": 1, "with": 50, "tea": 7, "konzert": 2}


@pytest.mark.parametrize(
    ("text", "matched"),
    [
        ("People who ORDER takeout", ("order", "orders", "takeout")),
        ("ordering with friends", ("order", "orders")),
        ("Konzerte", ("konzert",)),
        ("ordered", ("ordered", "order")),
        ("tea", ()),
        ("luxury goods", ()),
        ("", ()),
    ],
)
def test_a_text_is_matched_with_the_words_of_the_log(text: str, matched: tuple[str, ...]) -> None:
    assert match_words(text, VOCABULARY) == matched


def test_the_words_that_say_how_often_are_those_that_answers_are_made_of() -> None:
    assert set(OFTEN) | {SELDOM} <= set(COUNT_WORDS)


def test_the_words_of_the_log_are_counted_by_text(tmp_path: Path) -> None:
    home, workspace = Home(tmp_path / "home"), make_workspace(tmp_path / "repo")
    add_events(home, workspace, [("a", 1, "bill"), ("b", 2, "bill"), ("a", 3, "card")])
    assert event_words(EventLog(home.events, workspace)) == {"corner": 1, "young": 1}


def test_a_field_with_a_quotation_mark_in_its_name_is_read(tmp_path: Path) -> None:
    # The yaml file's check refuses such a name; the SQL must not depend on that check.
    text = ModalitySpec.model_construct(text='{pa"ge}', fields={'pa"ge': FieldSpec(type="text")})
    log = EventLog(tmp_path / "events", Workspace(Path(), 90, {"visit": text}, {}))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    row = {"event_id": "a", "user_id": "u", "event_time": moment, "modality": "visit", 'pa"ge': "tea shop"}
    log.publish(log.stage(pa.Table.from_pylist([{**row, "_ingested_at": moment}], schema=log.schema)))
    assert event_words(log) == {"tea": 1, "shop": 1}


def test_words_give_a_direction_that_depends_on_them_and_not_on_their_case() -> None:
    loaded, workspace = LOADED, LOADED.config.workspace()
    one, other, alike = (embed_words(loaded, workspace, "", (word,)) for word in ("tea", "loan", "TEA"))
    assert one.shape == (1, loaded.config.embedding_width)
    assert np.isfinite(one).all()
    assert not np.allclose(one, other)
    np.testing.assert_allclose(one, alike, atol=1e-6)
    assert not np.allclose(embed_words(loaded, workspace, "drinks tea", ()), one)
