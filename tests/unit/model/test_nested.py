"""Nested widths: narrowed vectors are unit vectors, and a loss on padded ones is the loss on narrow ones."""

import numpy as np
import torch
from torch.nn.functional import normalize

from qanchor.model.space import narrowed
from qanchor.training.losses import at_widths, contrastive_loss


def _unit(rows: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_narrowed_vectors_are_unit_vectors_of_the_first_numbers() -> None:
    whole = _unit(9, 0).numpy()
    narrow = narrowed(whole, 4)
    assert narrow.shape == (9, 4)
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(narrow, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(narrow / narrow[:, :1], whole[:, :4] / whole[:, :1], rtol=1e-4)
    assert narrowed(whole, 16) is whole


def test_the_whole_vectors_come_last_and_are_left_as_they_are() -> None:
    whole = _unit(5, 1)
    widths = at_widths(whole, (8, 4, 16))
    assert len(widths) == 3
    assert widths[-1] is whole
    assert at_widths(whole, ()) == [whole]
    assert torch.allclose(widths[0].norm(dim=-1), torch.ones(5))
    assert not widths[0][:, 4:].any()


def test_a_loss_on_a_width_is_the_loss_on_narrow_vectors() -> None:
    anchors, answers = _unit(12, 2), _unit(12, 3)
    padded = contrastive_loss(at_widths(anchors, (4,))[0], at_widths(answers, (4,))[0])
    narrow = contrastive_loss(normalize(anchors[:, :4], dim=-1), normalize(answers[:, :4], dim=-1))
    assert torch.allclose(padded, narrow)
