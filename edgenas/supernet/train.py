"""Training one set of shared weights so that any subnet cut out of it works.

Every step runs the largest subnet on the labels, then random ones and the smallest on the labels and the largest one's predictions: the
sandwich rule with in-place distillation (Yu & Huang, ICCV 2019; BigNAS, Yu et al., ECCV 2020). Subnets also follow the largest one's
features at the end of each stage (block-wise supervision as in DNA, Li et al., CVPR 2020): with several block types a stage,
whatever comes next then meets the same representation, and few epochs are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgenas.data import Dataset
from edgenas.nets.feed import TrainingFeed, resized
from edgenas.nets.module import Layers
from edgenas.nets.training import (
    Optimiser,
    Recipe,
    channels_last,
    load_checkpoint,
    mixed_precision,
    save_checkpoint,
    soft_cross_entropy,
)
from edgenas.network.graph import Network
from edgenas.spaces.space import SearchSpace, Subnet

RANDOM_SUBNETS = 4
FEATURE_WEIGHT = 2.0


def new_supernet(space: SearchSpace, seed: int) -> Layers:
    torch.manual_seed(seed)
    return channels_last(Layers(space.layer_shapes()))


def train_supernet(
    supernet: Layers,
    space: SearchSpace,
    sample: Callable[[np.random.Generator], Subnet],
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    checkpoint: Path,
    *,
    sandwich: bool = True,
    on_epoch: Callable[[int, int, float], None] = lambda done, total, loss: None,
    on_step: Callable[[float], None] = lambda epochs: None,
) -> Layers:
    """Trains `supernet` in place on the subnets that `sample` draws (with `sandwich` the smallest ones as well), and returns it.

    Saves to `checkpoint` after every epoch and goes on from there if it exists. `on_epoch` gets (epochs done, epochs in all, the
    largest subnet's mean loss).
    """
    feed = TrainingFeed(dataset, recipe.batch_size, seed)
    optimiser = Optimiser(supernet, recipe, feed.steps)
    start = load_checkpoint(checkpoint, supernet, optimiser)
    largest = space.network(space.largest())
    smallest = [space.network(subnet) for subnet in space.smallest()] if sandwich else []
    supernet.train()
    for epoch in range(start, recipe.epochs):
        rng = np.random.default_rng((seed, epoch))
        total = 0.0
        for step, (images, labels) in enumerate(feed.epoch(epoch)):
            with mixed_precision():
                teacher = supernet.tensors(largest, images)
            logits = teacher[largest.output_name].float()
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            loss.backward()
            total += loss.item()
            wanted = [logits.detach(), *(teacher[name].detach().float() for name in stage_ends(space, largest))]
            networks = [space.network(sample(rng)) for _ in range(RANDOM_SUBNETS)]
            if smallest:
                networks.append(smallest[step % len(smallest)])
            half = len(images) // 2
            for i, network in enumerate(networks):
                part = slice(0, half) if i % 2 else slice(half, None)
                _distil(supernet, space, network, images[part], labels[part], [w[part] for w in wanted])
            optimiser.step(epoch, step)
            on_step(epoch + (step + 1) / feed.steps)
        # told before it is saved: killed in between, the epoch is trained and told again
        on_epoch(epoch + 1, recipe.epochs, total / feed.steps)
        save_checkpoint(checkpoint, supernet, optimiser, epoch + 1)
    return supernet


def stage_ends(space: SearchSpace, network: Network) -> list[str]:
    """The last tensor of every segment but the head."""
    return [names[-1] for names in space.segment_members(network)[:-1]]


def _distil(
    supernet: Layers, space: SearchSpace, network: Network, images: Tensor, labels: Tensor, wanted: list[Tensor]
) -> None:
    """Gradients that pull a subnet's logits, and its features at the end of each stage, towards the largest subnet's."""
    px = network.input_shape[2]
    with mixed_precision():
        tensors = supernet.tensors(network, images if px == images.shape[2] else resized(images, px))
    logits = tensors[network.output_name].float()
    loss = 0.5 * soft_cross_entropy(logits, wanted[0]) + 0.5 * F.cross_entropy(logits, labels)
    features = [tensors[name].float() for name in stage_ends(space, network)]
    for feature, target in zip(features, wanted[1:], strict=True):
        loss = loss + FEATURE_WEIGHT / len(features) * feature_loss(feature, target)
    (0.5 * loss).backward()  # each of these subnets sees half of the batch


def feature_loss(feature: Tensor, target: Tensor) -> Tensor:
    """Relative squared distance of (N, C, H, W) from the leading C channels of the target, at the coarser of their resolutions."""
    target = target[:, : feature.shape[1]]
    side = min(feature.shape[2], target.shape[2])
    feature, target = (x if x.shape[2] == side else F.adaptive_avg_pool2d(x, side) for x in (feature, target))
    return F.mse_loss(feature, target) / target.square().mean().clamp_min(1e-6)
