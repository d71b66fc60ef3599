"""What training a supernet and fine-tuning a subnet share: the optimiser, its schedule, mixed precision, and checkpoints."""

from __future__ import annotations

import json
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgenas.store import write_bytes

MAX_GRADIENT_NORM = 10.0
ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum, linear warm-up and cosine decay to zero; no weight decay on BatchNorm and biases."""

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.1
    warmup_share: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05

    def rate_at(self, progress: float) -> float:
        """Learning rate after `progress` (0..1) of all steps."""
        if progress < self.warmup_share:
            return self.learning_rate * (progress / self.warmup_share)
        return (
            self.learning_rate
            * 0.5
            * (1 + math.cos(math.pi * (progress - self.warmup_share) / (1 - self.warmup_share)))
        )


class Optimiser:
    """torch's SGD on a recipe's schedule, with its state as plain tensors."""

    def __init__(self, module: nn.Module, recipe: Recipe, steps_per_epoch: int) -> None:
        self.recipe, self.steps_per_epoch = recipe, steps_per_epoch
        self.parameters = dict(module.named_parameters())
        decayed = [p for p in self.parameters.values() if p.ndim > 1]
        rest = [p for p in self.parameters.values() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self._sgd = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)

    def step(self, epoch: int, step: int) -> None:
        """Apply the gradients, at the rate for this step, and clear them."""
        progress = (epoch + step / self.steps_per_epoch) / self.recipe.epochs
        for group in self._sgd.param_groups:
            group["lr"] = self.recipe.rate_at(progress)
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), MAX_GRADIENT_NORM)
        self._sgd.step()
        self._sgd.zero_grad(set_to_none=True)

    def momenta(self) -> dict[str, Tensor]:
        found = {}
        for name, parameter in self.parameters.items():
            momentum = self._sgd.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                found[name] = momentum
        return found

    def set_momenta(self, momenta: dict[str, Tensor]) -> None:
        for name, momentum in momenta.items():
            self._sgd.state[self.parameters[name]] = {"momentum_buffer": momentum}


def soft_cross_entropy(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Distillation loss (Hinton et al. 2015): cross entropy against the teacher's softened distribution."""
    target = F.softmax(teacher_logits / temperature, dim=1)
    return -(target * F.log_softmax(logits / temperature, dim=1)).sum(1).mean() * temperature**2


def mixed_precision() -> AbstractContextManager[None]:
    """bfloat16 where the CPU multiplies it natively (1.6 times faster here), float32 elsewhere."""
    context: AbstractContextManager[None] = torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16())
    return context


def channels_last(module: ModuleT) -> ModuleT:
    """The module with its convolution weights in the layout that CPU convolutions are 1.6 times faster in; in place."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return module


def has_fast_bf16() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported())


def save_checkpoint(path: Path, module: nn.Module, optimiser: Optimiser | None, epoch: int) -> None:
    """safetensors: the module's tensors, momenta under `momentum:`, and the number of finished epochs as metadata."""
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    if optimiser is not None:
        tensors |= {f"momentum:{name}": tensor.contiguous() for name, tensor in optimiser.momenta().items()}
    write_bytes(path, save(tensors, metadata={"epoch": json.dumps(epoch)}))


def load_checkpoint(path: Path, module: nn.Module, optimiser: Optimiser | None = None) -> int:
    """Fill `module` (and `optimiser`); returns the number of finished epochs, 0 if there is no file."""
    from safetensors import safe_open

    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        epoch: int = json.loads(file.metadata()["epoch"])
    momenta = {name.removeprefix("momentum:"): t for name, t in tensors.items() if name.startswith("momentum:")}
    state = {name: t for name, t in tensors.items() if not name.startswith("momentum:")}
    # the layout in memory steers which convolution runs: without it a resumed run would differ in the last bits
    module.load_state_dict(state)
    if optimiser is not None:
        optimiser.set_momenta(
            {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in momenta.items()}
        )
    return epoch
