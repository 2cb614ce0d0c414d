"""The training pass: the arithmetic of one full sequence, and it reaches every weight."""

import torch
from torch.nn.functional import cross_entropy

from qanchor.model.batch import EventBatch
from qanchor.training.batches import PairBatch
from qanchor.training.forward import forward_points
from tests.unit.model.worlds import QUERIES, World, make_world, random_arrays, slices_at

WORLD = make_world(1)
TOLERANCE = 1e-5


def pairs(world: World, batch: EventBatch) -> PairBatch:
    """Three points with one question each."""
    questions = world.tokenizer.encode_queries([QUERIES[0], QUERIES[2], QUERIES[1]])
    answers = world.tokenizer.encode_answers(["tea", "the user leaves soon", "buys tickets"])
    return PairBatch(batch, questions[:, None], answers[:, None], torch.arange(3), torch.zeros(3, 1, 2))


def test_the_training_pass_is_one_full_sequence() -> None:
    arrays = random_arrays(0)
    batch = WORLD.batch(arrays, slices_at(arrays, [0, 1, -1], [900, 500, 900]))
    points = pairs(WORLD, batch)
    questions, answers = points.question_ids[:, 0], points.answer_ids[:, 0]
    output = forward_points(WORLD.model, points)
    expected_loss, count = 0.0, 0
    for row in range(3):
        ids = questions[row][questions[row] != WORLD.tokenizer.pad_id]
        answer = answers[row][answers[row] != WORLD.tokenizer.pad_id]
        prefix = WORLD.model.encoder(batch)[row, : batch.lengths[row]]
        suffix = WORLD.model.backbone.embed(torch.cat([ids, answer])[None])[0]
        hidden = WORLD.model.backbone.causal(torch.cat([prefix, suffix])[None])[0]
        at = int(batch.lengths[row]) + len(ids) - 1
        anchor = WORLD.model.project(hidden[at][None])[0]
        assert (anchor - output.anchor[row]).abs().max() <= TOLERANCE
        scores = WORLD.model.backbone.logits(hidden[at : at + len(answer)])
        expected_loss += float(cross_entropy(scores, answer, reduction="sum").detach())
        count += len(answer)
    assert abs(expected_loss / count - float(output.next_token_loss.detach())) < 1e-4


def test_every_parameter_learns() -> None:
    world = make_world(5)
    arrays = random_arrays(0)
    batch = world.batch(arrays, slices_at(arrays, [0, 1, -1], [900, 20, 900]))
    output = forward_points(world.model, pairs(world, batch))
    loss = (
        output.next_token_loss
        - (output.anchor * output.answer).sum()
        + (output.anchor @ output.anchor.T).sum()
    )
    loss.backward()  # type: ignore[no-untyped-call]
    learned = [(name, p) for name, p in world.model.named_parameters() if p.requires_grad]
    without = [name for name, parameter in learned if parameter.grad is None]
    assert without == []
