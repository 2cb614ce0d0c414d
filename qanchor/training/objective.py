"""L = L_cl + L_ntp of a batch and its gradients, at once or in parts, in one process or several.

A contrastive loss needs all vectors of the batch at the same time, though not their graphs. In parts, the
vectors are computed first without graphs; the loss gives the gradient of each vector; then every part is
computed once more and passes its vectors' gradients on. The result is that of the whole batch, for the memory
of one part and one more forward pass. Several processes work alike: each has a part of the batch.

Source: arXiv 2602.14492, Eq. 3-6; the parts: Gao et al., arXiv 2101.06983.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from qanchor.model.qanchor import QAnchor
from qanchor.model.runtime import Runtime
from qanchor.training.batches import PairBatch, part_of
from qanchor.training.distributed import Ranks
from qanchor.training.forward import PairOutput, forward_points
from qanchor.training.losses import at_widths, contrastive_loss, same_user_or_answer, summary_loss
from qanchor.training.pretrain_config import PretrainConfig

NO_MARGIN = 3.0  # cosines differ by 2 at most


@dataclass(frozen=True)
class Losses:
    """The three losses of a batch, without gradients, shape () each."""

    contrastive: Tensor
    next_token: Tensor
    summary: Tensor

    def numbers(self) -> list[float]:
        """Contrastive, next-token, summary."""
        return [round(part.item(), 5) for part in (self.contrastive, self.next_token, self.summary)]

    def are_finite(self) -> bool:
        """Whether none of them is NaN or infinite."""
        return bool(torch.isfinite(torch.stack([self.contrastive, self.next_token, self.summary])).all())


class Objective:
    """The loss that pre-training minimises.

    Args:
        model: both towers.
        reader: predicts a span's summary from a unit vector.
        config: weights, temperature, margin, form, and how many points are computed at a time.
        runtime: device and number format.
        ranks: the processes that share a batch.
    """

    def __init__(
        self, model: QAnchor, reader: nn.Module, config: PretrainConfig, runtime: Runtime, ranks: Ranks
    ) -> None:
        self._model = model
        self._reader = reader
        self._config = config
        self._runtime = runtime
        self._ranks = ranks

    def backward(self, batch: PairBatch, step: int, masked: bool = True) -> Losses:
        """Add the batch's gradients to the weights'; every process gets those of its share.

        Args:
            batch: all processes' points.
            step: seed of the step's dropout, so that a resumed run draws the same.
            masked: whether probable false negatives are left out.

        Returns:
            The losses of the whole batch.
        """
        share = self._ranks.share(len(batch.users))
        size = self._config.grad_cache or len(share)
        parts = [range(at, min(at + size, share.stop)) for at in range(share.start, share.stop, size)]
        if self._ranks.count == 1 and len(parts) == 1:
            return self._whole(batch.to(self._runtime.device), step, masked)
        return self._in_parts(batch, parts, step, masked)

    def _whole(self, batch: PairBatch, step: int, masked: bool) -> Losses:
        config = self._config
        output = self._forward(batch, step, 0)
        contrastive = self._contrastive(output.anchor, output.answer, batch, masked)
        summary = self._summary(output.anchor, batch.summaries.flatten(0, 1))
        loss = (
            config.contrastive_weight * contrastive
            + config.next_token_weight * output.next_token_loss
            + config.summary_weight * summary
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return Losses(contrastive.detach(), output.next_token_loss.detach(), summary.detach())

    def _in_parts(self, batch: PairBatch, parts: Sequence[range], step: int, masked: bool) -> Losses:
        config, questions = self._config, batch.question_ids.shape[1]
        points, first = len(batch.users), parts[0].start
        outputs = []
        # The only part's graph is kept; those of several are made again one at a time.
        with torch.set_grad_enabled(len(parts) == 1):
            for number, part in enumerate(parts):
                outputs.append(self._forward(self._part(batch, part), step, number, scored=len(parts) == 1))
        anchor, answer = (
            self._ranks.joined(torch.cat(rows), first * questions, points * questions).requires_grad_()
            for rows in ([out.anchor for out in outputs], [out.answer for out in outputs])
        )
        device = self._runtime.device
        contrastive = self._contrastive(anchor, answer, batch, masked)
        rows = slice(first * questions, parts[-1].stop * questions)
        summaries = batch.summaries.to(device).flatten(0, 1)
        share = (parts[-1].stop - first) / points
        summary = share * self._summary(anchor[rows], summaries[rows])
        weighted = config.contrastive_weight * contrastive + config.summary_weight * summary
        weighted.backward()  # type: ignore[no-untyped-call]
        next_token = torch.zeros((), device=device)
        for number, part in enumerate(parts):
            output = outputs[0] if len(parts) == 1 else self._forward(self._part(batch, part), step, number)
            part_loss = output.next_token_loss * self._token_share(batch, part)
            rows = slice(part.start * questions, part.stop * questions)
            self._backward(output, (anchor, answer), rows, part_loss * config.next_token_weight)
            next_token += part_loss.detach()
        summed = self._ranks.summed(torch.stack([next_token, summary.detach()]))
        return Losses(contrastive.detach(), summed[0], summed[1])

    def _backward(
        self, output: PairOutput, joint: tuple[Tensor, Tensor], rows: slice, next_token: Tensor
    ) -> None:
        """One part's backward pass, from its vectors' gradients and its share of the next-token loss."""
        ends, gradients = [], []
        for end, whole in ((output.anchor, joint[0]), (output.answer, joint[1])):
            if whole.grad is not None:
                ends.append(end)
                gradients.append(whole.grad[rows])
        if next_token.requires_grad:
            ends.append(next_token)
            gradients.append(torch.ones_like(next_token))
        torch.autograd.backward(ends, gradients)

    def _forward(self, batch: PairBatch, step: int, part: int, scored: bool = True) -> PairOutput:
        seed = np.random.SeedSequence([self._config.seed, step, self._ranks.rank, part])
        # Dropout does not depend on earlier draws: a part that is computed again, and a resumed run, draw the
        # same on every device.
        torch.manual_seed(int(seed.generate_state(1, np.uint32)[0]))
        with self._runtime.autocast():
            return forward_points(self._model, batch, self._next_token_questions, scored)

    @property
    def _next_token_questions(self) -> int:
        return self._config.next_token_questions if self._config.next_token_weight > 0 else 0

    def _part(self, batch: PairBatch, points: range) -> PairBatch:
        return part_of(batch, points, self._model.pad_id).to(self._runtime.device)

    def _token_share(self, batch: PairBatch, points: range) -> float:
        """Share of the batch's answer tokens that these points hold: the loss is a mean over tokens."""
        counts = (batch.answer_ids[:, : self._next_token_questions] != self._model.pad_id).sum(dim=(1, 2))
        return float(counts[points.start : points.stop].sum()) / max(1.0, float(counts.sum()))

    def _contrastive(self, anchor: Tensor, answer: Tensor, batch: PairBatch, masked: bool) -> Tensor:
        config = self._config
        users = batch.users.repeat_interleave(batch.question_ids.shape[1])
        never = same_user_or_answer(users, batch.answer_ids.flatten(0, 1)).to(anchor.device)
        margin = config.margin if masked else NO_MARGIN
        pairs = zip(at_widths(anchor, config.widths), at_widths(answer, config.widths), strict=True)
        losses = [contrastive_loss(*pair, config.temperature, margin, never, config.form) for pair in pairs]
        return torch.stack(losses).mean()

    def _summary(self, anchor: Tensor, summaries: Tensor) -> Tensor:
        """The summary loss, averaged over the nested widths; each reads with the reader's first columns."""
        narrowed = at_widths(anchor, self._config.widths)
        return torch.stack([summary_loss(self._reader(some), summaries) for some in narrowed]).mean()
