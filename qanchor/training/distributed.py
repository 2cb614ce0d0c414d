"""Several processes that train one model, as torchrun starts them.

Every process builds the same batch and works on its share of it. They exchange little: the vectors of the
batch, and the sum of the gradients.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from qanchor.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run.

    Args:
        rank: from 0 to count - 1; the first process writes files and shows progress.
        count: number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, points: int) -> range:
        """The points of a batch that this process works on.

        Raises:
            InputError: there are fewer points than processes.
        """
        if points < self.count:
            raise InputError(
                f"a batch of {points} points cannot be shared among {self.count} processes",
                "Give more --points, or start fewer processes.",
            )
        return range(points * self.rank // self.count, points * (self.rank + 1) // self.count)

    def joined(self, rows: Tensor, start: int, total: int) -> Tensor:
        """All processes' rows, [total, ...], without a gradient.

        Args:
            rows: rows of this process, [rows, ...].
            start: index of the first of them among all rows.
            total: number of all rows.
        """
        if self.count == 1:
            return rows.detach()
        result = rows.new_zeros(total, *rows.shape[1:])
        result[start : start + len(rows)] = rows.detach()
        return self.summed(result)

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(self, weights: Sequence[Tensor]) -> None:
        """Set every weight's gradient to the sum over all processes; None where no process has one."""
        if self.count == 1:
            return
        has = torch.tensor([float(weight.grad is not None) for weight in weights], device=weights[0].device)
        flat = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        joint = self.summed(torch.cat([*(part.flatten() for part in flat), has]))
        parts = torch.split(joint[: -len(weights)], [weight.numel() for weight in weights])
        for weight, part, holders in zip(weights, parts, joint[-len(weights) :].tolist(), strict=True):
            weight.grad = part.view_as(weight).clone() if holders else None

    def any(self, claim: bool) -> bool:
        """Whether the claim holds in some process."""
        return claim if self.count == 1 else bool(self.summed(self._number(float(claim))).item() > 0)

    def first(self, number: int) -> int:
        """The first process's number."""
        return number if self.count == 1 else int(self.summed(self._number(number * self.is_first)).item())

    def same_start(self, weights: Sequence[Tensor]) -> None:
        """Copy the first process's weights to all: on different devices they may begin a little different."""
        if self.count > 1:
            for weight in weights:
                distributed.broadcast(weight.detach(), 0)

    def _number(self, value: float) -> Tensor:
        on_gpu = distributed.get_backend() == "nccl"
        return torch.tensor(value, dtype=torch.float64, device="cuda" if on_gpu else "cpu")


@contextmanager
def join_ranks(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """This process's rank among those that torchrun started, and its device; rank 0 of 1 without torchrun.

    Args:
        device: the requested device; of several GPUs each process of a machine takes another one.
    """
    if not distributed.is_torchelastic_launched():
        yield Ranks(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", distributed.get_node_local_rank() % torch.cuda.device_count())
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()
