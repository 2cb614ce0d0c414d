"""The three losses: contrastive with a margin mask, and the prompt's class prototypes.

The next-token loss is the backbone's and comes out of `training.forward.forward_points`.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["paper", "code"]


def contrastive_loss(
    anchor: Tensor,
    answer: Tensor,
    temperature: float = 0.07,
    margin: float = 0.1,
    never_negative: Tensor | None = None,
    form: Form = "paper",
) -> Tensor:
    """Pull each anchor to its answer, away from the others of the batch.

    A negative that is closer than the positive by more than `margin` is probably a false one and is
    left out. The paper masks a pair (i, j) as a whole, by anchor-anchor and anchor-answer
    similarity, and counts three terms; the authors' code masks each term by that term's similarity,
    and counts answer-anchor instead of answer-answer.

    Args:
        anchor: unit vectors, [batch, dim].
        answer: unit vectors, [batch, dim]; row i answers anchor i.
        temperature: divides the cosine; in (0, 1].
        margin: how much closer than the positive a negative may be, in cosine.
        never_negative: bool [batch, batch]; True where i and j are the same user or share an answer.
            An identical answer scores exactly like the positive, so the margin does not catch it.
        form: "paper" (Eq. 3-5) or "code" (the authors' public file).

    Returns:
        Mean negative log-likelihood in nats, shape ().

    Source: arXiv 2602.14492, Eq. 3-5.
    """
    anchor_answer = anchor @ answer.T  # [batch, batch]
    anchor_anchor = anchor @ anchor.T
    positive = anchor_answer.diagonal()  # [batch]
    limit = positive.detach()[:, None] + margin
    negative = ~torch.eye(len(anchor), dtype=torch.bool, device=anchor.device)
    if never_negative is not None:
        negative = negative & ~never_negative
    if form == "paper":
        kept = negative & (anchor_anchor <= limit) & (anchor_answer <= limit)
        terms = [(anchor_answer, kept), (anchor_anchor, kept), (answer @ answer.T, kept)]
    else:
        every = (anchor_answer, anchor_anchor, anchor_answer.T)
        terms = [(similarity, negative & (similarity <= limit)) for similarity in every]
    scores = [(similarity / temperature).masked_fill(~kept, -torch.inf) for similarity, kept in terms]
    logits = torch.cat([(positive / temperature)[:, None], *scores], dim=1)  # [batch, 1 + 3 batch]
    loss: Tensor = (torch.logsumexp(logits, dim=1) - logits[:, 0]).mean()
    return loss


def same_user_or_answer(users: Tensor, answers: Tensor) -> Tensor:
    """Which pairs of a batch must not be negatives of each other.

    Args:
        users: integer id of each row's user, [batch].
        answers: padded token ids, [batch, tokens].

    Returns:
        bool [batch, batch], symmetric, True on the diagonal.
    """
    _, answer = torch.unique(answers, dim=0, return_inverse=True)
    same: Tensor = (users[:, None] == users[None, :]) | (answer[:, None] == answer[None, :])
    return same


def prompt_loss(vectors: Tensor, prototypes: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """How badly the class prototypes predict the users' classes from their vectors.

    Args:
        vectors: unit vectors, [batch, dim].
        prototypes: one unit vector for each class, [classes, dim].
        labels: class of each user, int64 [batch].
        temperature: divides the cosine; in (0, 1].

    Returns:
        Mean cross-entropy in nats, shape ().

    Source: arXiv 2602.14492, Eq. 7.
    """
    loss: Tensor = F.cross_entropy(vectors @ prototypes.T / temperature, labels)
    return loss


def summary_loss(predicted: Tensor, summaries: Tensor) -> Tensor:
    """How badly the embedding predicts the summary of the question's span.

    The next-token loss reaches `<|user_emb|>` through the answer's first token alone, and the contrastive
    one through the differences between a batch's answers; this one needs all of the span in the embedding.

    Args:
        predicted: linear function of unit vectors, [batch, numbers].
        summaries: standardised summaries, [batch, numbers].

    Returns:
        Mean squared error, shape (); 1 for a prediction of zero.
    """
    loss: Tensor = (predicted - summaries).square().mean()
    return loss


def at_widths(vectors: Tensor, widths: tuple[int, ...]) -> list[Tensor]:
    """The vectors at each width and whole, with zeros beyond a narrower width.

    Products of two such vectors are those of the narrowed ones, so a loss takes them like whole ones.

    Args:
        vectors: unit vectors, [batch, dim].
        widths: at most dim; dim itself adds nothing.

    Returns:
        Unit vectors [batch, dim] each, the whole ones last.

    Source: Kusupati et al., arXiv 2205.13147 (Matryoshka representations).
    """
    whole: Any = vectors.shape[-1]
    column = torch.arange(whole, device=vectors.device)
    narrow = [F.normalize(vectors * (column < width), dim=-1) for width in sorted(widths) if width < whole]
    return [*narrow, vectors]
