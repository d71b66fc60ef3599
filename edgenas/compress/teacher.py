"""The network that others are distilled from, and what it said to each batch.

Networks that are trained with the same seed see the same images in the same order, so the second one and all after it find the answers
waiting: training several finalists costs the teacher's work once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgenas.nets.feed import resized
from edgenas.nets.module import NetworkModule
from edgenas.nets.training import channels_last, mixed_precision

Asked = tuple[int, int, int, int]  # seed, images a batch, epoch, step: which batch of a TrainingFeed it is
REMEMBERED_BYTES = 256 * 2**20


class Teacher:
    """Of one dataset. `answers` may be known from before; they are as the network gave them, to the last bit."""

    def __init__(self, network: NetworkModule, answers: dict[Asked, Tensor] | None = None) -> None:
        self.network = channels_last(network).eval()
        self.answers = {} if answers is None else answers

    def logits(self, images: Tensor, asked: Asked) -> Tensor:
        """(N, classes) of (N, C, H, W), in float32."""
        if asked in self.answers:
            return self.answers[asked].float()
        px = self.network.network.input_shape[2]
        with torch.no_grad(), mixed_precision():
            answer: Tensor = self.network(images if px == images.shape[2] else resized(images, px))
        if len(self.answers) * answer.nbytes < REMEMBERED_BYTES:
            self.answers[asked] = answer
        return answer.float()
