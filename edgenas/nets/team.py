"""Processes that train one network together: each takes its share of every batch, and gradients are summed once a step.

They talk through torch.distributed's gloo. What the first one tells the others travels pickled, as torchrun's own messages do:
between processes that one user started to run this code, and never through a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgenas.errors import EdgenasError

ValueT = TypeVar("ValueT")
AGAIN = "Run the same command again: training goes on from its last finished epoch."


class WorkerLost(EdgenasError):
    """Another process of the team can't be reached any more."""


@dataclass(frozen=True)
class Team:
    """This process is number `rank` of `size`. `group` is the torch.distributed group to sum in; None is the default one."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch (N, ...): every `size`-th, so that a half of its share is a share of that half."""
        return batch[self.rank :: self.size]

    def told(self, value: ValueT) -> ValueT:
        """The first process's `value`, in all of them; waits for it as long as the default group does."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        with _lost_if_it_fails():
            dist.broadcast_object_list(box, src=0)
        told: ValueT = box[0]
        return told

    def sum_gradients(self, parameters: Iterable[nn.Parameter], weight: float, loss: float) -> float:
        """Make the gradients the `weight`ed sum of all processes', and return the same of `loss`, in one message.

        The same parameters have to have gradients in all of them.
        """
        if self.size == 1:
            return weight * loss
        gradients = [p.grad for p in parameters if p.grad is not None]
        total = torch.tensor([loss])
        self._sum([*gradients, total], weight)
        return float(total)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Make each tensor the mean of all processes', in place."""
        if self.size > 1:
            self._sum(list(tensors), 1 / self.size)

    def _sum(self, tensors: list[Tensor], weight: float) -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors]) * weight
        with _lost_if_it_fails():
            dist.all_reduce(flat, group=self.group)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))


ALONE = Team()


@contextmanager
def _lost_if_it_fails() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo: a closed connection, or none of its messages in time
        raise WorkerLost("another process of this training can't be reached any more", AGAIN) from error
