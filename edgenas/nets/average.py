"""The average of a network's weights over the steps of its training: flatter than the last ones, and often more accurate.

An exponential moving average (Polyak & Juditsky, SIAM J. Control Optim. 1992) of parameters and BatchNorm statistics alike. It starts
with a short memory, so that the first, random weights don't stay in it for long.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgenas.nets.recipe import Recipe


class WeightAverage:
    """Of `module`, whose tensors it reads after each step and changes only when asked to `give`."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.tensors: dict[str, Tensor] = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def update(self, step: int) -> None:
        """`step` counts from 0 over the whole training."""
        decay = min(self.decay, (1 + step) / (10 + step))
        latest = self.module.state_dict()
        for name, mean in self.tensors.items():
            mean.lerp_(latest[name], 1 - decay)

    def load(self, tensors: dict[str, Tensor]) -> None:
        for name, mean in self.tensors.items():
            mean.copy_(tensors[name])

    def give(self) -> None:
        """Make the average the module's weights, in place."""
        for name, tensor in self.module.state_dict().items():
            tensor.copy_(self.tensors[name])


def average_of(module: nn.Module, recipe: Recipe) -> WeightAverage | None:
    return None if recipe.ema is None else WeightAverage(module, recipe.ema)
