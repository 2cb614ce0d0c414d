"""Eight bits: nearly the same vectors, and only where they are meant to be."""

import numpy as np
import pytest
import torch
from torch import nn

from qanchor.errors import WorkspaceInvalid
from qanchor.model.checkpoint import LoadedModel
from qanchor.model.embedder import Query, UserEmbedder
from qanchor.model.inference import quantise
from qanchor.model.runtime import Runtime, choose_runtime
from tests.unit.model.worlds import HOUR, QUERIES, START, make_world, random_arrays

ARRAYS = random_arrays(0)


def loaded_on(device: str) -> LoadedModel:
    world = make_world(1)
    parts = world.model, world.tokenizer, world.normaliser, world.config
    return LoadedModel(*parts, {}, "hash", Runtime(torch.device(device), torch.float32))


def test_vectors_in_int8_lie_close_to_those_in_float32() -> None:
    cutoffs, anchors = np.full(5, START + 900 * HOUR), [Query(question) for question in QUERIES]
    exact = UserEmbedder(loaded_on("cpu")).embed(ARRAYS, np.arange(5), cutoffs, anchors)
    close = UserEmbedder(quantise(loaded_on("cpu"))).embed(ARRAYS, np.arange(5), cutoffs, anchors)
    cosines = (exact * close).sum(axis=2)
    assert cosines.min() > 0.99
    assert cosines.max() < 1 - 1e-9


def test_only_the_decoder_changes() -> None:
    loaded = quantise(loaded_on("cpu"))
    assert not [m for m in loaded.model.backbone.lm.model.modules() if isinstance(m, nn.Linear)]
    assert [m for m in loaded.model.encoder.modules() if isinstance(m, nn.Linear)]
    assert [m for m in loaded.model.projection.modules() if isinstance(m, nn.Linear)]


def test_a_gpu_is_refused_with_a_remedy() -> None:
    with pytest.raises(WorkspaceInvalid, match=r"int8 is for CPUs.*cuda") as refused:
        quantise(loaded_on("cuda"))
    assert "bfloat16" in str(refused.value)


def test_training_stays_in_float32_where_int8_is_set() -> None:
    assert choose_runtime("cpu", "int8").dtype is torch.float32
