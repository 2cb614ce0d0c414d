"""Fresh weights of a narrow decoder."""

import pytest
import torch

from qanchor.model.build import build_model, make_tokenizer
from qanchor.training.fresh import widen_fresh_weights
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
