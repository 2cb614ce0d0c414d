"""The cache of text vectors: each text once, and never a wrong vector, whatever happens to the file."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qanchor.model.text_cache import TextVectorCache

WIDTH = 6
TEXTS = [b"tea", b"rent", b"tea", b"gold"]


class Encoder:
    """Vectors that identify their text, and a count of the encoded ones."""

    def __init__(self, texts: list[bytes]) -> None:
        self.texts = texts
        self.encoded: list[bytes] = []

    def __call__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        self.encoded += [self.texts[i] for i in indices]
        return np.stack([vector_of(self.texts[i]) for i in indices])


def vector_of(text: bytes) -> NDArray[np.float32]:
    return np.random.default_rng(list(text)).normal(size=WIDTH).astype(np.float32)


def cache_in(folder: Path, encoder: str = "one", most_bytes: int = 10**6) -> TextVectorCache:
    return TextVectorCache(folder / "texts", encoder, WIDTH, most_bytes)


def check(cache: TextVectorCache, texts: list[bytes] | None = None) -> list[bytes]:
    """Ask for the texts, check every vector, and tell which texts were encoded."""
    texts = TEXTS if texts is None else texts
    encoder = Encoder(texts)
    vectors = cache.vectors(texts, encoder)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.stack([vector_of(text) for text in texts]))
    return encoder.encoded


def test_each_distinct_text_is_encoded_once(tmp_path: Path) -> None:
    assert check(cache_in(tmp_path)) == [b"tea", b"rent", b"gold"]
    assert check(cache_in(tmp_path)) == []
    assert check(cache_in(tmp_path), [b"gold", b"home"]) == [b"home"]


def test_no_texts_give_an_empty_array(tmp_path: Path) -> None:
    assert cache_in(tmp_path).vectors([], Encoder([])).shape == (0, WIDTH)


def test_another_encoder_knows_nothing(tmp_path: Path) -> None:
    check(cache_in(tmp_path))
    assert len(check(cache_in(tmp_path, encoder="two"))) == 3


@pytest.mark.parametrize("damage", ["flipped", "short", "other text"])
def test_a_damaged_vector_is_encoded_anew_and_mended(tmp_path: Path, damage: str) -> None:
    cache = cache_in(tmp_path)
    check(cache)
    with sqlite3.connect(cache.path) as connection:
        rows = connection.execute("SELECT id, vector FROM vectors ORDER BY id").fetchall()
        blob = rows[0][1]
        blob = {"flipped": blob[:-1] + bytes([blob[-1] ^ 1]), "short": blob[:-3], "other text": rows[1][1]}[
            damage
        ]
        connection.execute("UPDATE vectors SET vector = ? WHERE id = ?", (blob, rows[0][0]))
    assert check(cache) == [b"tea"]
    assert check(cache) == []


@pytest.mark.parametrize(
    "content", [b"", b"no database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 5000]
)
def test_a_damaged_file_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    cache = cache_in(tmp_path)
    check(cache)
    cache.path.write_bytes(content)
    check(cache)
    check(cache)
    assert check(cache) == []


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("a file where the folder should be")
    for _ in range(2):
        assert len(check(cache_in(tmp_path))) == 3


def test_the_file_stays_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, most_bytes=40 * 120)
    for start in range(0, 400, 10):
        check(cache, [b"%d" % number for number in range(start, start + 10)])
    with sqlite3.connect(cache.path) as connection:
        assert connection.execute("SELECT count(*) FROM vectors").fetchone()[0] <= 40
    assert cache.path.stat().st_size < 40_000
    assert check(cache, [b"399"]) == []


def test_several_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def work(number: int) -> None:
        for start in range(0, 60, 10):
            check(cache_in(tmp_path), [b"%d" % text for text in range(start + number, start + number + 20)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert check(cache_in(tmp_path), [b"%d" % text for text in range(70)]) == []
