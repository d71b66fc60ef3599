"""Training one set of shared weights so that any subnet cut out of it works.

Every step runs the largest subnet on the labels, then random ones and the smallest on the labels and the largest one's predictions: the
sandwich rule with in-place distillation (Yu & Huang, ICCV 2019; BigNAS, Yu et al., ECCV 2020). Subnets also follow the largest one's
features at the end of each stage (block-wise supervision as in DNA, Li et al., CVPR 2020): with several block types a stage,
whatever comes next then meets the same representation, and few epochs are enough.

With `shrinking` the largest subnet is trained alone at first (a step then costs a third), its channels are sorted by importance, and
the others join from the largest down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgenas.data import Dataset
from edgenas.errors import InputError
from edgenas.nets.average import average_of
from edgenas.nets.channel_sorting import hidden_channels, importance_order, sort_channels
from edgenas.nets.feed import TrainingFeed, resized
from edgenas.nets.module import Layers
from edgenas.nets.recipe import Recipe
from edgenas.nets.team import ALONE, Team
from edgenas.nets.training import (
    Optimiser,
    channels_last,
    load_checkpoint,
    log_priors,
    mixed_precision,
    save_checkpoint,
    soft_cross_entropy,
)
from edgenas.network.graph import Network
from edgenas.spaces.space import SearchSpace, Subnet
from edgenas.supernet.shrinking import is_released, largest_first, share_at

RANDOM_SUBNETS = 4
LOOKED_AT = 100  # random subnets, which tell what channels are hidden in a block
FEATURE_WEIGHT = 2.0
LEAST_IMAGES = 8  # of a batch in each process: BatchNorm needs some in each half


def new_supernet(space: SearchSpace, seed: int, *, transforms: bool = True) -> Layers:
    torch.manual_seed(seed)
    return channels_last(Layers(space.layer_shapes(), transforms=transforms))


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
    shrinking: bool = False,
    on_epoch: Callable[[int, int, float], None] = lambda done, total, loss: None,
    on_step: Callable[[float], None] = lambda epochs: None,
    team: Team = ALONE,
) -> Layers:
    """Trains `supernet` in place on the subnets that `sample` draws (with `sandwich` the smallest ones as well; with `shrinking` the
    larger ones first), and returns it, with the average of its weights where the recipe asks for that.

    Saves to `checkpoint` after every epoch and goes on from there if it exists. `on_epoch` gets (epochs done, epochs in all, the
    largest subnet's mean loss). Called by the first process of the `team`; the others are told to take part, by
    edgenas.supernet.worker. Raises InputError if a batch has too few images for all of them.
    """
    training = _Training(supernet, space, dataset, recipe, seed, sandwich, shrinking)
    if training.feed.batch_size < team.size * LEAST_IMAGES:
        raise InputError(
            f"a batch of {training.feed.batch_size} images is too small for {team.size} processes to share",
            f"Each needs {LEAST_IMAGES}: use fewer processes.",
        )
    start = load_checkpoint(checkpoint, supernet, training.optimiser, training.average)
    momenta = training.optimiser.momenta()
    none = dataset.train.at(np.arange(0))
    images = replace(dataset, validation=none, calibration=none, test=none)
    team.told(partial(_take_part, supernet, space, images, recipe, seed, sandwich, shrinking, momenta, start))
    growing = largest_first(space, sample, seed) if shrinking else None
    for epoch in range(start, recipe.epochs):
        rng = np.random.default_rng((seed, epoch))
        drawn = team.told(
            [
                [sample(rng) for _ in range(RANDOM_SUBNETS)]
                if growing is None
                else growing.draw(rng, RANDOM_SUBNETS, share_at(epoch, recipe.epochs))
                for _ in range(training.feed.steps)
            ]
        )
        loss = training.epoch(epoch, drawn, team, on_step)
        # told before it is saved: killed in between, the epoch is trained and told again
        on_epoch(epoch + 1, recipe.epochs, loss)
        save_checkpoint(checkpoint, supernet, training.optimiser, epoch + 1, training.average)
    if training.average is not None:
        training.average.give()
    return supernet


def _take_part(
    supernet: Layers,
    space: SearchSpace,
    dataset: Dataset,
    recipe: Recipe,
    seed: int,
    sandwich: bool,
    shrinking: bool,
    momenta: dict[str, Tensor],
    start: int,
    team: Team,
) -> None:
    """The same training in a process that isn't the first, which alone keeps the average."""
    training = _Training(supernet, space, dataset, replace(recipe, ema=None), seed, sandwich, shrinking)
    training.optimiser.set_momenta(momenta)
    for epoch in range(start, recipe.epochs):
        nothing: list[list[Subnet]] = []
        training.epoch(epoch, team.told(nothing), team)


class _Training:
    """Everything that stays the same from one epoch to the next, and one epoch."""

    def __init__(
        self,
        supernet: Layers,
        space: SearchSpace,
        dataset: Dataset,
        recipe: Recipe,
        seed: int,
        sandwich: bool,
        shrinking: bool,
    ) -> None:
        self.supernet, self.space, self.recipe = supernet.train(), space, recipe
        self.seed, self.shrinking = seed, shrinking
        self.priors = log_priors(dataset)
        self.feed = TrainingFeed(dataset, recipe.batch_size, seed)
        self.optimiser = Optimiser(supernet, recipe, self.feed.steps)
        self.average = average_of(supernet, recipe)
        self.largest = space.network(space.largest())
        self.smallest = [space.network(subnet) for subnet in space.smallest()] if sandwich else []

    def epoch(
        self, epoch: int, drawn: list[list[Subnet]], team: Team, on_step: Callable[[float], None] = lambda epochs: None
    ) -> float:
        """The largest subnet's mean loss; `drawn` are each step's random subnets. Where there are none, it is trained alone."""
        if self.shrinking and is_released(epoch, self.recipe.epochs):
            self._sort_channels()
        total = 0.0
        for step, (images, labels) in enumerate(self.feed.epoch(epoch)):
            networks = [self.space.network(subnet) for subnet in drawn[step]]
            if networks and self.smallest:
                networks.append(self.smallest[step % len(self.smallest)])
            share = team.share(labels)
            loss = self._gradients(team.share(images).contiguous(memory_format=torch.channels_last), share, networks)
            total += team.sum_gradients(self.supernet.parameters(), len(share) / len(labels), loss)
            self.optimiser.step(epoch, step)
            if self.average is not None:
                self.average.update(epoch * self.feed.steps + step)
            on_step(epoch + (step + 1) / self.feed.steps)
        team.average(self.supernet.buffers())  # each normalised by its own share of the batches
        return total / self.feed.steps

    def _sort_channels(self) -> None:
        """Those hidden in blocks, by importance, before narrower subnets have to do with the first of them."""
        rng = np.random.default_rng(self.seed)
        networks = [self.space.network(self.space.sample(rng)) for _ in range(LOOKED_AT)]
        averages = self.average.tensors if self.average else {}
        for hidden in hidden_channels([self.largest, *self.smallest, *networks]):
            order = importance_order(self.supernet, hidden)
            if order is not None:
                for tensors in (self.supernet.state_dict(), self.optimiser.momenta(), averages):
                    sort_channels(tensors, hidden, order)

    def _gradients(self, images: Tensor, labels: Tensor, networks: list[Network]) -> float:
        """Adds those of the largest subnet and of `networks`; returns the largest's loss."""
        space, supernet = self.space, self.supernet
        with mixed_precision():
            teacher = supernet.tensors(self.largest, images)
        logits = teacher[self.largest.output_name].float()
        loss = F.cross_entropy(logits + self.priors, labels, label_smoothing=self.recipe.label_smoothing)
        loss.backward()
        wanted = [logits.detach(), *(teacher[name].detach().float() for name in stage_ends(space, self.largest))]
        half = len(images) // 2
        for i, network in enumerate(networks):
            part = slice(0, half) if i % 2 else slice(half, None)
            _distil(supernet, space, network, images[part], labels[part], [w[part] for w in wanted], self.priors)
        return loss.item()


def stage_ends(space: SearchSpace, network: Network) -> list[str]:
    """The last tensor of every segment but the stem and the head; a segment without nodes passes on what it got.

    The stem is nearly the same layer in all subnets. Pulled towards itself as the largest subnet runs it, at another resolution and on
    other batches, most of its channels died: 9 to 12 of the first 16 after two epochs of Fashion-MNIST (three seeds), 3 or 4 after
    six of the sample, and there none without that pull (one seed).
    """
    ends: list[str] = []
    for names in space.segment_members(network)[:-1]:
        ends.append(names[-1] if names else ends[-1])
    return ends[1:]


def _distil(
    supernet: Layers,
    space: SearchSpace,
    network: Network,
    images: Tensor,
    labels: Tensor,
    wanted: list[Tensor],
    priors: Tensor,
) -> None:
    """Gradients that pull a subnet's logits, and its features at the end of each stage, towards the largest subnet's."""
    px = network.input_shape[2]
    with mixed_precision():
        tensors = supernet.tensors(network, images if px == images.shape[2] else resized(images, px))
    logits = tensors[network.output_name].float()
    loss = 0.5 * soft_cross_entropy(logits, wanted[0]) + 0.5 * F.cross_entropy(logits + priors, labels)
    features = [tensors[name].float() for name in stage_ends(space, network)]
    for feature, target in zip(features, wanted[1:], strict=True):
        loss = loss + FEATURE_WEIGHT / len(features) * feature_loss(feature, target)
    (0.5 * loss).backward()  # each of these subnets sees half of the batch


def feature_loss(feature: Tensor, target: Tensor) -> Tensor:
    """Relative squared distance of two (N, C, H, W) in the leading channels that both have, at the coarser of their resolutions."""
    channels = min(feature.shape[1], target.shape[1])
    feature, target = feature[:, :channels], target[:, :channels]
    side = min(feature.shape[2], target.shape[2])
    feature, target = (x if x.shape[2] == side else F.adaptive_avg_pool2d(x, side) for x in (feature, target))
    return F.mse_loss(feature, target) / target.square().mean().clamp_min(1e-6)
