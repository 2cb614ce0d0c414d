"""Fresh weights of a narrow decoder."""

import pytest
import torch

from qanchor.model.build import build_model, make_tokenizer
from qanchor.training.initial_weights import whiten_projection, widen_fresh_weights
from tests.unit.training.worlds import tiny_config, tiny_workspace


def test_fresh_weights_have_the_spread_of_their_inputs_and_repeat() -> None:
    config = tiny_config(tiny_workspace())
    tokenizer = make_tokenizer(config, ["a few words"])
    models = [build_model(config, tokenizer, seed=1) for _ in range(2)]
    state = torch.get_rng_state()
    for model in models:
        widen_fresh_weights(model.backbone, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    left, right = (dict(model.backbone.named_parameters()) for model in models)
    assert all(torch.equal(left[name], right[name]) for name in left)
    down = next(weight for name, weight in left.items() if "down_proj" in name)
    assert float(down.detach().std()) == pytest.approx(down.shape[1] ** -0.5, rel=0.2)


def test_a_whitened_projection_turns_vectors_that_are_alike_into_all_directions() -> None:
    chance = torch.Generator().manual_seed(0)
    alike = torch.ones(200, 16) + 0.01 * torch.randn(200, 16, generator=chance)
    projection = torch.nn.Sequential(torch.nn.Linear(16, 24), torch.nn.ReLU(), torch.nn.Linear(24, 12))

    def cosines() -> float:
        vectors = torch.nn.functional.normalize(projection(alike).detach(), dim=1)
        return float((vectors @ vectors.T).mean())

    assert cosines() > 0.99
    # Both towers read the same here: anchors first, answers after them.
    whiten_projection(projection, lambda: (projection(alike), projection(alike)))
    assert abs(cosines()) < 0.1
