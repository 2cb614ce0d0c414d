"""The losses against slow loops written from the formulas."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qanchor.training.losses import Form, contrastive_loss, prompt_loss, same_user_or_answer, summary_loss

TAU, MARGIN = 0.07, 0.1
Terms = Callable[[Tensor, Tensor, int, int], list[float]]


def _units(seed: int, rows: int = 7, dim: int = 5) -> Tensor:
    return F.normalize(
        torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1
    )


def _paper_terms(u: Tensor, v: Tensor, i: int, j: int) -> list[float]:
    """Eq. 3-5: user j and answer j are left out together."""
    s_ii = float(u[i] @ v[i])
    uu, uv, vv = float(u[i] @ u[j]), float(u[i] @ v[j]), float(v[i] @ v[j])
    return [] if uu > s_ii + MARGIN or uv > s_ii + MARGIN else [uv, uu, vv]


def _code_terms(u: Tensor, v: Tensor, i: int, j: int) -> list[float]:
    """The authors' file: every term masked by itself; v_i with u_j, no v_i with v_j."""
    terms = float(u[i] @ v[j]), float(u[i] @ u[j]), float(v[i] @ u[j])
    return [s for s in terms if s <= float(u[i] @ v[i]) + MARGIN]


def _loop(u: Tensor, v: Tensor, never: Tensor, terms: Terms) -> float:
    """The loss, one number at a time."""
    total = 0.0
    for i in range(len(u)):
        positive = math.exp(float(u[i] @ v[i]) / TAU)
        z = positive
        for j in range(len(u)):
            if j != i and not never[i, j]:
                z += sum(math.exp(s / TAU) for s in terms(u, v, i, j))
        total -= math.log(positive / z)
    return total / len(u)


@pytest.mark.parametrize(("form", "terms"), [("paper", _paper_terms), ("code", _code_terms)])
@pytest.mark.parametrize("seed", range(5))
def test_contrastive_loss_equals_a_loop_over_the_formula(form: Form, terms: Terms, seed: int) -> None:
    u, v = _units(seed), _units(seed + 100)
    never = torch.rand(7, 7, generator=torch.Generator().manual_seed(seed)) < 0.2
    got = contrastive_loss(u, v, TAU, MARGIN, never, form)
    assert got.item() == pytest.approx(_loop(u, v, never, terms), rel=1e-9)


def test_the_two_forms_differ() -> None:
    u, v = _units(0), _units(1)
    paper = contrastive_loss(u, v, form="paper")
    assert paper.item() != pytest.approx(contrastive_loss(u, v, form="code").item(), rel=1e-3)


@pytest.mark.parametrize("form", ["paper", "code"])
def test_a_negative_closer_than_the_margin_is_left_out(form: Form) -> None:
    # Anchor 1 equals anchor 0, and both positives are far away: nothing of the other remains.
    u = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), dim=1)
    v = F.normalize(torch.tensor([[0.0, 1.0], [1.0, 0.2]]), dim=1)
    first_row_only = contrastive_loss(u, v, TAU, 10.0, None, form)
    assert contrastive_loss(u, v, TAU, MARGIN, None, form) < first_row_only


def test_a_pair_that_is_never_negative_changes_nothing() -> None:
    u, v = _units(3), _units(4)
    never = torch.zeros(7, 7, dtype=torch.bool)
    never[:, 6] = never[6, :] = True
    alone = contrastive_loss(u[:6], v[:6]) * 6
    # Row 6 has no negatives left, so its own loss is 0.
    assert contrastive_loss(u, v, never_negative=never).item() == pytest.approx(alone.item() / 7)


def test_contrastive_loss_stays_finite_at_a_tiny_temperature() -> None:
    u = _units(5).float().requires_grad_()
    loss = contrastive_loss(u, _units(6).float(), temperature=1e-3)
    loss.backward()  # type: ignore[no-untyped-call]
    assert u.grad is not None
    assert torch.isfinite(loss)
    assert torch.isfinite(u.grad).all()


def test_same_user_and_same_answer_are_never_negatives() -> None:
    users = torch.tensor([1, 1, 2, 3])
    answers = torch.tensor([[5, 6, 0], [7, 0, 0], [5, 6, 0], [5, 6, 7]])
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = expected[0, 2] = expected[2, 0] = True
    assert torch.equal(same_user_or_answer(users, answers), expected)


def test_prompt_loss_equals_a_loop_over_the_formula() -> None:
    u, prototypes = _units(8), _units(9, rows=2)
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    total = 0.0
    for vector, label in zip(u, labels.tolist(), strict=True):
        scores = [math.exp(float(vector @ p) / TAU) for p in prototypes]
        total -= math.log(scores[label] / sum(scores))
    assert prompt_loss(u, prototypes, labels, TAU).item() == pytest.approx(total / len(labels))


def test_summary_loss_is_the_mean_squared_error() -> None:
    predicted, summaries = _units(1), _units(2)
    expected = sum(
        (float(a) - float(b)) ** 2 for a, b in zip(predicted.flatten(), summaries.flatten(), strict=True)
    )
    assert summary_loss(predicted, summaries).item() == pytest.approx(expected / predicted.numel())
