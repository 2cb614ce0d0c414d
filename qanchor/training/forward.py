"""A training pass over points with several questions each: the prefix once, a suffix for every question."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from qanchor.model.prefix_cache import PrefixCache
from qanchor.model.qanchor import PairOutput, QAnchor
from qanchor.training.batches import PairBatch


def forward_points(
    model: QAnchor, batch: PairBatch, next_token_questions: int = 1, scored: bool = True
) -> PairOutput:
    """Both towers and the next-token loss of every (point, question).

    The prefix does not depend on what is asked, so its keys and values serve all questions of a point,
    as they do at inference; gradients from all of them meet in it.

    Args:
        model: in training or evaluation mode.
        batch: points with their questions and answers.
        next_token_questions: the first so many questions of each point carry the next-token loss, whose
            suffix is several times as long; 0 leaves that loss at zero.
        scored: compute the next-token loss; False leaves it at zero and changes nothing else.

    Returns:
        Rows by (point, question): anchors and answers [points * questions, dim].

    Source: arXiv 2602.14492, section 3.2.2 and Eq. 6.
    """
    prefix = model.encode_prefix(batch.events)
    points, asked, width = batch.question_ids.shape
    told = min(next_token_questions, asked)
    loss = prefix.keys[0].new_zeros(())
    read: list[Tensor] = []
    if told:
        questions, answers = batch.question_ids[:, :told].flatten(0, 1), batch.answer_ids[:, :told]
        part, hidden = _told(model, repeated(prefix, told), questions, answers.flatten(0, 1))
        loss = _next_token(model, hidden, answers.flatten(0, 1)) if scored else loss
        read.append(part.view(points, told, -1))
    if told < asked:
        questions = batch.question_ids[:, told:].reshape(-1, width)
        part = model.backbone.read(
            model.backbone.embed(questions), questions != model.pad_id, repeated(prefix, asked - told)
        )
        read.append(part.view(points, asked - told, -1))
    anchors = model.project(torch.cat(read, dim=1).flatten(0, 1))
    # An answer that several users share is encoded once.
    distinct, place = torch.unique(batch.answer_ids.flatten(0, 1), dim=0, return_inverse=True)
    return PairOutput(anchors, _answers(model, distinct)[place], loss)


def _answers(model: QAnchor, ids: Tensor) -> Tensor:
    """`model.encode_answers`, as a suffix of no prefix: the last layer then works on the last token alone."""
    layer = model.backbone.lm.config
    width = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    weight = next(model.projection.parameters())
    none = weight.new_zeros(len(ids), layer.num_key_value_heads, 0, width)
    depth = layer.num_hidden_layers
    prefix = PrefixCache((none,) * depth, (none,) * depth, ids.new_zeros(len(ids)))
    return model.project(model.backbone.read(model.backbone.embed(ids), ids != model.pad_id, prefix))


def repeated(prefix: PrefixCache, times: int) -> PrefixCache:
    """Every user's prefix `times` times in a row; gradients flow back to the one."""
    return PrefixCache(
        tuple(layer.repeat_interleave(times, dim=0) for layer in prefix.keys),
        tuple(layer.repeat_interleave(times, dim=0) for layer in prefix.values),
        prefix.lengths.repeat_interleave(times),
    )


def _told(model: QAnchor, prefix: PrefixCache, questions: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """What is read at `<|user_emb|>`, [rows, d_model], and what foretells the answer, [rows, tokens, dim].

    `<|user_emb|>` predicts the first answer token, and each answer token the next.
    """
    ids = torch.cat([questions, answers], dim=1)
    hidden = model.backbone.suffix(model.backbone.embed(ids), ids != model.pad_id, prefix)
    read = _at_anchor(model, hidden, questions)
    return read, torch.cat([read[:, None], hidden[:, questions.shape[1] : -1]], dim=1)


def _next_token(model: QAnchor, readers: Tensor, answers: Tensor) -> Tensor:
    """Mean cross-entropy of the answers' tokens in nats, shape ()."""
    wanted = answers != model.pad_id
    return cross_entropy(model.backbone.logits(readers[wanted]).float(), answers[wanted])


def _at_anchor(model: QAnchor, hidden: Tensor, questions: Tensor) -> Tensor:
    """The hidden state at each question's last token, [rows, d_model]."""
    places = (questions != model.pad_id).sum(1) - 1
    return hidden[torch.arange(len(hidden), device=hidden.device), places]
