"""The objective in parts against the whole batch at once: the same losses and the same gradients."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qanchor.model.qanchor import QAnchor
from qanchor.model.runtime import Runtime
from qanchor.training.batches import PairBatch, part_of
from qanchor.training.distributed import Ranks
from qanchor.training.forward import forward_points
from qanchor.training.losses import contrastive_loss, same_user_or_answer, summary_loss
from qanchor.training.objective import NO_MARGIN, Losses, Objective
from qanchor.training.pretrain_config import PretrainConfig
from qanchor.training.useru.pairs import UserUConfig
from tests.unit.training.worlds import tiny_trainee

USERU = UserUConfig(horizons_days=(7, 14), step_days=20, cell=4, questions=3, held_share=0.2)
CONFIG = PretrainConfig(points=8, useru=USERU, next_token_questions=2)
CPU = Runtime(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trainee() -> tuple[QAnchor, PairBatch]:
    model, _, batch = tiny_trainee(USERU)
    return model.train(), batch


def _reader(batch: PairBatch) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(12, batch.summaries.shape[2])


def _gradients(
    trainee: tuple[QAnchor, PairBatch], config: PretrainConfig, runtime: Runtime = CPU
) -> tuple[Losses, dict[str, Tensor]]:
    model, batch = trainee
    parts = nn.ModuleList([model, _reader(batch)])
    parts.zero_grad(set_to_none=True)
    losses = Objective(model, parts[1], config, runtime, Ranks()).backward(batch, 3)
    gradients = {name: p.grad.clone() for name, p in parts.named_parameters() if p.grad is not None}
    parts.zero_grad(set_to_none=True)
    return losses, gradients


def _assert_same(left: dict[str, Tensor], right: dict[str, Tensor], most: float = 1e-5) -> None:
    assert left.keys() == right.keys()
    largest = max(float(value.abs().max()) for value in left.values())
    for name, value in left.items():
        assert float((value - right[name]).abs().max()) <= most * max(1.0, largest), name


@pytest.mark.parametrize(
    "changes",
    [{}, {"form": "code"}, {"widths": (3, 6)}, {"next_token_weight": 0.0, "summary_weight": 0.0}],
)
@pytest.mark.parametrize("size", [1, 3])
def test_parts_give_the_losses_and_gradients_of_the_whole_batch(
    trainee: tuple[QAnchor, PairBatch], size: int, changes: dict[str, Any]
) -> None:
    config = replace(CONFIG, **changes)
    losses, whole = _gradients(trainee, config)
    again, parts = _gradients(trainee, replace(config, grad_cache=size))
    assert again.numbers() == pytest.approx(losses.numbers(), abs=2e-5)
    assert len(whole) > 30
    _assert_same(whole, parts)


def test_parts_keep_what_dropout_drew(trainee: tuple[QAnchor, PairBatch]) -> None:
    model, batch = trainee
    model.encoder.user_adapter.append(nn.Dropout(0.5))
    try:
        config = replace(CONFIG, grad_cache=3)
        losses, parts = _gradients(trainee, config)
        reference, expected = _all_graphs_at_once(model, batch, config)
        assert losses.numbers() == pytest.approx(reference.numbers(), abs=2e-5)
        _assert_same(expected, parts)
        _, other = _gradients(trainee, replace(config, seed=5))
        assert any(not torch.allclose(value, other[name], atol=1e-4) for name, value in parts.items())
    finally:
        del model.encoder.user_adapter[-1]


def _all_graphs_at_once(
    model: QAnchor, batch: PairBatch, config: PretrainConfig
) -> tuple[Losses, dict[str, Tensor]]:
    """The three parts with their graphs, drawn as the objective draws, and one backward pass over all."""
    both = nn.ModuleList([model, _reader(batch)])
    drawn = Objective(model, both[1], config, CPU, Ranks())
    outputs, next_token = [], torch.zeros(())
    tokens = (batch.answer_ids[:, :2] != model.pad_id).sum(dim=(1, 2)).double()
    for number, points in enumerate((range(0, 3), range(3, 6), range(6, 8))):
        part = part_of(batch, points, model.pad_id)
        output = drawn._forward(part, 3, number)
        share = float(tokens[points.start : points.stop].sum() / tokens.sum())
        outputs.append(output)
        next_token = next_token + output.next_token_loss * share
    anchor = torch.cat([output.anchor for output in outputs])
    answer = torch.cat([output.answer for output in outputs])
    users = batch.users.repeat_interleave(3)
    never = same_user_or_answer(users, batch.answer_ids.flatten(0, 1))
    contrastive = contrastive_loss(anchor, answer, 0.07, 0.1, never)
    summary = summary_loss(both[1](anchor), batch.summaries.flatten(0, 1))
    weights = config.contrastive_weight, config.next_token_weight, config.summary_weight
    (weights[0] * contrastive + weights[1] * next_token + weights[2] * summary).backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.clone() for name, p in both.named_parameters() if p.grad is not None}
    both.zero_grad(set_to_none=True)
    return Losses(contrastive.detach(), next_token.detach(), summary.detach()), gradients


def test_a_part_is_those_rows_of_the_whole(trainee: tuple[QAnchor, PairBatch]) -> None:
    model, batch = trainee
    model.eval()
    with torch.no_grad():
        whole = forward_points(model, batch, 0)
        for points in (range(0, 1), range(2, 7), range(7, 8), range(0, 8)):
            part = forward_points(model, part_of(batch, points, model.pad_id), 0)
            rows = slice(points.start * 3, points.stop * 3)
            assert (part.anchor - whole.anchor[rows]).abs().max() <= 1e-5
            assert (part.answer - whole.answer[rows]).abs().max() <= 1e-5
    model.train()


def test_checkpointing_gives_the_same_gradients(trainee: tuple[QAnchor, PairBatch]) -> None:
    losses, kept = _gradients(trainee, CONFIG)
    trainee[0].checkpoint_layers(True)
    try:
        again, computed = _gradients(trainee, CONFIG)
    finally:
        trainee[0].checkpoint_layers(False)
    assert again.numbers() == pytest.approx(losses.numbers(), abs=2e-5)
    _assert_same(kept, computed)


def test_checkpointing_keeps_fewer_numbers_for_the_backward_pass(
    trainee: tuple[QAnchor, PairBatch],
) -> None:
    model, batch = trainee

    def kept() -> int:
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            forward_points(model, batch, 2)
        return sum(sizes.values())

    everything = kept()
    model.checkpoint_layers(True)
    try:
        assert kept() < everything
    finally:
        model.checkpoint_layers(False)


@pytest.mark.parametrize("size", [0, 3])
def test_bfloat16_computes_nearly_the_same_losses(trainee: tuple[QAnchor, PairBatch], size: int) -> None:
    half = Runtime(torch.device("cpu"), torch.bfloat16)
    losses, _ = _gradients(trainee, CONFIG)
    rounded, gradients = _gradients(trainee, replace(CONFIG, grad_cache=size), half)
    assert rounded.numbers() != losses.numbers()
    assert rounded.numbers() == pytest.approx(losses.numbers(), rel=0.05)
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in gradients.values())


def test_pairs_of_one_user_or_answer_are_no_negatives_across_parts(
    trainee: tuple[QAnchor, PairBatch],
) -> None:
    model, batch = trainee
    # Every point is the same user: no negative is left, so the contrastive loss is 0.
    alone = replace(batch, users=torch.zeros_like(batch.users))
    for size in (0, 3):
        objective = Objective(model, _reader(batch), replace(CONFIG, grad_cache=size), CPU, Ranks())
        assert objective.backward(alone, 0).contrastive.item() == 0
        assert objective.backward(batch, 0).contrastive.item() > 0
    model.zero_grad(set_to_none=True)


def test_without_the_margin_every_other_pair_counts(trainee: tuple[QAnchor, PairBatch]) -> None:
    model, batch = trainee
    objective = Objective(model, _reader(batch), CONFIG, CPU, Ranks())
    assert objective.backward(batch, 0, masked=False).contrastive >= objective.backward(batch, 0).contrastive
    assert NO_MARGIN > 2  # no two cosines differ by more
    model.zero_grad(set_to_none=True)


def test_nested_widths_average_the_losses_of_each_width(trainee: tuple[QAnchor, PairBatch]) -> None:
    model, _ = trainee
    config = replace(CONFIG, widths=(4,), next_token_weight=0.0)
    losses, _ = _gradients(trainee, config)
    whole, _ = _gradients(trainee, replace(config, widths=()))
    model.projection[2].register_forward_hook(lambda _, __, out: out * (torch.arange(12) < 4))
    hooks = model.projection[2]._forward_hooks
    narrow, _ = _gradients(trainee, replace(config, widths=()))
    hooks.clear()
    assert losses.contrastive.item() == pytest.approx((whole.contrastive + narrow.contrastive).item() / 2)
    assert losses.summary.item() == pytest.approx((whole.summary + narrow.summary).item() / 2)
