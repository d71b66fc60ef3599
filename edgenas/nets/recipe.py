"""How a network is trained, as settings alone: what a build is asked for is known without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum, linear warm-up and cosine decay to zero; no weight decay on BatchNorm and biases. `ema`: a step
    keeps this share of the average of all weights so far (0 to 1), and that average is the result; None: the last weights are.
    `teacher_share` of the loss follows the teacher where there is one, the rest the labels; at 0 it isn't asked."""

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    warmup_share: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    ema: float | None = None
    teacher_share: float = 0.4

    def rate_at(self, progress: float) -> float:
        """Learning rate after `progress` (0..1) of all steps."""
        if progress < self.warmup_share:
            return self.learning_rate * (progress / self.warmup_share)
        return (
            self.learning_rate
            * 0.5
            * (1 + math.cos(math.pi * (progress - self.warmup_share) / (1 - self.warmup_share)))
        )
