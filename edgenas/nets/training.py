"""What training a supernet and fine-tuning a subnet share: the optimiser, its schedule, mixed precision, and checkpoints."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgenas.data import Dataset
from edgenas.nets.average import WeightAverage
from edgenas.nets.recipe import Recipe
from edgenas.store import write_bytes

MAX_GRADIENT_NORM = 10.0
MOMENTUM, LATEST = "momentum:", "latest:"  # what names of a checkpoint's tensors begin with
ModuleT = TypeVar("ModuleT", bound=nn.Module)


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


def log_priors(dataset: Dataset) -> Tensor:
    """(classes,), for a training's loss to add to the logits: the logarithm of each class's share of the training images where these
    are unbalanced, else 0. A network that learned with them is best without them where every class counts the same (logit adjustment,
    Menon et al., ICLR 2021): on six classes of satellite images, the largest eight times the smallest, a network came to 82.7 %
    balanced accuracy on validation images in INT8, and to 80.7 % without; on test images to 75.1 and 71.4 %."""
    count = len(dataset.labels)
    if not dataset.unbalanced:
        return torch.zeros(count)
    images = torch.from_numpy(dataset.train.labels).long().bincount(minlength=count).clamp(min=1)
    return (images / images.sum()).log()


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


def save_checkpoint(
    path: Path, module: nn.Module, optimiser: Optimiser | None, epoch: int, average: WeightAverage | None = None
) -> None:
    """safetensors: the module's tensors, momenta under `momentum:`, and the number of finished epochs as metadata. Where there is an
    average, its tensors have the module's names, and those that training goes on with are under `latest:`."""
    from safetensors.torch import save

    tensors = module.state_dict()
    if average is not None:
        tensors = {LATEST + name: tensor for name, tensor in tensors.items()} | average.tensors
    if optimiser is not None:
        tensors = tensors | {MOMENTUM + name: tensor for name, tensor in optimiser.momenta().items()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(tensors, metadata={"epoch": json.dumps(epoch)}))


def load_checkpoint(
    path: Path, module: nn.Module, optimiser: Optimiser | None = None, average: WeightAverage | None = None
) -> int:
    """Fill `module` (and `optimiser`, `average`); returns the number of finished epochs, 0 if there is no file. Without `average` the
    module gets the average, where there is one."""
    from safetensors import safe_open

    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        epoch: int = json.loads(file.metadata()["epoch"])

    def named(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    state = {name: t for name, t in tensors.items() if not name.startswith((MOMENTUM, LATEST))}
    # the layout in memory steers which convolution runs: without it a resumed run would differ in the last bits
    module.load_state_dict(state if average is None else named(LATEST))
    if average is not None:
        average.load(state)
    if optimiser is not None:
        optimiser.set_momenta(
            {
                k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v
                for k, v in named(MOMENTUM).items()
            }
        )
    return epoch
