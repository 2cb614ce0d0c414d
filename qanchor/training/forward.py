"""A training pass over points with several questions each: the prefix once, a suffix for every question."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from qanchor.model.prefix_cache import PrefixCache
from qanchor.model.qanchor import QAnchor
from qanchor.training.batches import PairBatch


@dataclass(frozen=True)
class PairOutput:
    """What a training pass computes; row p * questions + q is question q of point p.

    Args:
        anchor: unit vectors [points * questions, dim], float32, of (user, question).
        answer: unit vectors [points * questions, dim], float32, of the answers.
        next_token_loss: mean cross-entropy of the answers' tokens in nats, shape ().
    """

    anchor: Tensor
    answer: Tensor
    next_token_loss: Tensor


def forward_points(
    model: QAnchor, batch: PairBatch, next_token_questions: int = 1, scored: bool = True
) -> PairOutput:
    """Both towers and the next-token loss of every (point, question).

    The prefix does not depend on the question, so its keys and values serve all questions of a point,
    as they do at inference; gradients from all of them meet in it.

    Args:
        model: in training or evaluation mode.
        batch: points with their questions and answers.
        next_token_questions: how many questions of each point, from the first, carry the next-token loss,
            whose suffix is several times as long; 0 leaves that loss at zero.
        scored: compute the next-token loss; False leaves it at zero and changes nothing else.

    Source: arXiv 2602.14492, section 3.2.2 and Eq. 6.
    """
    prefix = model.encode_prefix(batch.events)
    points, questions, tokens = batch.question_ids.shape
    predicted = min(next_token_questions, questions)
    loss = prefix.keys[0].new_zeros(())
    hidden: list[Tensor] = []
    if predicted:
        ids, answers = (some[:, :predicted].flatten(0, 1) for some in (batch.question_ids, batch.answer_ids))
        at_user, predictors = _with_answers(model, repeated(prefix, predicted), ids, answers)
        loss = _next_token_loss(model, predictors, answers) if scored else loss
        hidden.append(at_user.view(points, predicted, -1))
    if predicted < questions:
        ids = batch.question_ids[:, predicted:].reshape(-1, tokens)
        prefixes = repeated(prefix, questions - predicted)
        at_user = model.backbone.read(model.backbone.embed(ids), ids != model.pad_id, prefixes)
        hidden.append(at_user.view(points, questions - predicted, -1))
    anchors = model.project(torch.cat(hidden, dim=1).flatten(0, 1))
    # An answer that several users share is encoded once.
    distinct, row = torch.unique(batch.answer_ids.flatten(0, 1), dim=0, return_inverse=True)
    return PairOutput(anchors, _answers(model, distinct)[row], loss)


def repeated(prefix: PrefixCache, times: int) -> PrefixCache:
    """Every user's prefix `times` times in a row; gradients flow back to the one."""
    return PrefixCache(
        tuple(layer.repeat_interleave(times, dim=0) for layer in prefix.keys),
        tuple(layer.repeat_interleave(times, dim=0) for layer in prefix.values),
        prefix.lengths.repeat_interleave(times),
    )


def _answers(model: QAnchor, ids: Tensor) -> Tensor:
    """`model.encode_answers`, as a suffix of no prefix: the last layer then works on the last token alone."""
    layer = model.backbone.lm.config
    width = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    weight = next(model.projection.parameters())
    none = weight.new_zeros(len(ids), layer.num_key_value_heads, 0, width)
    depth = layer.num_hidden_layers
    prefix = PrefixCache((none,) * depth, (none,) * depth, ids.new_zeros(len(ids)))
    return model.project(model.backbone.read(model.backbone.embed(ids), ids != model.pad_id, prefix))


def _with_answers(
    model: QAnchor, prefix: PrefixCache, questions: Tensor, answers: Tensor
) -> tuple[Tensor, Tensor]:
    """The hidden states at `<|user_emb|>`, [rows, d_model], and those that predict the answer's tokens,
    [rows, tokens, d_model].

    `<|user_emb|>` predicts the first answer token, and each answer token the next.
    """
    ids = torch.cat([questions, answers], dim=1)
    hidden = model.backbone.suffix(model.backbone.embed(ids), ids != model.pad_id, prefix)
    last = (questions != model.pad_id).sum(1) - 1
    at_user = hidden[torch.arange(len(hidden), device=hidden.device), last]
    return at_user, torch.cat([at_user[:, None], hidden[:, questions.shape[1] : -1]], dim=1)


def _next_token_loss(model: QAnchor, predictors: Tensor, answers: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens in nats, shape ()."""
    real = answers != model.pad_id
    return cross_entropy(model.backbone.logits(predictors[real]).float(), answers[real])
