"""Judging a module: BatchNorm recalibration, predictions, and parity between two sets of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from edgenas.nets.module import BN_MOMENTUM, NetworkModule

BATCH = 250


def recalibrate(module: NetworkModule, images: Tensor) -> None:
    """Set the BatchNorm statistics to those of `images`: a subnet that was cut out of shared weights has none of its own
    (Yu & Huang, Universally Slimmable Networks, ICCV 2019)."""
    module.train()
    with torch.no_grad():
        for count, batch in enumerate(images.split(BATCH)):
            for layer in module.bn_layers():
                layer.momentum = 1 / (count + 1)  # a cumulative mean
            module(batch)
    for layer in module.bn_layers():
        layer.momentum = BN_MOMENTUM
    module.eval()


def predict(module: NetworkModule, images: Tensor) -> Tensor:
    """Predicted classes (N,)."""
    return logits(module, images).argmax(1)


def logits(module: NetworkModule, images: Tensor) -> Tensor:
    """(N, classes)."""
    module.eval()
    with torch.no_grad():
        return torch.cat([module(batch) for batch in images.split(BATCH)])
