"""Retrieval of held-out users' answers."""

import numpy as np
import torch
from torch import Tensor

from qanchor.model.qanchor import QAnchor
from qanchor.training.batches import BatchBuilder
from qanchor.training.forward import forward_points
from qanchor.training.losses import at_widths

_MOST_POINTS = 256


@torch.no_grad()
def check_retrieval(model: QAnchor, builder: BatchBuilder, width: int | None = None) -> dict[str, float]:
    """How often a held-out user's answer is the nearest among those of a cell, and its mean rank.

    All points of a cell have the same questions; an answer equal to the user's does not count against it.

    Args:
        model: both towers.
        builder: source of the held-out points.
        width: how many first numbers of a vector are compared; None: all.

    Returns:
        retrieval_at_1 (share), mean_rank (1 is best) and chance_rank; empty without held-out points.
    """
    pairs = builder.pairs
    cells = min(_MOST_POINTS, len(pairs.points) - pairs.trained) // pairs.cell
    if cells == 0:
        return {}
    training = model.training
    model.eval()
    ranks, sizes = [], []
    for cell in range(cells):
        points = pairs.trained + cell * pairs.cell + np.arange(pairs.cell)
        batch = builder.build(points).to(model.projection[0].weight.device)  # type: ignore[arg-type]
        output = forward_points(model, batch, next_token_questions=0)
        kept = (width,) if width else ()
        anchors, answers = (at_widths(some, kept)[0] for some in (output.anchor, output.answer))
        for slot in range(batch.question_ids.shape[1]):
            rank, size = _ranks(anchors, answers, batch.answer_ids, slot)
            ranks.append(rank)
            sizes.append(size)
    model.train(training)
    rank, size = torch.cat(ranks).float(), torch.cat(sizes).float()
    return {
        "retrieval_at_1": round(float((rank == 1).float().mean()), 4),
        "mean_rank": round(float(rank.mean()), 3),
        "chance_rank": round(float((size + 1).mean() / 2), 3),
    }


def _ranks(anchor: Tensor, answer: Tensor, answer_ids: Tensor, slot: int) -> tuple[Tensor, Tensor]:
    """Rank of each point's answer to one question, and the number of different answers; int64 [points]."""
    points, questions = answer_ids.shape[:2]
    answers = answer.view(points, questions, -1)[:, slot]
    _, same = torch.unique(answer_ids[:, slot], dim=0, return_inverse=True)
    scores = anchor.view(points, questions, -1)[:, slot] @ answers.T  # [points, points]
    other = same[:, None] != same[None, :]
    better = (scores > scores.diagonal()[:, None]) & other
    return better.sum(1) + 1, other.sum(1) + 1
