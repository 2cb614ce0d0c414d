"""Texts of a dear encoder: encoded once, kept for others, and the same vectors come out."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BertConfig, BertModel

from qanchor.model.checkpoint import LoadedModel
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.event_texts import encoder_version
from qanchor.model.runtime import Runtime
from qanchor.model.text_encoder import TransformerTextEncoder
from tests.unit.model.worlds import HOUR, QUERIES, START, make_world, random_arrays

ARRAYS = random_arrays(0)
SIZES = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


class CountingEncoder(TransformerTextEncoder):
    """Counts the texts that it encodes."""

    encoded = 0

    def forward(self, text_ids: Tensor, text_mask: Tensor) -> Tensor:
        self.encoded += len(text_ids)
        return super().forward(text_ids, text_mask)


def loaded_model(seed: int = 1) -> tuple[LoadedModel, CountingEncoder]:
    """A model with a small transformer of random weights."""
    world = make_world(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = CountingEncoder(BertModel(BertConfig(vocab_size=400, **SIZES))).eval().requires_grad_(False)
    world.model.encoder.text_encoder = encoder
    dear = world.config.text_encoder.model_copy(update={"kind": "transformer"})
    config = world.config.model_copy(update={"text_encoder": dear})
    runtime = Runtime(torch.device("cpu"), torch.float32)
    return LoadedModel(world.model, world.tokenizer, world.normaliser, config, {}, "hash", runtime), encoder


def vectors(loaded: LoadedModel, folder: Path | None) -> NDArray[np.float32]:
    embedder, cutoffs = UserEmbedder(loaded, 60, folder), np.full(5, START + 900 * HOUR)
    return embedder.embed(ARRAYS, np.arange(5), cutoffs, [Query(QUERIES[0])])


def test_a_text_is_encoded_once_for_all_batches_and_never_again(tmp_path: Path) -> None:
    loaded, encoder = loaded_model()
    plain = vectors(loaded, None)
    assert encoder.encoded == len(ARRAYS.texts)
    first = vectors(loaded, tmp_path)
    assert encoder.encoded == 2 * len(ARRAYS.texts)
    again, another = loaded_model()
    np.testing.assert_allclose(vectors(again, tmp_path), first, atol=1e-6)
    np.testing.assert_allclose(first, plain, atol=1e-6)
    assert another.encoded == 0


def test_other_weights_have_a_cache_of_their_own(tmp_path: Path) -> None:
    loaded, _ = loaded_model(1)
    other, encoder = loaded_model(2)
    vectors(loaded, tmp_path)
    expected = vectors(other, None)
    encoder.encoded = 0
    np.testing.assert_allclose(vectors(other, tmp_path), expected, atol=1e-6)
    assert encoder.encoded == len(ARRAYS.texts)
    assert len(list(tmp_path.glob("*.db"))) == 2


def test_a_changed_weight_or_format_is_another_version() -> None:
    loaded, encoder = loaded_model()
    before = encoder_version(loaded)
    assert encoder_version(loaded_model()[0]) == before
    half = LoadedModel(**{**vars(loaded), "runtime": Runtime(torch.device("cpu"), torch.bfloat16)})
    assert encoder_version(half) != before
    weights: Any = encoder.encoder
    weights.embeddings.word_embeddings.weight[7, 3] += 1e-3
    assert encoder_version(loaded) != before


def test_a_damaged_cache_changes_no_vector(tmp_path: Path) -> None:
    loaded, encoder = loaded_model()
    expected = vectors(loaded, tmp_path)
    (file,) = tmp_path.glob("*.db")
    content = bytearray(file.read_bytes())
    content[2_000:] = bytes(byte ^ 0x5A for byte in content[2_000:])
    file.write_bytes(content)
    encoder.encoded = 0
    np.testing.assert_allclose(vectors(loaded, tmp_path), expected, atol=1e-6)
    assert encoder.encoded == len(ARRAYS.texts)


def test_an_encoder_of_a_bag_keeps_nothing(tmp_path: Path) -> None:
    world = make_world(1)
    parts = world.model, world.tokenizer, world.normaliser, world.config
    loaded = LoadedModel(*parts, {}, "hash", Runtime(torch.device("cpu"), torch.float32))
    vectors(loaded, tmp_path)
    assert list(tmp_path.iterdir()) == []
